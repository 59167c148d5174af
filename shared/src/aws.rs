//! The two AWS clients, made once at start.
//!
//! `AWS_ENDPOINT_URL_DYNAMODB` and `AWS_ENDPOINT_URL_KMS` redirect them, as the SDK reads them.

use std::time::Duration;

use aws_config::{BehaviorVersion, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef,
        },
    },
    error::BoxError,
};
use serde::Deserialize;

use crate::telemetry::{self, Service};

/// One attempt; three of them fit in a front end's patience.
const ATTEMPT: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;

/// Clients of the table and of KMS, whose calls are counted.
#[derive(Debug, Clone)]
pub struct Aws {
    /// The table.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// The KMS key.
    pub kms: aws_sdk_kms::Client,
}

impl Aws {
    /// Region, credentials and endpoints as the SDK finds them.
    pub async fn from_env() -> Self {
        Self::with(RetryConfig::standard().with_max_attempts(ATTEMPTS)).await
    }

    /// The same for jobs that nobody waits for: they slow down when a service throttles them, as the
    /// SDK's adaptive mode does.
    pub async fn adaptive() -> Self {
        Self::with(RetryConfig::adaptive().with_max_attempts(ATTEMPTS)).await
    }

    async fn with(retries: RetryConfig) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT);
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts.build())
            .retry_config(retries)
            .load()
            .await;
        Self::new(
            &aws_sdk_dynamodb::Client::new(&config),
            &aws_sdk_kms::Client::new(&config),
        )
    }

    /// The given clients, with their calls counted.
    #[must_use]
    pub fn new(dynamodb: &aws_sdk_dynamodb::Client, kms: &aws_sdk_kms::Client) -> Self {
        let counted = dynamodb.config().to_builder();
        let dynamodb = counted.interceptor(Counting(Service::DynamoDb)).build();
        let counted = kms.config().to_builder();
        let kms = counted.interceptor(Counting(Service::Kms)).build();
        Self {
            dynamodb: aws_sdk_dynamodb::Client::from_conf(dynamodb),
            kms: aws_sdk_kms::Client::from_conf(kms),
        }
    }
}

/// Counts every attempt, and those that were throttled. Sees requests; must not keep them.
#[derive(Debug)]
struct Counting(Service);

impl Intercept for Counting {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn read_before_transmit(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        telemetry::calling(self.0);
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        if !response.status().is_success() && response.body().bytes().is_some_and(throttled) {
            telemetry::throttled(self.0);
        }
        Ok(())
    }
}

/// Whether a failure's body names one of the ways in which AWS says "too fast".
fn throttled(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Failure {
        #[serde(rename = "__type")]
        kind: String,
    }
    let kind = serde_json::from_slice(body).map(|failure: Failure| failure.kind);
    kind.is_ok_and(|kind| {
        // Some services write `<namespace>#<name>`.
        matches!(
            kind.rsplit('#').next(),
            Some(
                "ThrottlingException"
                    | "ProvisionedThroughputExceededException"
                    | "RequestLimitExceeded"
                    | "LimitExceededException"
            )
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_is_told_from_other_failures_by_its_name_alone() {
        for (body, is) in [
            (r#"{"__type":"ThrottlingException","message":"x"}"#, true),
            (
                r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#,
                true,
            ),
            (
                r#"{"__type":"ValidationException","message":"ThrottlingException"}"#,
                false,
            ),
            ("ThrottlingException", false),
            ("", false),
        ] {
            assert_eq!(throttled(body.as_bytes()), is, "{body}");
        }
    }
}
