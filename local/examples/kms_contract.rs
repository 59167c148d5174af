//! What this project relies on KMS for, asked of the embedded KMS and of another one:
//! `cargo run --example kms_contract -- http://127.0.0.1:<port of moto_server>`.
//!
//! Prints one line per promise with what AWS documents and what each of the two does. Ends with a
//! failure when the embedded one differs from AWS, or the other in a way that is not listed here.

use std::{collections::HashMap, io::Write, process::ExitCode};

use aws_sdk_kms::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
};
use embedded::Embedded;

type Error = Box<dyn std::error::Error>;
type Outcome = &'static str;

const INVALID: Outcome = "InvalidCiphertextException";
const INCORRECT: Outcome = "IncorrectKeyException";
const DISABLED: Outcome = "DisabledException";
const MISSING: Outcome = "NotFoundException";
const VALIDATION: Outcome = "ValidationException";
const YES: Outcome = "yes";

/// Where moto differs from AWS. A test that needs one of these runs on the embedded KMS.
const MOTO_DIFFERS: &[(&str, &str)] = &[
    ("opens not under another KMS key", "AccessDeniedException"),
    ("and not under the old one", "AccessDeniedException"),
    ("moves not from another KMS key", YES),
    ("a disabled key opens nothing", YES),
    ("a disabled key seals nothing", YES),
    ("nothing moves from a disabled key", YES),
    ("nothing moves to a disabled key", YES),
];

/// KMS' code, or that it did as asked.
fn code<T, E: ProvideErrorMetadata>(answer: Result<T, SdkError<E>>) -> String {
    match answer {
        Ok(_) => YES.to_owned(),
        Err(error) => {
            let service = error.as_service_error();
            let code = service.and_then(ProvideErrorMetadata::code);
            code.unwrap_or("no answer").to_owned()
        }
    }
}

fn said(is: bool) -> String {
    if is { YES } else { "no" }.to_owned()
}

struct Kms {
    client: Client,
    old: String,
    new: String,
}

fn context(user: &str) -> HashMap<String, String> {
    [
        ("purpose", "user-api-key"),
        ("user_id", user),
        ("provider", "gemini"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

impl Kms {
    async fn seal(&self, key: &str, plaintext: &[u8]) -> Result<Blob, Error> {
        let encrypt = self.client.encrypt().key_id(key);
        let encrypt = encrypt.plaintext(Blob::new(plaintext));
        let answer = encrypt.set_encryption_context(Some(context("a"))).send();
        Ok(answer.await?.ciphertext_blob.ok_or("no ciphertext")?)
    }

    async fn open(&self, key: &str, sealed: &Blob, of: HashMap<String, String>) -> String {
        let decrypt = self.client.decrypt().key_id(key);
        let decrypt = decrypt.ciphertext_blob(sealed.clone());
        code(decrypt.set_encryption_context(Some(of)).send().await)
    }

    async fn moves(&self, sealed: &Blob, from: &str, of: &str, to: &str) -> String {
        let answer = self
            .client
            .re_encrypt()
            .ciphertext_blob(sealed.clone())
            .source_key_id(from)
            .set_source_encryption_context(Some(context(of)))
            .destination_key_id(to)
            .set_destination_encryption_context(Some(context("a")));
        code(answer.send().await)
    }

    async fn seals(&self, key: &str, plaintext: usize) -> String {
        let encrypt = self.client.encrypt().key_id(key);
        let encrypt = encrypt.plaintext(Blob::new(vec![b'x'; plaintext]));
        code(encrypt.send().await)
    }

    async fn enable(&self, key: &str, enabled: bool) -> Result<(), Error> {
        // By its bare id: moto answers 500 to an ARN here.
        let id = key.rsplit('/').next().unwrap_or_default();
        match enabled {
            true => drop(self.client.enable_key().key_id(id).send().await?),
            false => drop(self.client.disable_key().key_id(id).send().await?),
        }
        Ok(())
    }

    /// Every promise: its words, what AWS does, what was seen.
    async fn contract(&self) -> Result<Vec<(&'static str, Outcome, String)>, Error> {
        let (old, new) = (self.old.as_str(), self.new.as_str());
        let nowhere = old.replace(|c: char| c.is_ascii_hexdigit() && c != '0', "0");
        let mut seen = Vec::new();
        let mut says = |words, aws, seen_now: String| seen.push((words, aws, seen_now));
        let sealed = self.seal(old, b"a-key").await?;
        let mut flipped = sealed.clone().into_inner();
        if let Some(last) = flipped.last_mut() {
            *last ^= 1;
        }
        let mut more = context("a");
        more.insert("more".to_owned(), "1".to_owned());

        let encrypt = self.client.encrypt().plaintext(Blob::new("x"));
        let answer = encrypt
            .key_id(old.rsplit('/').next().unwrap_or_default())
            .send()
            .await?;
        says(
            "Encrypt by id answers with the ARN",
            YES,
            said(answer.key_id() == Some(old)),
        );
        let twice = self.seal(old, b"a-key").await?;
        says(
            "the same plaintext twice is two ciphertexts",
            YES,
            said(twice != sealed),
        );
        says(
            "opens with its context",
            YES,
            self.open(old, &sealed, context("a")).await,
        );
        says(
            "opens not with another context",
            INVALID,
            self.open(old, &sealed, context("b")).await,
        );
        says(
            "opens not without its context",
            INVALID,
            self.open(old, &sealed, HashMap::new()).await,
        );
        says(
            "opens not with one pair more",
            INVALID,
            self.open(old, &sealed, more).await,
        );
        says(
            "opens not under another KMS key",
            INCORRECT,
            self.open(new, &sealed, context("a")).await,
        );
        says(
            "opens not with a bit flipped",
            INVALID,
            self.open(old, &Blob::new(flipped), context("a")).await,
        );
        says(
            "opens not when it is no ciphertext",
            INVALID,
            self.open(old, &Blob::new("x"), context("a")).await,
        );
        says("seals 4,096 bytes", YES, self.seals(old, 4_096).await);
        says(
            "seals no more than that",
            VALIDATION,
            self.seals(old, 4_097).await,
        );
        says("seals not nothing", VALIDATION, self.seals(old, 0).await);
        says(
            "seals not under a key that is not there",
            MISSING,
            self.seals(&nowhere, 1).await,
        );

        says(
            "moves to another KMS key",
            YES,
            self.moves(&sealed, old, "a", new).await,
        );
        let answer = self
            .client
            .re_encrypt()
            .ciphertext_blob(sealed.clone())
            .source_key_id(old)
            .set_source_encryption_context(Some(context("a")))
            .destination_key_id(new)
            .set_destination_encryption_context(Some(context("a")))
            .send()
            .await?;
        let arns = (answer.source_key_id(), answer.key_id()) == (Some(old), Some(new));
        says("a move answers with both ARNs", YES, said(arns));
        let moved = answer.ciphertext_blob.ok_or("no ciphertext")?;
        says(
            "what was moved opens under the new one",
            YES,
            self.open(new, &moved, context("a")).await,
        );
        says(
            "and not under the old one",
            INCORRECT,
            self.open(old, &moved, context("a")).await,
        );
        says(
            "and keeps its context",
            INVALID,
            self.open(new, &moved, context("b")).await,
        );
        says(
            "what it was moved from opens still",
            YES,
            self.open(old, &sealed, context("a")).await,
        );
        says(
            "moves not with another context",
            INVALID,
            self.moves(&sealed, old, "b", new).await,
        );
        says(
            "moves not from another KMS key",
            INCORRECT,
            self.moves(&sealed, new, "a", new).await,
        );
        says(
            "moves not to a key that is not there",
            MISSING,
            self.moves(&sealed, old, "a", &nowhere).await,
        );

        self.enable(old, false).await?;
        says(
            "a disabled key opens nothing",
            DISABLED,
            self.open(old, &sealed, context("a")).await,
        );
        says(
            "a disabled key seals nothing",
            DISABLED,
            self.seals(old, 1).await,
        );
        says(
            "nothing moves from a disabled key",
            DISABLED,
            self.moves(&sealed, old, "a", new).await,
        );
        says(
            "nothing moves to a disabled key",
            DISABLED,
            self.moves(&moved, new, "a", old).await,
        );
        self.enable(old, true).await?;
        says(
            "an enabled key opens again",
            YES,
            self.open(old, &sealed, context("a")).await,
        );
        Ok(seen)
    }
}

async fn moto(address: String) -> Result<Kms, Error> {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(address)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"));
    let client = Client::from_conf(config.build());
    let mut arns = Vec::new();
    for _ in 0..2 {
        let made = client.create_key().send().await?.key_metadata;
        arns.push(made.and_then(|key| key.arn).ok_or("no ARN")?);
    }
    let (new, old) = (arns.remove(1), arns.remove(0));
    Ok(Kms { client, old, new })
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let address = std::env::args().nth(1).ok_or("name the address of a KMS")?;
    let mut services = Embedded::in_memory().await?;
    let old = services.kms_key_arn.clone();
    services.new_kms_key()?;
    let embedded = Kms {
        client: services.kms.clone(),
        new: services.kms_key_arn.clone(),
        old,
    };
    let embedded = embedded.contract().await?;
    let moto = moto(address).await?.contract().await?;
    let mut out = std::io::stdout().lock();
    let mut wrong = 0;
    writeln!(
        out,
        "| promise | AWS | embedded | moto |\n|---|---|---|---|"
    )?;
    for ((words, aws, ours), (_, _, theirs)) in embedded.iter().zip(&moto) {
        let listed = MOTO_DIFFERS.iter().find(|(promise, _)| promise == words);
        let expected = listed.map_or(*aws, |(_, differs)| differs);
        wrong += usize::from(ours != aws) + usize::from(theirs != expected);
        let same = |seen: &String| {
            if seen == aws {
                "=".to_owned()
            } else {
                seen.clone()
            }
        };
        writeln!(
            out,
            "| {words} | {aws} | {} | {} |",
            same(ours),
            same(theirs)
        )?;
    }
    match wrong {
        0 => Ok(ExitCode::SUCCESS),
        _ => Err(format!("{wrong} differences that are not listed").into()),
    }
}
