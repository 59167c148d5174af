//! Somebody who writes the table: rows moved, cut, changed bit by bit, sealed by somebody else. None opens
//! to anything but its owner's key, each refusal rings, and nothing falls over.

use std::{collections::HashMap, path::Path};

use aws_sdk_dynamodb::{
    config::{BehaviorVersion, Credentials, Region},
    primitives::Blob,
    types::AttributeValue,
};
use embedded::Embedded;
use serde_json::{Value, json};

use super::{INVOKE, Place, key, open_gemini, times, unlimited};
use crate::harness::{PERSON, Server, clerk, command, start};

const OTHER: &str = "user_bbbbbbbb2";
const TABLE: &str = "user-api-keys";

type Item = HashMap<String, AttributeValue>;

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn b(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// The first of two free ports in a row, below those that the system gives away by itself.
fn free_ports() -> u16 {
    loop {
        let first = fastrand::u16(20_000..32_000);
        let ports = first..first + 2;
        let listening = ports.map(|port| std::net::TcpListener::bind(("127.0.0.1", port)));
        if listening.collect::<Result<Vec<_>, _>>().is_ok() {
            return first;
        }
    }
}

/// A server, and its table and KMS for somebody who should not have them.
struct Stage {
    server: Server,
    dynamodb: aws_sdk_dynamodb::Client,
    kms: aws_sdk_kms::Client,
    tried: usize,
    wrong: Vec<String>,
}

impl Stage {
    fn start(folder: &Path) -> Self {
        let port = free_ports();
        let sam = port.to_string();
        let args = [
            "--port",
            "0",
            "--production",
            "--stand-in",
            "--sam",
            "127.0.0.1",
            "--sam-port",
            &sam,
        ];
        let server = start(clerk(unlimited(&mut command(folder, &args))));
        let settings = std::fs::read(folder.join(".local/sam-env.json")).unwrap();
        let settings: Value = serde_json::from_slice(&settings).unwrap();
        let id = settings["Parameters"]["AWS_ACCESS_KEY_ID"]
            .as_str()
            .unwrap();
        let credentials = || Credentials::new(id, "x", None, None, "test");
        let dynamodb = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .credentials_provider(credentials());
        let kms = aws_sdk_kms::Config::builder()
            .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(format!("http://127.0.0.1:{port}"))
            .credentials_provider(credentials());
        Self {
            server,
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb.build()),
            kms: aws_sdk_kms::Client::from_conf(kms.build()),
            tried: 0,
            wrong: Vec::new(),
        }
    }

    async fn row(&self, user: &str, provider: &str) -> Item {
        let get = self.dynamodb.get_item().table_name(TABLE);
        let get = get
            .key("pk", s(&format!("USER#{user}")))
            .key("sk", s(&format!("KEY#{provider}")));
        get.consistent_read(true)
            .send()
            .await
            .unwrap()
            .item
            .unwrap()
    }

    async fn put(&self, item: Item) -> bool {
        let put = self
            .dynamodb
            .put_item()
            .table_name(TABLE)
            .set_item(Some(item));
        put.send().await.is_ok()
    }

    async fn open(&self) -> Value {
        let event = open_gemini(PERSON);
        self.server.call("POST", INVOKE, None, Some(event)).await.1
    }

    /// Puts `item` in the place of the person's key, which is `own`, and uses it.
    async fn refuses(&mut self, what: &str, item: Item, own: &str, must: bool) {
        // What DynamoDB itself refuses gets nowhere.
        if !self.put(item).await {
            return;
        }
        self.tried += 1;
        let opened = self.open().await;
        let prompt = json!({"prompt": "Hello"});
        let (status, answer) = self
            .server
            .call("POST", "/api/generate", Some(PERSON), Some(prompt))
            .await;
        let got = opened["keys"]["gemini"]["api_key"].as_str();
        let right = match got {
            Some(got) => !must && got == own && status == 200,
            None if must => {
                opened["errorType"] == "internal" && status == 500 && answer["code"] == "internal"
            }
            // Paused, expired or marked: the person's own to mend.
            None => status == 500 || status == 409 || status == 422,
        };
        if !right {
            self.wrong
                .push(format!("{what}: {opened} · {status} {answer}"));
        }
    }
}

fn context(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn seal(
    kms: &aws_sdk_kms::Client,
    arn: &str,
    pairs: &[(&str, &str)],
    text: &[u8],
) -> AttributeValue {
    let encrypt = kms.encrypt().key_id(arn).plaintext(Blob::new(text));
    let sealed = encrypt
        .set_encryption_context(Some(context(pairs)))
        .send()
        .await;
    b(sealed.unwrap().ciphertext_blob.unwrap().as_ref())
}

/// What a function seals: a version, then parts, each after its length in two bytes.
fn inside(version: u8, parts: [&[u8]; 5]) -> Vec<u8> {
    let mut bytes = vec![version];
    for part in parts {
        bytes.extend(u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part);
    }
    bytes
}

fn with(row: &Item, changes: &[(&str, AttributeValue)]) -> Item {
    let mut row = row.clone();
    row.extend(
        changes
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_written_into_the_table_opens_to_another_key_and_each_refusal_rings() {
    let place = Place::new("tampering");
    let mut stage = Stage::start(place.path());
    let (own, others, exa) = (key("own-0001"), key("other-0002"), key("exa-0003"));
    stage
        .server
        .save(Some(PERSON), "gemini", &key("before-0000"))
        .await;
    let older = stage.row(PERSON, "gemini").await;
    for (user, provider, text) in [
        (PERSON, "gemini", &own),
        (PERSON, "exa", &exa),
        (OTHER, "gemini", &others),
    ] {
        assert_eq!(stage.server.save(Some(user), provider, text).await.0, 200);
    }
    let (row, other, of_exa) = (
        stage.row(PERSON, "gemini").await,
        stage.row(OTHER, "gemini").await,
        stage.row(PERSON, "exa").await,
    );
    let here = [("pk", row["pk"].clone()), ("sk", row["sk"].clone())];
    // Moved between people, providers and key ids.
    for (what, item) in [
        ("another person's row", with(&other, &here)),
        ("another provider's row", with(&of_exa, &here)),
        (
            "another person's ciphertext",
            with(&row, &[("ct", other["ct"].clone())]),
        ),
        (
            "another provider's ciphertext",
            with(&row, &[("ct", of_exa["ct"].clone())]),
        ),
        (
            "another person's key id",
            with(&row, &[("kid", other["kid"].clone())]),
        ),
        (
            "the older ciphertext",
            with(&row, &[("ct", older["ct"].clone())]),
        ),
        (
            "the older key id",
            with(&row, &[("kid", older["kid"].clone())]),
        ),
    ] {
        stage.refuses(what, item, &own, true).await;
    }
    // Every byte, every length.
    let ciphertext = row["ct"].as_b().unwrap().as_ref().to_vec();
    for at in (0..ciphertext.len()).step_by(times(5, 1)) {
        let mut flipped = ciphertext.clone();
        flipped[at] ^= 0xff;
        stage
            .refuses(
                &format!("byte {at}"),
                with(&row, &[("ct", b(&flipped))]),
                &own,
                true,
            )
            .await;
    }
    for length in (0..ciphertext.len()).step_by(times(25, 5)) {
        stage
            .refuses(
                &format!("cut to {length}"),
                with(&row, &[("ct", b(&ciphertext[..length]))]),
                &own,
                true,
            )
            .await;
    }
    let longer = [ciphertext.as_slice(), b"\0"].concat();
    stage
        .refuses("a byte more", with(&row, &[("ct", b(&longer))]), &own, true)
        .await;
    stage
        .refuses(
            "4 KB more",
            with(
                &row,
                &[("ct", b(&[ciphertext.as_slice(), &[7; 4_096]].concat()))],
            ),
            &own,
            true,
        )
        .await;
    // Sealed by somebody who may use KMS, for something else.
    let arn = row["cmk"].as_s().unwrap().clone();
    let kid = row["kid"].as_s().unwrap().clone();
    let right = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "production"),
        ("user_id", PERSON),
        ("provider", "gemini"),
        ("kid", kid.as_str()),
    ];
    let bound = |key: &[u8]| {
        let parts = [
            &b"production"[..],
            PERSON.as_bytes(),
            b"gemini",
            kid.as_bytes(),
            key,
        ];
        inside(2, parts)
    };
    let good = bound(own.as_bytes());
    // Another KMS with a key of the same name, and one of another.
    let mut elsewhere = Embedded::in_memory().await.unwrap();
    assert_eq!(elsewhere.kms_key_arn, arn);
    let same_name = seal(&elsewhere.kms, &arn, &right, &good).await;
    elsewhere.new_kms_key().unwrap();
    let foreign = elsewhere.kms_key_arn.clone();
    let another = seal(&elsewhere.kms, &foreign, &right, &good).await;
    let ours = stage.kms.clone();
    let seal_here =
        async |pairs: &[(&str, &str)], text: &[u8]| seal(&ours, &arn, pairs, text).await;
    let mut sealed = vec![
        (
            "under a key that is not ours".to_owned(),
            another.clone(),
            foreign.clone(),
        ),
        (
            "under a key that is not ours, said to be".to_owned(),
            another,
            arn.clone(),
        ),
        (
            "under another key of the same name".to_owned(),
            same_name,
            arn.clone(),
        ),
        (
            "not text".to_owned(),
            seal_here(&right, &bound(b"\xff\xfe")).await,
            arn.clone(),
        ),
        (
            "no key".to_owned(),
            seal_here(&right, &bound(b"a b")).await,
            arn.clone(),
        ),
        (
            "without a context".to_owned(),
            seal_here(&[], &good).await,
            arn.clone(),
        ),
    ];
    // Sealed with the right context, and inside stands something else.
    let own_parts = [
        &b"production"[..],
        PERSON.as_bytes(),
        b"gemini",
        kid.as_bytes(),
        own.as_bytes(),
    ];
    let mut insides = vec![
        own.as_bytes().to_vec(),
        inside(1, own_parts),
        inside(3, own_parts),
    ];
    for (n, other) in [
        &b"prod"[..],
        OTHER.as_bytes(),
        b"exa",
        older["kid"].as_s().unwrap().as_bytes(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut parts = own_parts;
        parts[n] = other;
        insides.push(inside(2, parts));
    }
    insides.extend([
        [good.as_slice(), b"\0"].concat(),
        good[..good.len() - 1].to_vec(),
    ]);
    for (n, plaintext) in insides.iter().enumerate() {
        sealed.push((
            format!("around something else ({n})"),
            seal_here(&right, plaintext).await,
            arn.clone(),
        ));
    }
    for (n, (name, _)) in right.iter().enumerate() {
        let mut pairs = right;
        pairs[n].1 = "something-else";
        sealed.push((
            format!("another {name}"),
            seal_here(&pairs, &good).await,
            arn.clone(),
        ));
        let fewer: Vec<_> = right
            .into_iter()
            .filter(|(other, _)| other != name)
            .collect();
        sealed.push((
            format!("without {name}"),
            seal_here(&fewer, &good).await,
            arn.clone(),
        ));
    }
    let more = [right.as_slice(), &[("more", "x")]].concat();
    sealed.push((
        "with a pair more".to_owned(),
        seal_here(&more, &good).await,
        arn.clone(),
    ));
    for (what, ct, cmk) in sealed {
        stage
            .refuses(
                &format!("sealed {what}"),
                with(&row, &[("ct", ct), ("cmk", s(&cmk))]),
                &own,
                true,
            )
            .await;
    }
    // What the row says of itself.
    let alias = "arn:aws:kms:us-east-1:000000000000:alias/x";
    for (name, values) in [
        ("fmt", &["", "plain", "kms1", "KMS2", "kms2 "][..]),
        ("ctxv", &["", "0", "1", "2.0"][..]),
        (
            "cmk",
            &["", "x", alias, foreign.as_str(), &arn.to_uppercase()][..],
        ),
        (
            "kid",
            &["", "x", "01ARZ3NDEKTSV4RRFFQ69G5FAV", &kid.to_lowercase()][..],
        ),
    ] {
        for value in values {
            stage
                .refuses(
                    &format!("{name} {value:?}"),
                    with(&row, &[(name, s(value))]),
                    &own,
                    true,
                )
                .await;
        }
    }
    let types = [
        AttributeValue::N("1".to_owned()),
        AttributeValue::Bool(true),
        AttributeValue::Null(true),
        AttributeValue::L(vec![s("x")]),
        AttributeValue::M(HashMap::new()),
        AttributeValue::Ss(vec!["x".to_owned()]),
        b(b"x"),
        s("x"),
    ];
    let needed = ["fmt", "ctxv", "kid", "ct", "cmk"];
    let names: Vec<_> = row
        .keys()
        .filter(|name| !["pk", "sk"].contains(&name.as_str()))
        .cloned()
        .collect();
    for name in names {
        let must = needed.contains(&name.as_str());
        let mut missing = row.clone();
        missing.remove(&name);
        stage
            .refuses(&format!("no {name}"), missing, &own, must)
            .await;
        for value in &types {
            let changed = with(&row, &[(&name, value.clone())]);
            if changed != row {
                stage
                    .refuses(&format!("{name} is {value:?}"), changed, &own, must)
                    .await;
            }
        }
    }
    // Nothing fell over, and what is right opens still.
    assert!(stage.put(row).await);
    assert_eq!(stage.open().await["keys"]["gemini"]["api_key"], json!(own));
    assert!(
        stage.wrong.is_empty(),
        "{} of {}:\n{}",
        stage.wrong.len(),
        stage.tried,
        stage.wrong.join("\n")
    );
    assert!(stage.tried >= times(150, 250), "{}", stage.tried);
    let log = std::fs::read_to_string(place.path().join("log")).unwrap();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let refused = lines
        .iter()
        .filter(|line| line["code"] == "internal" && line["message"] == "request");
    let silent: Vec<_> = refused.filter(|line| line["event"].is_null()).collect();
    assert!(silent.is_empty(), "refused without a word: {silent:?}");
    let alarms: u64 = lines
        .iter()
        .filter_map(|line| line["sealing_failures"].as_u64())
        .sum();
    let internal = lines
        .iter()
        .filter(|line| line["code"] == "internal" && line["message"] == "request")
        .count();
    assert_eq!(alarms, internal as u64, "each rings once");
}
