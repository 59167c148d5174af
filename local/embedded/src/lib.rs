//! DynamoDB and KMS in this process.
//!
//! Callers reach them through the ordinary SDK clients, so nothing above knows the difference. The clients'
//! requests arrive by a function call; only [`Embedded::listen`] opens a port, behind a gate.

mod calls;
pub mod connections;
mod dynamodb;
mod folder;
mod gate;
mod in_process;
mod kms;
mod listening;
mod recorder;
mod services;

pub use folder::write_private;
pub use listening::Listening;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};

use crate::{
    folder::Folder,
    in_process::InProcess,
    kms::{Key, Keys},
    recorder::Recorder,
    services::Services,
};

const REGION: &str = "us-east-1";
/// Nothing is sent there: the SDK wants an address to sign a request for.
const NOWHERE: &str = "http://embedded.invalid";

/// Why the embedded services did not start. Nothing on disk was changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
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
    /// Somebody else could have put it there, or could change it.
    #[error("{} {why}; mend that, or choose another --data-dir", path.display())]
    NotOurs {
        /// Which file or folder.
        path: PathBuf,
        /// What is wrong with it, and what mends it.
        why: &'static str,
    },
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
    /// Name of the one table.
    pub table_name: String,
    /// ARN of the KMS key that seals.
    pub kms_key_arn: String,
    /// Older KMS keys, oldest first: they open what was sealed under them.
    pub older_kms_keys: Vec<OlderKey>,
    kms_keys: Vec<Key>,
    services: Services,
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
    /// Starts both in memory, with an empty table and a new KMS key.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn in_memory() -> Result<Self, StartError> {
        let database = dynoxide::Database::memory().map_err(service)?;
        Self::start(database, vec![Key::first()?], None).await
    }

    /// Starts both with the data in `path`, which is locked until they end.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn in_folder(path: &Path) -> Result<Self, StartError> {
        let folder = Folder::open(path)?;
        let keys = folder.kms_keys()?;
        let file = folder.database()?;
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
        let services = Services {
            database,
            keys: Keys::new(&kms_keys),
        };
        let dynamodb = dynamodb_client(&services);
        let table_name = "user-api-keys".to_owned();
        create_table(&dynamodb, &table_name).await?;
        if dynamodb::half_made(&services.database, &table_name) {
            dynamodb::remove_half_made(&services.database, &table_name);
            create_table(&dynamodb, &table_name).await?;
        }
        let mut services = Self {
            dynamodb,
            kms: kms_client(&services),
            table_name,
            kms_key_arn: String::new(),
            older_kms_keys: Vec::new(),
            kms_keys,
            services,
            folder,
        };
        services.name_keys();
        Ok(services)
    }

    /// Opens a port at which other processes reach both services, if they know its access key id.
    ///
    /// # Errors
    /// When the address is not this machine's, or is in use.
    pub async fn listen(&self, at: SocketAddr) -> std::io::Result<Listening> {
        Listening::start(self.services.clone(), at).await
    }

    /// The same on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn listen_on_loopback(&self) -> std::io::Result<Listening> {
        self.listen((Ipv4Addr::LOCALHOST, 0).into()).await
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
        keys.iter()
            .for_each(|key| self.services.keys.put(key.clone()));
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

fn dynamodb_client(services: &Services) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .http_client(InProcess(services.clone()))
        .endpoint_url(NOWHERE)
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

fn kms_client(services: &Services) -> aws_sdk_kms::Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(aws_sdk_kms::config::BehaviorVersion::latest())
        .http_client(InProcess(services.clone()))
        .endpoint_url(NOWHERE)
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
        Err(error) if !error.is_resource_in_use_exception() => Err(service(error)),
        // Made now, or by an earlier start.
        _ => Ok(()),
    }
}
