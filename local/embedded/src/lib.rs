//! DynamoDB and KMS in this process, each on a loopback port of its own.
//!
//! Callers reach them through the ordinary SDK clients, so nothing above knows the difference.

mod calls;
mod folder;
mod kms;
mod recorder;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use tokio::net::TcpListener;

use crate::{
    folder::Folder,
    kms::{Key, Keys},
    recorder::Recorder,
};

const REGION: &str = "us-east-1";

/// Why the embedded services did not start. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No loopback port.
    #[error("cannot listen on loopback: {0}")]
    Listen(#[from] std::io::Error),
    /// Another server works on the same folder.
    #[error("{} is in use by another server; stop that one or choose another --data-dir", .0.display())]
    InUse(PathBuf),
    /// A file that is not what we wrote.
    #[error("{} is damaged; restore it from a copy, or move the whole data folder away to start anew", .0.display())]
    Damaged(PathBuf),
    /// Sealed keys without the KMS key that opens them.
    #[error("{} is missing, and without it no saved key opens; restore it, or move the whole data folder away to start anew", .0.display())]
    KmsKeyMissing(PathBuf),
    /// The system said no.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The SDK did not reach the embedded DynamoDB.
    #[error(
        "the embedded DynamoDB cannot be reached; behind an HTTP proxy, set NO_PROXY=127.0.0.1"
    )]
    NoAnswer,
    /// The database did not open, or the table could not be made.
    #[error("{0}")]
    Service(String),
}

/// Running services: one table and its KMS keys. They end with the process.
pub struct Embedded {
    /// Client of the embedded DynamoDB.
    pub dynamodb: aws_sdk_dynamodb::Client,
    /// Client of the embedded KMS.
    pub kms: aws_sdk_kms::Client,
    /// Where the embedded DynamoDB listens, for other clients.
    pub dynamodb_address: SocketAddr,
    /// Where the embedded KMS listens, for other clients.
    pub kms_address: SocketAddr,
    /// Name of the one table.
    pub table_name: String,
    /// ARN of the KMS key that seals.
    pub kms_key_arn: String,
    /// Older KMS keys, oldest first: they open what was sealed under them.
    pub older_kms_keys: Vec<OlderKey>,
    kms_keys: Vec<Key>,
    served: Keys,
    folder: Option<Folder>,
}

/// A KMS key that seals nothing any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OlderKey {
    /// Its ARN.
    pub arn: String,
    /// Disabled: it does not open anything either.
    pub retired: bool,
}

impl Embedded {
    /// Starts both in memory on free ports, with an empty table and a new KMS key.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn in_memory() -> Result<Self, StartError> {
        let database = dynoxide::Database::memory().map_err(service)?;
        Self::start(database, vec![Key::first()?], None).await
    }

    /// Starts both on free ports with the data in `path`, which is locked until they end.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn in_folder(path: &Path) -> Result<Self, StartError> {
        let folder = Folder::open(path)?;
        let file = folder.database()?;
        let keys = folder.kms_keys()?;
        let name = file.to_str();
        let name = name
            .ok_or_else(|| StartError::Service("the data folder's name is not UTF-8".to_owned()))?;
        let database =
            dynoxide::Database::new(name).map_err(|_| StartError::Damaged(file.clone()))?;
        Self::start(database, keys, Some(folder)).await
    }

    async fn start(
        database: dynoxide::Database,
        kms_keys: Vec<Key>,
        folder: Option<Folder>,
    ) -> Result<Self, StartError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let dynamodb_address = listener.local_addr()?;
        let dynamodb = dynamodb_client(dynamodb_address);
        tokio::spawn(dynoxide::server::serve_on(listener, database));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let kms_address = listener.local_addr()?;
        let kms = kms_client(kms_address);
        let served = Keys::new(&kms_keys);
        tokio::spawn(kms::serve(listener, served.clone()));
        let table_name = "user-api-keys".to_owned();
        create_table(&dynamodb, &table_name).await?;
        let mut services = Self {
            dynamodb,
            kms,
            dynamodb_address,
            kms_address,
            table_name,
            kms_key_arn: String::new(),
            older_kms_keys: Vec::new(),
            kms_keys,
            served,
            folder,
        };
        services.name_keys();
        Ok(services)
    }

    /// Makes a new KMS key that seals from now on; the former ones still open. It is on disk before it
    /// can be used.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub fn new_kms_key(&mut self) -> Result<(), StartError> {
        let mut keys = self.kms_keys.clone();
        keys.push(Key::generate()?);
        self.change(keys)
    }

    /// Disables every older KMS key, or enables them again.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed.
    pub fn retire_older_kms_keys(&mut self, retired: bool) -> Result<(), StartError> {
        let mut keys = self.kms_keys.clone();
        if let Some((_, older)) = keys.split_last_mut() {
            older.iter_mut().for_each(|key| key.retired = retired);
        }
        self.change(keys)
    }

    fn change(&mut self, keys: Vec<Key>) -> Result<(), StartError> {
        if let Some(folder) = &self.folder {
            folder.save_kms_keys(&keys)?;
        }
        keys.iter().for_each(|key| self.served.put(key.clone()));
        self.kms_keys = keys;
        self.name_keys();
        Ok(())
    }

    fn name_keys(&mut self) {
        let Some((newest, older)) = self.kms_keys.split_last() else {
            return;
        };
        self.kms_key_arn = newest.arn();
        let older = older.iter().map(|key| OlderKey {
            arn: key.arn(),
            retired: key.retired,
        });
        self.older_kms_keys = older.collect();
    }

    /// The value of `KMS_DECRYPT_KEY_ARNS`: the older KMS keys that still open.
    #[must_use]
    pub fn kms_decrypt_key_arns(&self) -> String {
        let open = self.older_kms_keys.iter().filter(|key| !key.retired);
        open.map(|key| key.arn.as_str())
            .collect::<Vec<_>>()
            .join(",")
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
    let config = match Recorder::from_env() {
        Some(recorder) => config.interceptor(recorder),
        None => config,
    };
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
    let config = match Recorder::from_env() {
        Some(recorder) => config.interceptor(recorder),
        None => config,
    };
    aws_sdk_kms::Client::from_conf(config.build())
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
    match request
        .send()
        .await
        .map_err(|error| error.into_service_error())
    {
        Err(error) if !error.is_resource_in_use_exception() => Err(StartError::NoAnswer),
        // Made now, or by an earlier start.
        _ => Ok(()),
    }
}
