//! DynamoDB and KMS in this process, each on a loopback port of its own.
//!
//! Callers reach them through the ordinary SDK clients, so nothing above knows the difference.

use std::{net::SocketAddr, sync::Arc};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use hyper_util::rt::TokioIo;
use rustack_kms_core::{config::KmsConfig, handler::RustackKmsHandler, provider::RustackKms};
use rustack_kms_http::service::{KmsHttpConfig, KmsHttpService};
use tokio::net::TcpListener;

const REGION: &str = "us-east-1";

/// Why the embedded services did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No loopback port.
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
    /// The database did not open, or the table or KMS key could not be made.
    #[error("{0}")]
    Service(String),
}

/// Running services, one table and one KMS key. They end with the process.
pub struct Embedded {
    /// Client of the embedded DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// Client of the embedded KMS.
    pub kms: aws_sdk_kms::Client,
    /// Name of the one table.
    pub table_name: String,
    /// ARN of the KMS key that seals.
    pub kms_key_arn: String,
}

impl Embedded {
    /// Starts both in memory on free ports, with an empty table and a new KMS key.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn in_memory() -> Result<Self, StartError> {
        let database = dynoxide::Database::memory().map_err(service)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let dynamodb = dynamodb_client(listener.local_addr()?);
        tokio::spawn(dynoxide::server::serve_on(listener, database));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let kms = kms_client(listener.local_addr()?);
        tokio::spawn(serve_kms(listener));
        let table_name = "user-api-keys".to_owned();
        create_table(&dynamodb, &table_name).await?;
        let key = kms.create_key().send().await.map_err(service)?;
        let kms_key_arn = key
            .key_metadata
            .and_then(|metadata| metadata.arn)
            .ok_or_else(|| StartError::Service("KMS made a key without an ARN".to_owned()))?;
        Ok(Self {
            dynamodb,
            kms,
            table_name,
            kms_key_arn,
        })
    }
}

fn service(error: impl std::fmt::Display) -> StartError {
    StartError::Service(error.to_string())
}

fn dynamodb_client(address: SocketAddr) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .endpoint_url(format!("http://{address}"))
        .region(aws_sdk_dynamodb::config::Region::new(REGION))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new(
            "embedded", "embedded", None, None, "embedded",
        ));
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

fn kms_client(address: SocketAddr) -> aws_sdk_kms::Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
        .endpoint_url(format!("http://{address}"))
        .region(aws_sdk_kms::config::Region::new(REGION))
        .credentials_provider(aws_sdk_kms::config::Credentials::new(
            "embedded", "embedded", None, None, "embedded",
        ));
    aws_sdk_kms::Client::from_conf(config.build())
}

async fn serve_kms(listener: TcpListener) {
    let provider = Arc::new(RustackKms::new(KmsConfig::default()));
    let handler = Arc::new(RustackKmsHandler::new(provider));
    let service = KmsHttpService::new(handler, KmsHttpConfig::default());
    while let Ok((stream, _)) = listener.accept().await {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service.clone());
        tokio::spawn(connection);
    }
}

async fn create_table(dynamodb: &aws_sdk_dynamodb::Client, name: &str) -> Result<(), StartError> {
    let mut request = dynamodb
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest);
    for (attribute, role) in [("pk", KeyType::Hash), ("sk", KeyType::Range)] {
        request = request
            .attribute_definitions(
                AttributeDefinition::builder()
                    .attribute_name(attribute)
                    .attribute_type(ScalarAttributeType::S)
                    .build()
                    .map_err(service)?,
            )
            .key_schema(
                KeySchemaElement::builder()
                    .attribute_name(attribute)
                    .key_type(role)
                    .build()
                    .map_err(service)?,
            );
    }
    request.send().await.map_err(service)?;
    Ok(())
}
