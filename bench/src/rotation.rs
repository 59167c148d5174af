//! The job that moves every key under a new KMS key, against a loop of the same SDK calls.

use std::{collections::HashMap, path::Path, time::Instant};

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, PutRequest, WriteRequest},
};
use embedded::Embedded;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use local::token;
use serde::Serialize;
use serde_json::{Value, json};
use user_api_keys::{aws::Aws, config::Config, provider::Provider};

use crate::stage::{Error, peak_kib};

/// Keys moved, or made, at once.
const AT_ONCE: usize = 16;

type Item = HashMap<String, AttributeValue>;

/// Both on as many keys.
#[derive(Serialize)]
pub(crate) struct Rotation {
    keys: usize,
    ours_per_second: f64,
    bare_per_second: f64,
    /// Of this process with DynamoDB and KMS in it, after each.
    peak_kib: [u64; 2],
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn text<'a>(item: &'a Item, name: &str) -> &'a str {
    item.get(name)
        .and_then(|value| value.as_s().ok())
        .map_or("", String::as_str)
}

fn context(user: &str, kid: &str) -> HashMap<String, String> {
    let pairs = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "bench"),
        ("user_id", user),
        ("provider", "gemini"),
        ("kid", kid),
    ];
    pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// A person's row, sealed.
async fn row(services: &Embedded, n: usize) -> Result<Item, Error> {
    let (user, kid) = (format!("user_bench{n:07}"), ulid::Ulid::new().to_string());
    let sealed = services
        .kms
        .encrypt()
        .key_id(&services.kms_key_arn)
        .plaintext(Blob::new("AQ.a-key-to-be-moved-0001"));
    let sealed = sealed
        .set_encryption_context(Some(context(&user, &kid)))
        .send()
        .await?;
    let sealed = sealed.ciphertext_blob.ok_or("no ciphertext")?;
    let numbers = [("ver", "1"), ("rev", "1")]
        .map(|(name, value)| (name, AttributeValue::N(value.to_owned())));
    let pk = format!("USER#{user}");
    let texts = [
        ("pk", pk.as_str()),
        ("sk", "KEY#gemini"),
        ("fmt", "kms2"),
        ("ctxv", "2"),
        ("kid", &kid),
        ("cmk", &services.kms_key_arn),
        ("hint", "0001"),
        ("status", "active"),
        ("created_at", "2026-11-24T00:00:00Z"),
        ("updated_at", "2026-11-24T00:00:00Z"),
    ];
    let texts = texts.map(|(name, value)| (name, s(value)));
    let others = [
        ("ct", AttributeValue::B(sealed)),
        ("enabled", AttributeValue::Bool(true)),
    ];
    let all = texts.into_iter().chain(numbers).chain(others);
    Ok(all.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// As many people with a key each.
pub(crate) async fn fill(services: &Embedded, keys: usize) -> Result<(), Error> {
    let rows = stream::iter(0..keys)
        .map(|n| row(services, n))
        .buffer_unordered(AT_ONCE);
    let batches = rows.try_chunks(25).map_err(|error| error.1);
    batches
        .try_for_each_concurrent(4, |rows| async move { put(services, rows).await })
        .await
}

/// As many rows at once as DynamoDB takes.
pub(crate) async fn put(services: &Embedded, rows: Vec<Item>) -> Result<(), Error> {
    let writes = rows.into_iter().map(|row| {
        let put = PutRequest::builder().set_item(Some(row)).build()?;
        Ok(WriteRequest::builder().put_request(put).build())
    });
    let writes = writes.collect::<Result<_, Error>>()?;
    services
        .dynamodb
        .batch_write_item()
        .request_items(&services.table_name, writes)
        .send()
        .await?;
    Ok(())
}

fn config(services: &Embedded) -> Result<Config, Error> {
    let older = services.kms_decrypt_key_arns();
    let config = Config::from_lookup(|name| {
        let value = match name {
            "DEPLOY_ENV" => "bench",
            "TABLE_NAME" => &services.table_name,
            "KMS_KEY_ARN" => &services.kms_key_arn,
            "KMS_DECRYPT_KEY_ARNS" => &older,
            "CLERK_JWT_KEY" => token::PUBLIC_KEY,
            "CLERK_ISSUER" => token::ISSUER,
            "CLERK_AUTHORIZED_PARTIES" => token::PARTY,
            "ROTATE_PER_SECOND" => "65000",
            "ROTATE_CONCURRENCY" => "16",
            _ => return None,
        };
        Some(value.to_owned())
    });
    Ok(config?)
}

async fn ours(services: &Embedded) -> Result<u64, Error> {
    let deps = rotate_keys::Deps::new(
        &config(services)?,
        &Aws::new(&services.dynamodb, &services.kms),
    );
    let (mut cursor, mut moved) = (Value::Null, 0);
    loop {
        let event = json!({"job": "rewrap", "segment": 0, "total_segments": 1, "cursor": cursor});
        let answer = rotate_keys::handle(&deps, None, event).await;
        let answer = json!(answer.map_err(|problem| problem.detail().to_owned())?);
        moved += answer["counts"]["rewrapped"].as_u64().unwrap_or_default();
        if answer["done"] == true {
            return Ok(moved);
        }
        cursor = answer["cursor"].clone();
    }
}

/// `Scan`, then `ReEncrypt` and `UpdateItem` of each row, as many at once as the job has.
async fn bare(services: &Embedded) -> Result<u64, Error> {
    let (mut from, mut moved) = (None, 0);
    loop {
        let scan = services
            .dynamodb
            .scan()
            .table_name(&services.table_name)
            .limit(500)
            .consistent_read(true);
        let page = scan.set_exclusive_start_key(from).send().await?;
        let rows = page.items.unwrap_or_default();
        moved += stream::iter(rows)
            .map(|row| one(services, row))
            .buffer_unordered(AT_ONCE)
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await?;
        from = page.last_evaluated_key;
        if from.is_none() {
            return Ok(moved);
        }
    }
}

async fn one(services: &Embedded, row: Item) -> Result<u64, Error> {
    let (user, kid) = (
        text(&row, "pk").trim_start_matches("USER#"),
        text(&row, "kid"),
    );
    let bound = Some(context(user, kid));
    let ct = row
        .get("ct")
        .and_then(|value| value.as_b().ok())
        .ok_or("no ciphertext")?;
    let moved = services
        .kms
        .re_encrypt()
        .ciphertext_blob(ct.clone())
        .source_key_id(text(&row, "cmk"))
        .set_source_encryption_context(bound.clone())
        .destination_key_id(&services.kms_key_arn)
        .set_destination_encryption_context(bound)
        .send()
        .await?;
    let moved = moved.ciphertext_blob.ok_or("no ciphertext")?;
    let update = services
        .dynamodb
        .update_item()
        .table_name(&services.table_name)
        .key("pk", s(text(&row, "pk")))
        .key("sk", s(text(&row, "sk")));
    update
        .update_expression("SET ct=:ct, cmk=:cmk, rewrapped_at=:now, rev=rev+:one")
        .condition_expression("attribute_exists(pk) AND kid=:kid AND rev=:rev AND cmk=:old")
        .expression_attribute_values(":ct", AttributeValue::B(moved))
        .expression_attribute_values(":cmk", s(&services.kms_key_arn))
        .expression_attribute_values(":now", s("2026-11-24T00:00:00Z"))
        .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
        .expression_attribute_values(":kid", s(kid))
        .expression_attribute_values(":rev", row.get("rev").cloned().ok_or("no rev")?)
        .expression_attribute_values(":old", s(text(&row, "cmk")))
        .send()
        .await?;
    Ok(1)
}

/// Both, one after the other on the same rows.
pub(crate) async fn measure(keys: usize) -> Result<Rotation, Error> {
    let mut services = Embedded::in_memory().await?;
    fill(&services, keys).await?;
    let (mut rates, mut peaks) = (Vec::new(), Vec::new());
    for ours_now in [false, true] {
        services.new_kms_key()?;
        let begun = Instant::now();
        let moved = match ours_now {
            true => ours(&services).await?,
            false => bare(&services).await?,
        };
        if moved != keys as u64 {
            return Err(format!("{moved} of {keys} were moved").into());
        }
        rates.push(moved as f64 / begun.elapsed().as_secs_f64());
        peaks.push(peak_kib(Path::new("/proc/self/status"))?);
    }
    Ok(Rotation {
        keys,
        ours_per_second: rates[1],
        bare_per_second: rates[0],
        peak_kib: [peaks[1], peaks[0]],
    })
}

/// People whose keys nobody opens, without asking KMS for each.
pub(crate) async fn strangers(
    services: &Embedded,
    people: std::ops::Range<usize>,
) -> Result<(), Error> {
    let like = row(services, 0).await?;
    let rows = stream::iter(people).map(|n| {
        let mut row = like.clone();
        row.insert("pk".to_owned(), s(&format!("USER#user_stranger{n:07}")));
        row
    });
    rows.chunks(25)
        .map(Ok)
        .try_for_each_concurrent(4, |rows| put(services, rows))
        .await
}

/// Rows of other providers beside the one that `user` has, so that there are `keys`.
pub(crate) async fn keys_of(services: &Embedded, user: &str, keys: usize) -> Result<(), Error> {
    let like = row(services, 0).await?;
    let others = Provider::ALL.iter().filter(|&&p| p != Provider::Gemini);
    for (n, provider) in others.enumerate() {
        let mut row = like.clone();
        row.insert("pk".to_owned(), s(&format!("USER#{user}")));
        row.insert("sk".to_owned(), s(&format!("KEY#{provider}")));
        let key = ["pk", "sk"].map(|name| (name.to_owned(), row[name].clone()));
        if n + 1 < keys {
            put(services, vec![row]).await?;
        } else {
            let delete = services
                .dynamodb
                .delete_item()
                .table_name(&services.table_name);
            delete.set_key(Some(key.into())).send().await?;
        }
    }
    Ok(())
}
