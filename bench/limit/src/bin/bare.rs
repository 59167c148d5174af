//! The same SDK calls as a request makes, written down one after the other: no identity, no checks, no
//! limits looked at, no log. `bare list|save|open|generate`

use std::collections::HashMap;

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, Put, ReturnValue, Select, TransactWriteItem},
};
use lambda_http::{Body, Error, Request, Response, run, service_fn};
use serde_json::{Value, json};
use tokio::try_join;

const KID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

struct Bare {
    dynamodb: aws_sdk_dynamodb::Client,
    kms: aws_sdk_kms::Client,
    https: reqwest::Client,
    table: String,
    key_arn: String,
    provider: String,
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: i64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn context(kid: &str) -> HashMap<String, String> {
    let pairs = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "bench"),
        ("user_id", "user_aaaaaaaa1"),
        ("provider", "gemini"),
        ("kid", kid),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// As the functions seal: the key behind its binding.
fn plaintext_of(kid: &str, key: &str) -> Vec<u8> {
    let mut bytes = vec![2];
    for part in ["bench", "user_aaaaaaaa1", "gemini", kid, key] {
        bytes.extend([0, part.len().to_le_bytes()[0]]);
        bytes.extend(part.as_bytes());
    }
    bytes
}

impl Bare {
    async fn count(&self, limit: &str) -> Result<(), Error> {
        let update = self.dynamodb.update_item().table_name(&self.table);
        let update = update
            .key("pk", s("USER#user_aaaaaaaa1"))
            .key("sk", s(&format!("USE#{limit}#bare")))
            .update_expression("ADD n :one SET #ttl = :ttl")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":ttl", n(1_900_000_000))
            .return_values(ReturnValue::UpdatedNew);
        update.send().await?;
        Ok(())
    }

    async fn row(&self) -> Result<Option<HashMap<String, AttributeValue>>, Error> {
        let get = self.dynamodb.get_item().table_name(&self.table);
        let get = get
            .key("pk", s("USER#user_aaaaaaaa1"))
            .key("sk", s("KEY#gemini"));
        Ok(get.consistent_read(true).send().await?.item)
    }

    fn entry(&self) -> HashMap<String, AttributeValue> {
        let sort = format!("AUDIT#{}", ulid::Ulid::new());
        let pairs = [
            ("pk", s("USER#user_aaaaaaaa1")),
            ("sk", s(&sort)),
            ("at", s("2026-11-24T00:00:00Z")),
            ("action", s("use")),
            ("function", s("bare")),
            ("request_id", s("8476a536-e9f4-11e8-9739-2dfe598c3fcd")),
            ("outcome", s("ok")),
            ("provider", s("gemini")),
            ("kid", s(KID)),
            ("ttl", n(1_900_000_000)),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    async fn record(&self) -> Result<(), Error> {
        let put = self.dynamodb.put_item().table_name(&self.table);
        put.set_item(Some(self.entry())).send().await?;
        Ok(())
    }

    async fn list(&self) -> Result<Value, Error> {
        let query = async {
            let query = self.dynamodb.query().table_name(&self.table);
            let query = query
                .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
                .select(Select::SpecificAttributes)
                .projection_expression(
                    "pk, sk, kid, ver, hint, #status, enabled, expires_at, description, created_at, \
                     updated_at, checked_at, last_used_at",
                )
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":pk", s("USER#user_aaaaaaaa1"))
                .expression_attribute_values(":first", s("KEY#"))
                .expression_attribute_values(":last", s("PREV#~"));
            Ok::<_, Error>(query.consistent_read(true).send().await?)
        };
        let ((), rows) = try_join!(self.count("read"), query)?;
        let hints = rows.items().iter().map(|row| match row.get("hint") {
            Some(AttributeValue::S(hint)) => format!("************{hint}"),
            _ => String::new(),
        });
        Ok(json!({"keys": hints.collect::<Vec<_>>()}))
    }

    async fn save(&self) -> Result<Value, Error> {
        let kid = ulid::Ulid::new().to_string();
        let encrypt = async {
            let encrypt = self.kms.encrypt().key_id(&self.key_arn);
            let encrypt = encrypt
                .plaintext(Blob::new(plaintext_of(&kid, "AQ.my-own-gemini-key-0001")))
                .set_encryption_context(Some(context(&kid)));
            Ok::<_, Error>(encrypt.send().await?)
        };
        let ((), old, sealed) = try_join!(self.count("save"), self.row(), encrypt)?;
        let mut row: HashMap<_, _> = [
            ("pk", s("USER#user_aaaaaaaa1")),
            ("sk", s("KEY#gemini")),
            ("fmt", s("kms2")),
            ("ctxv", s("2")),
            ("kid", s(&kid)),
            ("cmk", s(&self.key_arn)),
            ("ver", n(1)),
            ("rev", n(1)),
            ("hint", s("0001")),
            ("status", s("unverified")),
            ("enabled", AttributeValue::Bool(true)),
            ("created_at", s("2026-11-24T00:00:00Z")),
            ("updated_at", s("2026-11-24T00:00:00Z")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let sealed = sealed.ciphertext_blob.ok_or("no ciphertext")?.into_inner();
        row.insert("ct".to_owned(), AttributeValue::B(Blob::new(sealed)));
        let put = |item| {
            let put = Put::builder().table_name(&self.table).set_item(Some(item));
            let put = put.condition_expression("attribute_not_exists(pk) OR rev >= :rev");
            let put = put.expression_attribute_values(":rev", n(0)).build()?;
            Ok::<_, Error>(TransactWriteItem::builder().put(put).build())
        };
        let mut writes = vec![put(row)?, put(self.entry())?];
        if let Some(mut old) = old {
            old.insert("sk".to_owned(), s("PREV#gemini"));
            writes.push(put(old)?);
        }
        let transaction = self.dynamodb.transact_write_items();
        transaction.set_transact_items(Some(writes)).send().await?;
        Ok(json!({"status": "saved"}))
    }

    async fn opened(&self, row: HashMap<String, AttributeValue>) -> Result<String, Error> {
        let (Some(AttributeValue::B(ct)), Some(AttributeValue::S(kid))) =
            (row.get("ct"), row.get("kid"))
        else {
            return Err("no such key".into());
        };
        let decrypt = self.kms.decrypt().key_id(&self.key_arn);
        let decrypt = decrypt
            .ciphertext_blob(ct.clone())
            .set_encryption_context(Some(context(kid)));
        let decrypt = async { Ok::<_, Error>(decrypt.send().await?) };
        let ((), opened) = try_join!(self.record(), decrypt)?;
        let plaintext = opened.plaintext.ok_or("no plaintext")?;
        let bound = plaintext_of(kid, "").len();
        Ok(String::from_utf8(plaintext.into_inner().split_off(bound))?)
    }

    async fn open(&self) -> Result<Value, Error> {
        let ((), (), row) = try_join!(self.count("minute"), self.count("day"), self.row())?;
        let row = row.ok_or("no such key")?;
        Ok(json!({"keys": {"gemini": {"api_key": self.opened(row).await?}}}))
    }

    async fn generate(&self) -> Result<Value, Error> {
        let ((), (), row) = try_join!(self.count("minute"), self.count("day"), self.row())?;
        let key = self.opened(row.ok_or("no such key")?).await?;
        let model = "v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse";
        let prompt = json!({"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]});
        let request = self.https.post(format!("{}/{model}", self.provider));
        let answer = request.header("x-goog-api-key", key).json(&prompt).send();
        let text = answer.await?.text().await?;
        let update = self.dynamodb.update_item().table_name(&self.table);
        let update = update
            .key("pk", s("USER#user_aaaaaaaa1"))
            .key("sk", s("USAGE#2026-11-24#gemini"))
            .update_expression(
                "ADD calls :one, prompt_tokens :prompt, output_tokens :output SET #ttl = :ttl",
            )
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":prompt", n(5))
            .expression_attribute_values(":output", n(5))
            .expression_attribute_values(":ttl", n(1_900_000_000));
        update.send().await?;
        let mut content = String::new();
        for data in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let event: Value = serde_json::from_str(data)?;
            let part = &event["candidates"][0]["content"]["parts"][0]["text"];
            content.push_str(part.as_str().unwrap_or_default());
        }
        Ok(json!({"content": content}))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let setting = |name: &str| {
        let found = std::env::vars().find(|(n, _)| n == name);
        found.map(|(_, value)| value).unwrap_or_default()
    };
    let bare = &Bare {
        dynamodb: aws_sdk_dynamodb::Client::new(&config),
        kms: aws_sdk_kms::Client::new(&config),
        https: reqwest::Client::new(),
        table: setting("TABLE_NAME"),
        key_arn: setting("KMS_KEY_ARN"),
        provider: setting("GEMINI_BASE_URL"),
    };
    let sequence = &std::env::args().nth(1).unwrap_or_default();
    let act = async || match sequence.as_str() {
        "list" => bare.list().await,
        "save" => bare.save().await,
        "open" => bare.open().await,
        "generate" => bare.generate().await,
        _ => Err("list, save, open or generate".into()),
    };
    if sequence == "open" {
        // Invoked, never over HTTP.
        let answer = async |_: lambda_runtime::LambdaEvent<Value>| act().await;
        return lambda_runtime::run(lambda_runtime::service_fn(answer)).await;
    }
    let answer = async |_: Request| {
        let body = Body::from(act().await?.to_string());
        Ok::<_, Error>(Response::new(body))
    };
    run(service_fn(answer)).await
}
