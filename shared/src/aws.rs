//! The two AWS clients, made once at start.
//!
//! `AWS_ENDPOINT_URL_DYNAMODB` and `AWS_ENDPOINT_URL_KMS` redirect them, as the SDK reads them.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, ConfigLoader,
    environment::{EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider},
    retry::RetryConfig,
    timeout::TimeoutConfig,
};
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sdk_dynamodb::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
            BeforeTransmitInterceptorContextRef,
        },
    },
    error::BoxError,
    types::AttributeValue,
};
use aws_smithy_http_client::{
    Connector,
    proxy::ProxyConfig,
    tls::{Provider, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnectorSettings, SharedHttpConnector, http_client_fn},
    orchestrator::HttpRequest,
};
use futures_util::future::join_all;
use lambda_http::http;
use serde::Deserialize;
use tokio::time::timeout;

use crate::{
    telemetry::{self, Service},
    tls::{self, TrustError},
};

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

/// What a function's requests do side by side first.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Calls of the table at once.
    pub table: usize,
    /// And one of KMS, there or right after.
    pub kms: bool,
}

impl Aws {
    /// A function's: region, credentials and endpoints from the environment, where Lambda puts them. The
    /// SDK's other ways to find credentials are not tried.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn from_env() -> Result<Self, TrustError> {
        let retries = RetryConfig::standard().with_max_attempts(ATTEMPTS);
        Self::with(retries, environment()).await
    }

    /// The same for jobs that nobody waits for: they slow down when a service throttles them, as the
    /// SDK's adaptive mode does.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn adaptive() -> Result<Self, TrustError> {
        let retries = RetryConfig::adaptive().with_max_attempts(ATTEMPTS);
        Self::with(retries, environment()).await
    }

    /// An operator's, patient as well: region, credentials and endpoints as the SDK finds them, in profiles
    /// and sign-ins, too.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn of_operator() -> Result<Self, TrustError> {
        let retries = RetryConfig::adaptive().with_max_attempts(ATTEMPTS);
        Self::with(retries, aws_config::defaults(BehaviorVersion::latest())).await
    }

    async fn with(retries: RetryConfig, from: ConfigLoader) -> Result<Self, TrustError> {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT);
        let connector = connector()?;
        let config = from
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .timeout_config(timeouts.build())
            .retry_config(retries)
            .load()
            .await;
        Ok(Self::new(
            &aws_sdk_dynamodb::Client::new(&config),
            &aws_sdk_kms::Client::new(&config),
        ))
    }

    /// Opens the connections that a first request needs, before there is one: Lambda gives a start more
    /// of a processor than a request. Whatever goes wrong, the request will find out.
    pub async fn connect(&self, needed: Connections) {
        let tables = join_all((0..needed.table).map(|_| self.ping_table()));
        let kms = async {
            if needed.kms {
                self.ping_kms().await;
            }
        };
        tokio::join!(tables, kms);
    }

    async fn ping_table(&self) {
        let call = self.dynamodb.get_item().table_name("-");
        let call = call.key("-", AttributeValue::Null(true)).customize();
        let once = aws_sdk_dynamodb::config::Builder::new().retry_config(RetryConfig::disabled());
        let ping = call.config_override(once).interceptor(Ping).send();
        timeout(CONNECT, ping).await.ok();
    }

    async fn ping_kms(&self) {
        let once = aws_sdk_kms::config::Builder::new().retry_config(RetryConfig::disabled());
        let call = self.kms.describe_key().key_id("-").customize();
        let ping = call.config_override(once).interceptor(Ping).send();
        timeout(CONNECT, ping).await.ok();
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

/// Settings that are found in environment variables, or not at all: whoever may set `HOME` cannot point a
/// function at a profile file with another `endpoint_url`.
fn environment() -> ConfigLoader {
    let no_profile = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Config, "");
    aws_config::defaults(BehaviorVersion::latest())
        .profile_files(no_profile.build())
        .region(EnvironmentVariableRegionProvider::new())
        .credentials_provider(EnvironmentVariableCredentialsProvider::new())
}

/// What carries the requests of both clients: one pool of connections, and only AWS is trusted.
fn connector() -> Result<SharedHttpConnector, TrustError> {
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT);
    let connector = Connector::builder()
        .connector_settings(settings.build())
        .proxy_config(ProxyConfig::from_env())
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .tls_context(tls::aws()?);
    Ok(SharedHttpConnector::new(connector.build()))
}

/// Sends `GET /ping` in a call's place, which services of AWS answer to anybody: the call itself, its
/// signature and its credentials stay here.
#[derive(Debug)]
struct Ping;

impl Intercept for Ping {
    fn name(&self) -> &'static str {
        "ping"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let mut ping = HttpRequest::empty();
        let authority = request.uri().parse::<http::Uri>()?;
        let mut uri = authority.into_parts();
        uri.path_and_query = Some(http::uri::PathAndQuery::from_static("/ping"));
        ping.set_uri(http::Uri::from_parts(uri)?)?;
        *request = ping;
        Ok(())
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
        let body = response.body().bytes().unwrap_or_default();
        match (!response.status().is_success())
            .then(|| refusal(body))
            .flatten()
        {
            Some(Refusal::Throttled) => telemetry::throttled(self.0),
            Some(Refusal::Denied) => telemetry::denied(self.0),
            None => {}
        }
        Ok(())
    }
}

/// Failures that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Throttled,
    Denied,
}

/// Which of them a failure's body names.
fn refusal(body: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct Failure {
        #[serde(rename = "__type")]
        kind: String,
    }
    let Failure { kind } = serde_json::from_slice(body).ok()?;
    // Some services write `<namespace>#<name>`.
    match kind.rsplit('#').next()? {
        "ThrottlingException"
        | "ProvisionedThroughputExceededException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => Some(Refusal::Throttled),
        "AccessDeniedException" => Some(Refusal::Denied),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{Credentials, Region, SharedCredentialsProvider};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use super::*;

    /// Answers 404 on each connection, as a service may to what it does not know, and tells what came.
    async fn serve(mut stream: TcpStream, connection: usize, came: mpsc::UnboundedSender<String>) {
        let mut bytes = vec![0; 65_536];
        while let Ok(read @ 1..) = stream.read(&mut bytes).await {
            let text = String::from_utf8_lossy(&bytes[..read]);
            came.send(format!("{connection} {text}")).ok();
            let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn connections_are_opened_without_a_word_of_ours_and_serve_the_first_call() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (came, mut requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, came.clone()));
            }
        });
        let credentials = Credentials::new("AKIACANARY", "secret", None, None, "test");
        let config = aws_config::SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http_client_fn({
                let connector = connector().unwrap();
                move |_, _| connector.clone()
            }))
            .endpoint_url(url)
            .region(Region::new("us-east-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build();
        let (dynamodb, kms) = (
            aws_sdk_dynamodb::Client::new(&config),
            aws_sdk_kms::Client::new(&config),
        );
        let aws = Aws::new(&dynamodb, &kms);
        aws.connect(Connections {
            table: 2,
            kms: true,
        })
        .await;
        let mut opened = Vec::new();
        for _ in 0..3 {
            let request = requests.recv().await.unwrap();
            let (connection, text) = request.split_once(' ').unwrap();
            assert!(text.starts_with("GET /ping HTTP/1.1\r\n"), "{text}");
            let text = text.to_lowercase();
            assert!(!text.contains("x-amz") && !text.contains("akia"), "{text}");
            opened.push(connection.to_owned());
        }
        aws.kms.list_keys().send().await.unwrap_err();
        let call = requests.recv().await.unwrap();
        let (connection, text) = call.split_once(' ').unwrap();
        assert!(text.contains("AKIACANARY"), "a call is signed");
        assert!(
            opened.contains(&connection.to_owned()),
            "on a connection that was there"
        );
        assert!(requests.try_recv().is_err());
    }

    #[test]
    fn a_throttle_and_a_denial_are_told_from_other_failures_by_name_alone() {
        for (body, is) in [
            (
                r#"{"__type":"ThrottlingException","message":"x"}"#,
                Some(Refusal::Throttled),
            ),
            (
                r#"{"__type":"com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException"}"#,
                Some(Refusal::Throttled),
            ),
            (
                r#"{"__type":"AccessDeniedException","message":"arn:aws:iam::1:role/x"}"#,
                Some(Refusal::Denied),
            ),
            (
                r#"{"__type":"com.amazon.coral.service#AccessDeniedException","Message":"x"}"#,
                Some(Refusal::Denied),
            ),
            (
                r#"{"__type":"ValidationException","message":"ThrottlingException"}"#,
                None,
            ),
            ("ThrottlingException", None),
            ("", None),
        ] {
            assert_eq!(refusal(body.as_bytes()), is, "{body}");
        }
    }
}
