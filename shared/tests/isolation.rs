//! Whose key opens for whom, against real DynamoDB and KMS APIs.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::Embedded;
use lambda_http::http::HeaderMap;
use secrecy::SecretString;
use time::OffsetDateTime;
use user_api_keys::{
    api_key::ApiKey,
    audit::{Action, AuditReader, AuditWriter, Event},
    auth::Auth,
    aws::Aws,
    config::Config,
    key_table::{KeyLister, KeyWriter, NewKey, TableError},
    provider::Provider,
    sealing::{Binding, Opener, Sealer, SealingError},
    user::User,
    user_api_keys::{KeyAccess, KeyError, UserApiKeys},
};

const KEY_A: &str = "AQ.canary-key-of-person-a-1111";
const KEY_B: &str = "AQ.canary-key-of-person-b-2222";

const OPENS: &[Provider] = &[Provider::Gemini, Provider::Exa];

struct Stack {
    services: Embedded,
    sealer: Sealer,
    writer: KeyWriter,
    access: KeyAccess,
    lister: KeyLister,
    auth: Auth,
}

fn config(services: &Embedded, deploy_env: &str) -> Config {
    Config::from_lookup(|name| {
        let value = match name {
            "DEPLOY_ENV" => deploy_env,
            "TABLE_NAME" => &services.table_name,
            "KMS_KEY_ARN" => &services.kms_key_arn,
            "CLERK_JWT_KEY" => include_str!("keys/clerk-test.pub.pem"),
            "CLERK_ISSUER" => "https://clerk.test",
            "CLERK_AUTHORIZED_PARTIES" => "https://app.test",
            _ => return None,
        };
        Some(value.to_owned())
    })
    .unwrap()
}

async fn stack() -> Stack {
    let services = Embedded::in_memory().await.unwrap();
    let config = config(&services, "test");
    let table = || services.table_name.clone();
    Stack {
        sealer: Sealer::new(services.kms.clone(), &config),
        writer: KeyWriter::new(services.dynamodb.clone(), table()),
        access: KeyAccess::new(
            &config,
            &Aws::new(&services.dynamodb, &services.kms),
            "test",
            OPENS,
        ),
        lister: KeyLister::new(services.dynamodb.clone(), table()),
        auth: Auth::new(config.mode, config.clerk.as_ref()).unwrap(),
        services,
    }
}

impl Stack {
    async fn user(&self, sub: &str) -> User {
        let now = jsonwebtoken::get_current_timestamp();
        let claims = serde_json::json!({"sub": sub, "iss": "https://clerk.test",
            "azp": "https://app.test", "sid": "sess_test", "iat": now, "nbf": now, "exp": now + 60});
        let key =
            jsonwebtoken::EncodingKey::from_rsa_pem(include_bytes!("keys/clerk-test.pem")).unwrap();
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.auth
            .user(&headers, OffsetDateTime::now_utc())
            .await
            .unwrap()
    }

    async fn save(&self, user: &User, provider: Provider, text: &str) -> u64 {
        let key = ApiKey::parse(SecretString::from(text)).ok().unwrap();
        let kid = ulid::Ulid::new().to_string();
        let binding = Binding {
            user: user.id(),
            provider,
            kid: &kid,
        };
        let sealed = self.sealer.seal(&key, &binding).await.unwrap();
        let hint = key.hint();
        let new = NewKey::unverified(provider, &kid, sealed, &hint);
        let before = self.writer.before(user, provider).await.unwrap();
        self.writer
            .save(user, before, &new, OffsetDateTime::now_utc())
            .await
            .unwrap()
    }

    async fn open(&self, user: &User, provider: Provider) -> Result<String, KeyError> {
        let event = Event {
            action: Action::Open,
            provider: Some(provider),
            kid: None,
            purpose: None,
            request_id: "r-1",
            now: OffsetDateTime::now_utc(),
        };
        let opened = UserApiKeys::of(user, &self.access, None)
            .get(provider, &event)
            .await?;
        // EXPOSE: the test compares it with what was saved.
        Ok(opened.key.expose().to_owned())
    }

    /// Puts the only row back with one attribute changed, past every rule of ours; a changed pk or
    /// sk makes it a copy somewhere else.
    async fn tamper(&self, name: &str, value: AttributeValue) {
        let mut row = self.items().await.remove(0);
        row.insert(name.to_owned(), value);
        let put = self.services.dynamodb.put_item();
        let put = put.table_name(&self.services.table_name);
        put.set_item(Some(row)).send().await.unwrap();
    }

    /// The key rows.
    async fn items(&self) -> Vec<std::collections::HashMap<String, AttributeValue>> {
        let scan = self
            .services
            .dynamodb
            .scan()
            .table_name(&self.services.table_name);
        let mut items = scan.send().await.unwrap().items.unwrap();
        items.retain(|item| item["sk"].as_s().unwrap().starts_with("KEY#"));
        items
    }
}

#[tokio::test]
async fn each_person_opens_their_own_key_and_no_other() {
    let stack = stack().await;
    let (a, b) = (
        stack.user("user_aaaaaaaa").await,
        stack.user("user_bbbbbbbb").await,
    );
    stack.save(&a, Provider::Gemini, KEY_A).await;
    assert!(matches!(
        stack.open(&b, Provider::Gemini).await,
        Err(KeyError::Missing(_))
    ));
    stack.save(&b, Provider::Gemini, KEY_B).await;
    assert_eq!(stack.open(&a, Provider::Gemini).await.unwrap(), KEY_A);
    assert_eq!(stack.open(&b, Provider::Gemini).await.unwrap(), KEY_B);
}

#[tokio::test]
async fn a_row_moved_to_another_user_does_not_open() {
    let stack = stack().await;
    let (a, b) = (
        stack.user("user_aaaaaaaa").await,
        stack.user("user_bbbbbbbb").await,
    );
    stack.save(&a, Provider::Gemini, KEY_A).await;
    stack.tamper("pk", string("USER#user_bbbbbbbb")).await;
    assert!(matches!(
        stack.open(&b, Provider::Gemini).await,
        Err(KeyError::Sealing(SealingError::DoesNotOpen(_)))
    ));
    assert_eq!(stack.open(&a, Provider::Gemini).await.unwrap(), KEY_A);
}

#[tokio::test]
async fn a_row_moved_to_another_provider_does_not_open() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    stack.tamper("sk", string("KEY#exa")).await;
    assert!(matches!(
        stack.open(&a, Provider::Exa).await,
        Err(KeyError::Sealing(SealingError::DoesNotOpen(_)))
    ));
}

/// What a compromised rotate-keys can do: KMS re-encrypts towards any context, and the row is written
/// past every condition. Names of [`Stack::items`]'s attributes and of the context, with other values.
async fn redirect(stack: &Stack, row: &[(&str, &str)], pairs: &[(&str, &str)]) {
    let mut item = stack.items().await.remove(0);
    let text = |name: &str| item[name].as_s().unwrap().clone();
    let (kid, arn) = (text("kid"), text("cmk"));
    let own = [
        ("purpose", "user-api-key"),
        ("ctxv", "2"),
        ("env", "test"),
        ("user_id", "user_aaaaaaaa"),
        ("provider", "gemini"),
        ("kid", &kid),
    ];
    let context = |changes: &[(&str, &str)]| {
        let pairs = own.iter().chain(changes).copied();
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Some(owned.collect::<std::collections::HashMap<_, _>>())
    };
    let moved = stack
        .services
        .kms
        .re_encrypt()
        .ciphertext_blob(item["ct"].as_b().unwrap().clone())
        .source_key_id(&arn)
        .set_source_encryption_context(context(&[]))
        .destination_key_id(&arn)
        .set_destination_encryption_context(context(pairs));
    let moved = moved.send().await.unwrap().ciphertext_blob.unwrap();
    item.insert("ct".to_owned(), AttributeValue::B(moved));
    for (name, value) in row {
        item.insert((*name).to_owned(), string(value));
    }
    let put = stack.services.dynamodb.put_item();
    let put = put.table_name(&stack.services.table_name);
    put.set_item(Some(item)).send().await.unwrap();
}

#[tokio::test]
async fn a_ciphertext_that_was_redirected_never_opens() {
    let (to, kid) = ("user_bbbbbbbb", "01ARZ3NDEKTSV4RRFFQ69G5FAV");
    let user = ("user_id", to);
    let (pk, sk) = (("pk", "USER#user_bbbbbbbb"), ("sk", "KEY#exa"));
    for (row, pairs, provider) in [
        (&[pk][..], &[user][..], Provider::Gemini),
        (&[sk], &[("provider", "exa")], Provider::Exa),
        (&[("kid", kid)], &[("kid", kid)], Provider::Gemini),
        (&[pk, sk], &[user, ("provider", "exa")], Provider::Exa),
        (
            &[pk, sk, ("kid", kid)],
            &[user, ("provider", "exa"), ("kid", kid)],
            Provider::Exa,
        ),
    ] {
        let stack = stack().await;
        let a = stack.user("user_aaaaaaaa").await;
        let b = stack.user(to).await;
        stack.save(&a, Provider::Gemini, KEY_A).await;
        redirect(&stack, row, pairs).await;
        let who = if row.contains(&pk) { &b } else { &a };
        let error = stack.open(who, provider).await.err();
        let refused = matches!(error, Some(KeyError::Sealing(SealingError::InnerBinding)));
        assert!(refused, "{pairs:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_ciphertext_that_was_redirected_to_another_stack_does_not_open_there() {
    let mut stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    redirect(&stack, &[], &[("env", "another")]).await;
    let another = config(&stack.services, "another");
    stack.access.opener = Opener::new(stack.services.kms.clone(), &another, OPENS);
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Sealing(SealingError::InnerBinding))
    ));
}

#[tokio::test]
async fn a_ciphertext_that_was_moved_under_its_own_binding_still_opens() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    redirect(&stack, &[], &[]).await;
    assert_eq!(stack.open(&a, Provider::Gemini).await.unwrap(), KEY_A);
}

#[tokio::test]
async fn a_function_opens_keys_of_its_own_providers_only() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::OpenAi, KEY_A).await;
    assert!(matches!(
        stack.open(&a, Provider::OpenAi).await,
        Err(KeyError::Sealing(SealingError::NotGranted(
            Provider::OpenAi
        )))
    ));
}

#[tokio::test]
async fn the_raw_table_holds_no_key_in_clear() {
    let stack = stack().await;
    stack
        .save(&stack.user("user_aaaaaaaa").await, Provider::Gemini, KEY_A)
        .await;
    for value in stack.items().await.iter().flat_map(|item| item.values()) {
        let bytes = match value {
            AttributeValue::B(blob) => blob.as_ref().to_vec(),
            other => format!("{other:?}").into_bytes(),
        };
        let found = bytes
            .windows(KEY_A.len())
            .any(|window| window == KEY_A.as_bytes());
        assert!(!found, "a key in clear in the table");
    }
}

#[tokio::test]
async fn a_second_save_counts_a_version_and_a_delete_leaves_nothing() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    assert_eq!(stack.save(&a, Provider::Gemini, KEY_A).await, 1);
    assert_eq!(stack.save(&a, Provider::Gemini, KEY_B).await, 2);
    let records = stack.lister.list(&a).await.unwrap();
    assert_eq!(
        (records.len(), records[0].hint.as_str(), records[0].ver),
        (1, "2222", 2)
    );
    stack
        .writer
        .delete(&a, &[Provider::Gemini], None)
        .await
        .unwrap();
    stack
        .writer
        .delete(&a, &[Provider::Gemini], None)
        .await
        .unwrap();
    assert!(stack.lister.list(&a).await.unwrap().is_empty());
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Missing(_))
    ));
}

fn string(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

#[tokio::test]
async fn a_row_of_another_kid_or_another_kms_key_does_not_open() {
    let other_key = "arn:aws:kms:us-east-1:000000000000:key/00000000-0000-4000-8000-000000000000";
    for (name, value) in [("kid", "01ARZ3NDEKTSV4RRFFQ69G5FAV"), ("cmk", other_key)] {
        let stack = stack().await;
        let a = stack.user("user_aaaaaaaa").await;
        stack.save(&a, Provider::Gemini, KEY_A).await;
        stack.tamper(name, string(value)).await;
        let error = stack.open(&a, Provider::Gemini).await.err();
        let refused = matches!(error, Some(KeyError::Sealing(SealingError::DoesNotOpen(_))));
        assert!(refused, "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_row_does_not_open_under_another_deploy_env() {
    let mut stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    stack.access.opener = Opener::new(
        stack.services.kms.clone(),
        &config(&stack.services, "another"),
        OPENS,
    );
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Sealing(SealingError::DoesNotOpen(_)))
    ));
}

#[tokio::test]
async fn a_row_of_an_unknown_form_is_corrupt_and_never_read_as_plain() {
    for (name, value) in [
        ("fmt", string("plain")),
        ("fmt", string("kms1")),
        ("ctxv", string("1")),
        ("ct", string(KEY_A)),
        ("cmk", string("alias/mine")),
        ("kid", AttributeValue::Bool(true)),
        ("ver", string("one")),
        ("status", string("fine")),
    ] {
        let stack = stack().await;
        let a = stack.user("user_aaaaaaaa").await;
        stack.save(&a, Provider::Gemini, KEY_A).await;
        stack.tamper(name, value).await;
        let error = stack.open(&a, Provider::Gemini).await.err();
        let corrupt = matches!(error, Some(KeyError::Table(TableError::Corrupt(_))));
        assert!(corrupt, "{name}: {error:?}");
    }
}

#[tokio::test]
async fn no_single_flipped_bit_of_a_ciphertext_opens() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    let Some(AttributeValue::B(whole)) = stack.items().await[0].get("ct").cloned() else {
        unreachable!("a row has a ciphertext");
    };
    for byte in 0..whole.as_ref().len() {
        let mut flipped = whole.as_ref().to_vec();
        flipped[byte] ^= 1 << (byte % 8);
        let ct = AttributeValue::B(aws_sdk_dynamodb::primitives::Blob::new(flipped));
        stack.tamper("ct", ct).await;
        assert!(
            stack.open(&a, Provider::Gemini).await.is_err(),
            "byte {byte}"
        );
    }
    stack.tamper("ct", AttributeValue::B(whole)).await;
    assert_eq!(stack.open(&a, Provider::Gemini).await.unwrap(), KEY_A);
}

#[tokio::test]
async fn a_paused_and_an_expired_key_are_not_opened() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    stack
        .tamper("expires_at", string("2020-01-01T00:00:00Z"))
        .await;
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Expired(_))
    ));
    stack.tamper("expires_at", string("not a time")).await;
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Expired(_))
    ));
    stack.tamper("enabled", AttributeValue::Bool(false)).await;
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Paused(_))
    ));
}

#[tokio::test]
async fn a_save_that_fails_leaves_the_old_key_whole() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    let before = stack.items().await;
    let elsewhere = KeyWriter::new(stack.services.dynamodb.clone(), "no-such-table".to_owned());
    let key = ApiKey::parse(SecretString::from(KEY_B)).ok().unwrap();
    let binding = Binding {
        user: a.id(),
        provider: Provider::Gemini,
        kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    };
    let new = NewKey::unverified(
        Provider::Gemini,
        binding.kid,
        stack.sealer.seal(&key, &binding).await.unwrap(),
        "2222",
    );
    let row = stack.writer.before(&a, Provider::Gemini).await.unwrap();
    let now = OffsetDateTime::now_utc();
    assert!(elsewhere.save(&a, row, &new, now).await.is_err());
    assert_eq!(stack.items().await, before);
    assert_eq!(stack.open(&a, Provider::Gemini).await.unwrap(), KEY_A);
}

#[tokio::test]
async fn a_key_is_not_handed_out_unless_its_audit_record_is_written() {
    let mut stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    let dynamodb = stack.services.dynamodb.clone();
    stack.access.audit = AuditWriter::new(dynamodb, "no-such-table".to_owned(), "test");
    assert!(matches!(
        stack.open(&a, Provider::Gemini).await,
        Err(KeyError::Table(TableError::Unavailable(_)))
    ));
}

#[tokio::test]
async fn the_day_of_a_use_is_noted_once_and_never_on_another_key() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    let record = || async { stack.lister.list(&a).await.unwrap().remove(0) };
    let saved = record().await;
    assert_eq!(saved.last_used_at, None);
    stack.open(&a, Provider::Gemini).await.unwrap();
    let used = record().await;
    let today = OffsetDateTime::now_utc().date();
    assert_eq!(used.last_used_at, Some(format!("{today}T00:00:00Z")));
    let rows = stack.items().await;
    stack.open(&a, Provider::Gemini).await.unwrap();
    assert_eq!(stack.items().await, rows, "a second use writes nothing");
    // Replaced between the read and the note: the new key has not been used.
    stack.save(&a, Provider::Gemini, KEY_B).await;
    let now = OffsetDateTime::now_utc();
    let marker = &stack.access.marker;
    let late = marker.used(&a, Provider::Gemini, &saved, now).await;
    assert!(matches!(late, Err(TableError::Condition)));
    assert_eq!(record().await.last_used_at, None);
    // Deleted: nothing comes back to life.
    stack
        .writer
        .delete(&a, &[Provider::Gemini], None)
        .await
        .unwrap();
    let late = marker.used(&a, Provider::Gemini, &saved, now).await;
    assert!(matches!(late, Err(TableError::Condition)));
    assert!(stack.items().await.is_empty());
}

#[tokio::test]
async fn every_open_and_every_refused_open_is_on_the_record() {
    let stack = stack().await;
    let a = stack.user("user_aaaaaaaa").await;
    stack.save(&a, Provider::Gemini, KEY_A).await;
    stack.open(&a, Provider::Gemini).await.unwrap();
    let flipped = aws_sdk_dynamodb::primitives::Blob::new(vec![0; 120]);
    stack.tamper("ct", AttributeValue::B(flipped)).await;
    assert!(stack.open(&a, Provider::Gemini).await.is_err());
    stack.tamper("enabled", AttributeValue::Bool(false)).await;
    assert!(stack.open(&a, Provider::Gemini).await.is_err());
    let table = stack.services.table_name.clone();
    let reader = AuditReader::new(stack.services.dynamodb.clone(), table);
    let outcomes = async |now| {
        let page = reader.page(&a, 10, None, now).await.unwrap();
        let page = serde_json::to_value(page).unwrap();
        let records = page["records"].as_array().unwrap().clone();
        let outcome = |record: serde_json::Value| record["outcome"].as_str().unwrap().to_owned();
        let mut outcomes: Vec<_> = records.into_iter().map(outcome).collect();
        outcomes.sort();
        outcomes
    };
    let now = OffsetDateTime::now_utc();
    assert_eq!(outcomes(now).await, ["ok", "ok", "refused", "refused"]);
    let later = now + time::Duration::days(91);
    assert!(
        outcomes(later).await.is_empty(),
        "what is over is not shown"
    );
}
