//! What business code uses: one person's keys.
//!
//! Made for one [`User`]; nothing else in the code base turns a ciphertext into a key.

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    api_key::ApiKey,
    audit::{Action, AuditWriter, Event, Outcome},
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    key_table::{KeyMarker, KeyReader, Record, SealedRow, Status, TableError},
    provider::Provider,
    sealing::{Binding, Opener, SealingError},
    telemetry,
    user::User,
};

/// One person's keys; there is no other person's, no operator's and no fallback.
pub struct UserApiKeys<'a> {
    user: &'a User,
    access: &'a KeyAccess,
    developer: Option<&'a DeveloperKeys>,
}

/// All that it takes to open keys, on the record.
pub struct KeyAccess {
    /// Reads the row.
    pub table: KeyReader,
    /// Opens what is in it.
    pub opener: Opener,
    /// Puts it on the record.
    pub audit: AuditWriter,
    /// Notes the day.
    pub marker: KeyMarker,
}

impl KeyAccess {
    /// For `function`, which may open keys of the providers in `opens`.
    #[must_use]
    pub fn new(config: &Config, aws: &Aws, function: &'static str, opens: &[Provider]) -> Self {
        let (dynamodb, table) = (|| aws.dynamodb.clone(), || config.table_name.clone());
        Self {
            table: KeyReader::new(dynamodb(), table()),
            opener: Opener::new(aws.kms.clone(), config, opens),
            audit: AuditWriter::new(dynamodb(), table(), function),
            marker: KeyMarker::new(dynamodb(), table()),
        }
    }
}

/// An opened key and what names it.
pub struct Opened {
    /// The plaintext.
    pub key: ApiKey,
    /// Which one it is.
    pub credential: Credential,
}

/// Names a key without being it: this is what paid.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Credential {
    /// Whose key it is.
    #[serde(serialize_with = "name")]
    pub provider: Provider,
    /// The key's own id; `env:<variable>` for the developer's own environment or file.
    pub kid: String,
    /// Last four characters, or empty.
    pub hint: String,
    /// Whether it has been seen to work, as far as we know; a key without a row counts as that.
    #[serde(skip)]
    #[schema(ignore)]
    pub proven: bool,
}

fn name<S: Serializer>(provider: &Provider, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(provider.name())
}

/// Why a person's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// None saved.
    #[error("no {0} key saved")]
    Missing(Provider),
    /// Its time is over.
    #[error("the {0} key has expired")]
    Expired(Provider),
    /// The person paused it.
    #[error("the {0} key is paused")]
    Paused(Provider),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// KMS.
    #[error(transparent)]
    Sealing(#[from] SealingError),
}

impl KeyError {
    /// Whether the person has no usable key, rather than something having failed.
    #[must_use]
    pub fn is_the_persons(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Expired(_) | Self::Paused(_) => true,
            Self::Table(_) | Self::Sealing(_) => false,
        }
    }
}

impl<'a> UserApiKeys<'a> {
    /// The keys of `user`; `developer` is there in Local mode only.
    #[must_use]
    pub fn of(user: &'a User, access: &'a KeyAccess, developer: Option<&'a DeveloperKeys>) -> Self {
        Self {
            user,
            access,
            developer,
        }
    }

    /// Finds and opens one key. In Local mode the developer's environment and `.env` come first, and a
    /// row that is paused or expired keeps them from being used, too.
    ///
    /// # Errors
    /// [`KeyError`]; never another key instead.
    pub async fn get(&self, provider: Provider, event: &Event<'_>) -> Result<Opened, KeyError> {
        self.find(provider).await?.open(event).await
    }

    /// Finds one key and opens nothing yet: one `GetItem`.
    ///
    /// # Errors
    /// [`KeyError::Missing`], or the table.
    pub async fn find(&self, provider: Provider) -> Result<Found<'_>, KeyError> {
        let row = self.access.table.get(self.user, provider).await?;
        let place = match self.developer.and_then(|keys| keys.find(provider)) {
            Some(key) => Place::Developer(key, row.map(|row| Box::new(row.record))),
            None => Place::Table(Box::new(row.ok_or(KeyError::Missing(provider))?)),
        };
        Ok(Found {
            keys: self,
            provider,
            place,
        })
    }
}

/// A key that is there, not opened yet.
pub struct Found<'a> {
    keys: &'a UserApiKeys<'a>,
    provider: Provider,
    place: Place,
}

enum Place {
    /// With the row's record, where there is a row.
    Developer(ApiKey, Option<Box<Record>>),
    Table(Box<SealedRow>),
}

impl Found<'_> {
    /// The row's record; none for the developer's own key.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match &self.place {
            Place::Developer(..) => None,
            Place::Table(row) => Some(&row.record),
        }
    }

    /// Whose key it is.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// Whether the key has been seen to work. One that has not counts against [`Class::Check`] before it
    /// is used: whoever tries out keys that they found learns of no more here than from saving them.
    ///
    /// [`Class::Check`]: crate::rate_limit::Class::Check
    #[must_use]
    pub fn proven(&self) -> bool {
        self.record()
            .is_none_or(|record| record.status == Status::Active)
    }

    /// Side by side one `Decrypt`, the audit record, without which the key is not handed out, and on
    /// the first use of a day the day.
    ///
    /// # Errors
    /// [`KeyError`]; a refused open is on the record too.
    pub async fn open(self, event: &Event<'_>) -> Result<Opened, KeyError> {
        let opened = match self.place {
            Place::Developer(key, row) => {
                let keys = self.keys;
                keys.of_developer(self.provider, key, row, event).await?
            }
            Place::Table(row) => self.keys.of_table(self.provider, *row, event).await?,
        };
        telemetry::opened(self.keys.access.audit.function(), self.provider);
        Ok(opened)
    }
}

impl UserApiKeys<'_> {
    async fn of_developer(
        &self,
        provider: Provider,
        key: ApiKey,
        row: Option<Box<Record>>,
        event: &Event<'_>,
    ) -> Result<Opened, KeyError> {
        let credential = Credential {
            provider,
            kid: format!("env:{}", provider.facts().env),
            hint: key.hint(),
            proven: true,
        };
        let event = about(event, provider, &credential.kid);
        let audit = &self.access.audit;
        let Some(record) = row else {
            audit.write(self.user, &event, Outcome::Ok).await?;
            return Ok(Opened { key, credential });
        };
        self.refuse_unusable(provider, &record, &event).await?;
        let (audited, ()) = tokio::join!(
            audit.write(self.user, &event, Outcome::Ok),
            self.note_use(provider, &record, &event),
        );
        audited?;
        Ok(Opened { key, credential })
    }

    /// A paused or expired key is on the record as refused.
    async fn refuse_unusable(
        &self,
        provider: Provider,
        record: &Record,
        event: &Event<'_>,
    ) -> Result<(), KeyError> {
        let error = match record.enabled {
            false => KeyError::Paused(provider),
            true if record.expired(event.now) => KeyError::Expired(provider),
            true => return Ok(()),
        };
        let audit = &self.access.audit;
        audit.note(self.user, event, Outcome::Refused).await;
        Err(error)
    }

    /// The day; a check is not the person's use.
    async fn note_use(&self, provider: Provider, record: &Record, event: &Event<'_>) {
        if matches!(event.action, Action::Check) {
            return;
        }
        let marker = &self.access.marker;
        let marked = marker.used(self.user, provider, record, event.now).await;
        if let Err(error) = marked {
            // A day that is missing from a list keeps nobody from using their key.
            tracing::warn!(%error, request_id = event.request_id, "use not noted");
        }
    }

    async fn of_table(
        &self,
        provider: Provider,
        row: SealedRow,
        event: &Event<'_>,
    ) -> Result<Opened, KeyError> {
        let KeyAccess { opener, audit, .. } = self.access;
        let event = about(event, provider, &row.record.kid);
        self.refuse_unusable(provider, &row.record, &event).await?;
        let binding = Binding {
            user: self.user.id(),
            provider,
            kid: &row.record.kid,
        };
        let (opened, audited, ()) = tokio::join!(
            opener.open(&row.sealed, &binding),
            audit.write(self.user, &event, Outcome::Ok),
            self.note_use(provider, &row.record, &event),
        );
        audited?;
        let key = match opened {
            Ok(key) => key,
            Err(error) => {
                audit.note(self.user, &event, Outcome::Refused).await;
                return Err(error.into());
            }
        };
        let credential = Credential {
            provider,
            kid: row.record.kid,
            hint: row.record.hint,
            proven: row.record.status == Status::Active,
        };
        Ok(Opened { key, credential })
    }
}

/// The same event, about this key.
fn about<'e>(event: &Event<'e>, provider: Provider, kid: &'e str) -> Event<'e> {
    Event {
        provider: Some(provider),
        kid: Some(kid),
        ..*event
    }
}
