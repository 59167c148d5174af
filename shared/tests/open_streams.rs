//! How many streams a user may have open, against the real DynamoDB API.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{collections::BTreeSet, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::Embedded;
use futures_util::future::join_all;
use time::OffsetDateTime;
use tokio::time::timeout;
use user_api_keys::{
    auth::TrustedCaller,
    config::Config,
    open_streams::{OpenStream, StreamLimiter},
    rate_limit::LimitError,
    user::User,
};

const LIMIT: u8 = 5;

struct Stage {
    services: Embedded,
    limiter: StreamLimiter,
    trusted: TrustedCaller,
}

impl Stage {
    async fn new() -> Self {
        let services = Embedded::in_memory().await.unwrap();
        let config = Config::from_lookup(|name| {
            let value = match name {
                "DEPLOY_ENV" => "test",
                "TABLE_NAME" => &services.table_name,
                "KMS_KEY_ARN" => &services.kms_key_arn,
                "CLERK_JWT_KEY" => include_str!("keys/clerk-test.pub.pem"),
                "CLERK_ISSUER" => "https://clerk.test",
                "CLERK_AUTHORIZED_PARTIES" => "https://app.test",
                "OPEN_KEYS_TRUST_CALLER" => "true",
                _ => return None,
            };
            Some(value.to_owned())
        });
        Self {
            limiter: StreamLimiter::new(
                services.dynamodb.clone(),
                services.table_name.clone(),
                LIMIT,
            ),
            trusted: TrustedCaller::new(&config.unwrap()).unwrap(),
            services,
        }
    }

    fn user(&self, id: &str) -> User {
        self.trusted.user(id).unwrap()
    }

    async fn open(&self, user: &User) -> Result<OpenStream, LimitError> {
        self.limiter.open(user, OffsetDateTime::now_utc()).await
    }

    /// Places that are taken, by the item itself.
    async fn taken(&self, user: &str) -> BTreeSet<String> {
        let get = self.services.dynamodb.get_item();
        let item = get
            .table_name(&self.services.table_name)
            .key("pk", AttributeValue::S(format!("USER#{user}")))
            .key("sk", AttributeValue::S("STREAMS".to_owned()))
            .send()
            .await;
        let item = item.unwrap().item.unwrap_or_default();
        item.into_keys()
            .filter(|name| name.starts_with('s') && name != "sk")
            .collect()
    }
}

#[tokio::test]
async fn of_forty_streams_begun_at_once_exactly_five_are_let_through() {
    let stage = Stage::new().await;
    let user = stage.user("user_streaming1");
    let opened = join_all((0..40).map(|_| stage.open(&user))).await;
    let (open, refused): (Vec<_>, Vec<_>) = opened.into_iter().partition(Result::is_ok);
    assert_eq!((open.len(), refused.len()), (5, 35));
    for error in refused {
        let Err(LimitError::Streams { limit, wait_s }) = error else {
            panic!("another failure");
        };
        assert_eq!(limit, LIMIT);
        assert!((1..=30).contains(&wait_s), "{wait_s}");
    }
    assert_eq!(stage.taken("user_streaming1").await.len(), 5);
    // Nobody else waits for them.
    assert!(stage.open(&stage.user("user_streaming2")).await.is_ok());
}

#[tokio::test]
async fn a_place_comes_back_when_its_stream_is_closed_or_dropped() {
    let stage = Stage::new().await;
    let user = stage.user("user_streaming1");
    let mut open = Vec::new();
    for _ in 0..LIMIT {
        open.push(stage.open(&user).await.unwrap());
    }
    assert!(stage.open(&user).await.is_err());
    open.pop().unwrap().close().await;
    open.push(stage.open(&user).await.unwrap());
    assert!(stage.open(&user).await.is_err());
    // As when the caller's connection goes before there is an answer.
    drop(open.pop());
    let gone = async {
        while stage.taken("user_streaming1").await.len() == usize::from(LIMIT) {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), gone).await.unwrap();
    assert!(stage.open(&user).await.is_ok());
}

#[tokio::test]
async fn a_place_comes_back_by_itself_when_its_instance_has_died() {
    let stage = Stage::new().await;
    let user = stage.user("user_streaming1");
    let began = OffsetDateTime::now_utc() - time::Duration::seconds(31);
    for _ in 0..LIMIT {
        // Neither closed nor dropped: nobody was there to do it.
        std::mem::forget(stage.limiter.open(&user, began).await.unwrap());
    }
    let again = join_all((0..LIMIT).map(|_| stage.open(&user))).await;
    assert!(again.iter().all(Result::is_ok), "their leases are over");
    assert!(stage.open(&user).await.is_err());
}

#[tokio::test]
async fn a_lease_that_is_over_is_not_given_back_from_under_its_next_holder() {
    let stage = Stage::new().await;
    let user = stage.user("user_streaming1");
    let began = OffsetDateTime::now_utc() - time::Duration::seconds(31);
    let mut late = Vec::new();
    for _ in 0..LIMIT {
        late.push(stage.limiter.open(&user, began).await.unwrap());
    }
    let next = join_all((0..LIMIT).map(|_| stage.open(&user))).await;
    assert!(next.iter().all(Result::is_ok));
    for stream in late {
        stream.close().await;
    }
    assert_eq!(stage.taken("user_streaming1").await.len(), 5);
    assert!(stage.open(&user).await.is_err());
}
