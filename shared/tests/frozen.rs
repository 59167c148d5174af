//! Stored forms are supported for ever: rows written long ago still open.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{collections::HashMap, fs};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use embedded::Embedded;
use lambda_http::http::HeaderMap;
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    audit::{Action, Event},
    auth::Auth,
    aws::Aws,
    config::Config,
    mode::Mode,
    provider::Provider,
    user_api_keys::{KeyAccess, UserApiKeys},
};

/// `kms.json` as `serve` wrote it.
const KMS: &str = include_str!("frozen/kms.json");
/// The row that `save-keys` wrote beside it for the key [`KEY`], `ct` in hexadecimal.
const ROW: &str = include_str!("frozen/row-kms2.json");
const KEY: &str = "AQ.frozen-key-of-the-second-form-0001";
/// What KMS opens of it: a version, then five texts, each after its length in two bytes.
const PLAINTEXT: &[u8] = b"\x02\0\x05local\0\x05local\0\x06gemini\0\x1a01M85MCWRBB4QVHGTEMH0W039J\
    \0\x25AQ.frozen-key-of-the-second-form-0001";

fn attribute(name: &str, value: &Value) -> AttributeValue {
    match value {
        Value::String(hex) if name == "ct" => {
            let byte = |n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap();
            AttributeValue::B(Blob::new(
                (0..hex.len()).step_by(2).map(byte).collect::<Vec<_>>(),
            ))
        }
        Value::String(text) => AttributeValue::S(text.clone()),
        Value::Number(number) => AttributeValue::N(number.to_string()),
        other => AttributeValue::Bool(other.as_bool().unwrap()),
    }
}

#[tokio::test]
async fn a_row_written_long_ago_still_opens() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("kms.json"), KMS).unwrap();
    let services = Embedded::in_folder(folder.path()).await.unwrap();
    let row: HashMap<String, Value> = serde_json::from_str(ROW).unwrap();
    let item = row
        .iter()
        .map(|(name, value)| (name.clone(), attribute(name, value)));
    let put = services
        .dynamodb
        .put_item()
        .table_name(&services.table_name);
    put.set_item(Some(item.collect())).send().await.unwrap();
    let config = Config::from_lookup(|name| match name {
        "TABLE_NAME" => Some(services.table_name.clone()),
        "KMS_KEY_ARN" => Some(services.kms_key_arn.clone()),
        _ => None,
    })
    .unwrap();
    let developer = Auth::new(Mode::Local, None)
        .unwrap()
        .user(&HeaderMap::new(), OffsetDateTime::now_utc())
        .await
        .unwrap();
    let aws = Aws::new(&services.dynamodb, &services.kms);
    let access = KeyAccess::new(&config, &aws, "test", Provider::ALL);
    let event = Event {
        action: Action::Open,
        provider: None,
        kid: None,
        purpose: None,
        request_id: "r-1",
        now: OffsetDateTime::UNIX_EPOCH,
    };
    let opened = UserApiKeys::of(&developer, &access, None)
        .get(Provider::Gemini, &event)
        .await
        .unwrap();
    // EXPOSE: the test compares it with what was saved.
    assert_eq!(opened.key.expose(), KEY);
    let pairs = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "local"),
        ("user_id", "local"),
        ("provider", "gemini"),
        ("kid", "01M85MCWRBB4QVHGTEMH0W039J"),
    ];
    let context = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let AttributeValue::B(ciphertext) = attribute("ct", &row["ct"]) else {
        unreachable!("a row has a ciphertext");
    };
    let decrypt = services.kms.decrypt().ciphertext_blob(ciphertext);
    let decrypt = decrypt.set_encryption_context(Some(context.into()));
    let plaintext = decrypt.send().await.unwrap().plaintext.unwrap();
    assert_eq!(plaintext.as_ref(), PLAINTEXT);
}
