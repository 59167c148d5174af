//! The two AWS clients, made once at start.
//!
//! `AWS_ENDPOINT_URL_DYNAMODB` and `AWS_ENDPOINT_URL_KMS` redirect them, as the SDK reads them.

use std::time::Duration;

use aws_config::{BehaviorVersion, retry::RetryConfig, timeout::TimeoutConfig};

/// One attempt; three of them fit in a front end's patience.
const ATTEMPT: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(1);
const ATTEMPTS: u32 = 3;

/// Clients of the table and of KMS.
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
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .operation_attempt_timeout(ATTEMPT);
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts.build())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .load()
            .await;
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(&config),
            kms: aws_sdk_kms::Client::new(&config),
        }
    }
}
