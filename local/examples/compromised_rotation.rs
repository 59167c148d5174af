//! What somebody can do who runs code as rotate-keys, tried on the embedded KMS and on another one:
//! `cargo run --example compromised_rotation -- http://127.0.0.1:<port of moto_server>`.
//!
//! During a rotation, and with the calls of that role alone (`ReEncrypt` from the older KMS key to the one
//! that seals, a write into any row), a user's keys are sent to another user, provider and key id. Then the
//! functions are asked for them. Prints how often; the log on standard error has an alarm for each.

use std::{collections::HashMap, io::Write, process::ExitCode};

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use embedded::Embedded;
use lambda_http::{Body, Request, http};
use local::{stack::embedded_setting, token};
use serde_json::json;
use user_api_keys::{aws::Aws, config::Config, telemetry};

type Error = Box<dyn std::error::Error>;
type Item = HashMap<String, AttributeValue>;

const OWNER: &str = "user_aaaaaaaa1";
const THIEF: &str = "user_mallory99";
const OTHER_KID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const KEYS: [(&str, &str); 3] = [
    ("gemini", "AQ.secret-of-the-owner-0001"),
    ("exa", "exa-secret-of-the-owner-0002"),
    ("copilotkit", "ck_pub_secret-of-the-owner-0003"),
];

/// Where a ciphertext is sent.
#[derive(Clone, Copy)]
struct Target {
    user: &'static str,
    provider: &'static str,
    other_kid: bool,
}

struct Stage {
    services: Embedded,
    kms: aws_sdk_kms::Client,
    /// The older KMS key, and the one that seals.
    keys: [String; 2],
    save: save_keys::Deps,
    fetch: fetch_keys::Deps,
    generate: std::sync::Arc<generate_content::Deps>,
    open: open_keys::Deps,
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn context(user: &str, provider: &str, kid: &str) -> HashMap<String, String> {
    let pairs = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "test"),
        ("user_id", user),
        ("provider", provider),
        ("kid", kid),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn config(services: &Embedded, seals: &str, opens: &str) -> Result<Config, Error> {
    let config = Config::from_lookup(|name| match name {
        "DEPLOY_ENV" => Some("test".to_owned()),
        "KMS_KEY_ARN" => Some(seals.to_owned()),
        "KMS_DECRYPT_KEY_ARNS" => Some(opens.to_owned()),
        "CHECK_ON_SAVE" => Some("format".to_owned()),
        "OPEN_KEYS_TRUST_CALLER" => Some("true".to_owned()),
        name if name.starts_with("RATE_LIMIT_") => Some("10000".to_owned()),
        // Nobody listens there: a key that got so far would be an answer of another kind.
        name => embedded_setting(name, services, "http://127.0.0.1:9"),
    });
    Ok(config?)
}

fn request(method: &str, path: &str, user: &str, body: &str) -> Result<Request, Error> {
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {}", token::sign(user)?))
        .header("content-type", "application/json");
    Ok(request.body(Body::from(body))?)
}

impl Stage {
    async fn new(
        services: Embedded,
        kms: aws_sdk_kms::Client,
        keys: [String; 2],
    ) -> Result<Self, Error> {
        let aws = Aws::new(&services.dynamodb, &kms);
        let [older, sealing] = &keys;
        let before = config(&services, older, sealing)?;
        let now = config(&services, sealing, older)?;
        telemetry::init(&now);
        Ok(Self {
            save: save_keys::Deps::new(&before, &aws)?,
            fetch: fetch_keys::Deps::new(&now, &aws)?,
            generate: generate_content::Deps::new(&now, &aws)?,
            open: open_keys::Deps::new(&now, &aws)?,
            services,
            kms,
            keys,
        })
    }

    async fn saved(&self, provider: &str, key: &str) -> Result<Item, Error> {
        let body = json!({"provider": provider, "api_key": key}).to_string();
        let request = request("POST", "/api/onboarding/api-keys", OWNER, &body)?;
        let answer = save_keys::handle(&self.save, request).await;
        if answer.status() != 200 {
            return Err(format!("a save: {}", answer.status()).into());
        }
        let get = self.services.dynamodb.get_item();
        let get = get.table_name(&self.services.table_name);
        let get = get.key("pk", text(&format!("USER#{OWNER}")));
        let get = get.key("sk", text(&format!("KEY#{provider}")));
        Ok(get.send().await?.item.ok_or("no row")?)
    }

    /// One `ReEncrypt` towards `target`, and one write.
    async fn redirect(&self, row: &Item, from: &str, target: Target) -> Result<(), Error> {
        let of = |name| row.get(name).and_then(|v: &AttributeValue| v.as_s().ok());
        let own_kid = of("kid").ok_or("no kid")?;
        let kid = if target.other_kid { OTHER_KID } else { own_kid };
        let ciphertext = row.get("ct").and_then(|ct| ct.as_b().ok());
        let [older, sealing] = &self.keys;
        let moved = self
            .kms
            .re_encrypt()
            .ciphertext_blob(ciphertext.ok_or("no ciphertext")?.clone())
            .source_key_id(older)
            .set_source_encryption_context(Some(context(OWNER, from, own_kid)))
            .destination_key_id(sealing)
            .set_destination_encryption_context(Some(context(target.user, target.provider, kid)))
            .send()
            .await?;
        let moved = moved.ciphertext_blob.ok_or("no ciphertext")?;
        let mut row = row.clone();
        row.extend([
            ("pk".to_owned(), text(&format!("USER#{}", target.user))),
            ("sk".to_owned(), text(&format!("KEY#{}", target.provider))),
            ("kid".to_owned(), text(kid)),
            ("cmk".to_owned(), text(sealing)),
            ("ct".to_owned(), AttributeValue::B(moved)),
        ]);
        self.put(row).await
    }

    async fn put(&self, row: Item) -> Result<(), Error> {
        let put = self.services.dynamodb.put_item();
        let put = put.table_name(&self.services.table_name);
        put.set_item(Some(row)).send().await?;
        Ok(())
    }

    /// Whether open-keys hands it out; the owner's own key where it is theirs.
    async fn opens(&self, user: &str, provider: &str) -> Result<bool, Error> {
        let event = json!({"user_id": user, "providers": [provider], "purpose": "test"});
        match open_keys::handle(&self.open, None, event).await {
            Ok(_) => Ok(true),
            Err(problem) if problem.event() == Some("inner_binding") => Ok(false),
            Err(problem) => Err(format!("refused for another reason: {problem:?}").into()),
        }
    }

    /// Whoever else opens keys of the provider; 500 for each.
    async fn over_http(&self, target: Target) -> Result<Option<u16>, Error> {
        let answer = match target.provider {
            "copilotkit" => {
                let path = "/api/onboarding/api-keys/onboarding";
                fetch_keys::handle(&self.fetch, request("GET", path, target.user, "")?).await
            }
            "gemini" => {
                let body = json!({"prompt": "Hello", "provider": target.provider}).to_string();
                let request = request("POST", "/api/generate", target.user, &body)?;
                generate_content::handle_buffered(&self.generate, request).await
            }
            _ => return Ok(None),
        };
        Ok(Some(answer.status().as_u16()))
    }

    /// Every key towards every target: tries, all of which were refused.
    async fn tries(&self) -> Result<u32, Error> {
        let mut tried = 0;
        for (from, key) in KEYS {
            let row = self.saved(from, key).await?;
            for target in targets(from) {
                self.redirect(&row, from, target).await?;
                if self.opens(target.user, target.provider).await? {
                    return Err(format!("{from} opened for {}", target.user).into());
                }
                tried += 1;
                if let Some(status) = self.over_http(target).await? {
                    if status != 500 {
                        return Err(format!("{from}: {status} over HTTP").into());
                    }
                    tried += 1;
                }
            }
            self.put(row).await?;
            if !self.opens(OWNER, from).await? {
                return Err(format!("{from} does not open for its owner").into());
            }
        }
        Ok(tried)
    }
}

/// Other users, providers and key ids, one by one and together.
fn targets(from: &str) -> Vec<Target> {
    let mut all = Vec::new();
    for user in [OWNER, THIEF] {
        for provider in ["gemini", "exa", "copilotkit"] {
            for other_kid in [false, true] {
                let own = user == OWNER && provider == from && !other_kid;
                if !own {
                    all.push(Target {
                        user,
                        provider,
                        other_kid,
                    });
                }
            }
        }
    }
    all
}

async fn embedded() -> Result<Stage, Error> {
    let mut services = Embedded::in_memory().await?;
    let older = services.kms_key_arn.clone();
    services.new_kms_key()?;
    let (kms, sealing) = (services.kms.clone(), services.kms_key_arn.clone());
    Stage::new(services, kms, [older, sealing]).await
}

async fn moto(address: String) -> Result<Stage, Error> {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(address)
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"));
    let kms = aws_sdk_kms::Client::from_conf(config.build());
    let mut arns = Vec::new();
    for _ in 0..2 {
        let made = kms.create_key().send().await?.key_metadata;
        arns.push(made.and_then(|key| key.arn).ok_or("no ARN")?);
    }
    let keys = [arns.remove(0), arns.remove(0)];
    Stage::new(Embedded::in_memory().await?, kms, keys).await
}

#[tokio::main]
async fn main() -> Result<ExitCode, Error> {
    let address = std::env::args().nth(1).ok_or("name the address of a KMS")?;
    let tried = embedded().await?.tries().await? + moto(address).await?.tries().await?;
    writeln!(std::io::stdout(), "{tried}")?;
    Ok(ExitCode::SUCCESS)
}
