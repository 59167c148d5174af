//! What business code uses: one person's keys.
//!
//! Made for one [`User`]; nothing else in the code base turns a ciphertext into a key.

use serde::{Serialize, Serializer};

use crate::{
    api_key::ApiKey,
    audit::{AuditWriter, Event, Outcome},
    developer_keys::DeveloperKeys,
    key_table::{KeyReader, TableError},
    provider::Provider,
    sealing::{Binding, Opener, SealingError},
    user::User,
};

/// One person's keys; there is no other person's, no operator's and no fallback.
pub struct UserApiKeys<'a> {
    user: &'a User,
    table: &'a KeyReader,
    opener: &'a Opener,
    audit: &'a AuditWriter,
    developer: Option<&'a DeveloperKeys>,
}

/// An opened key and what names it.
pub struct Opened {
    /// The plaintext.
    pub key: ApiKey,
    /// Which one it is.
    pub credential: Credential,
}

/// Names a key without being it: this is what paid.
#[derive(Debug, Clone, Serialize)]
pub struct Credential {
    /// Whose key it is.
    #[serde(serialize_with = "name")]
    pub provider: Provider,
    /// The key's own id; `env:<variable>` for the developer's own environment or file.
    pub kid: String,
    /// Last four characters, or empty.
    pub hint: String,
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
    pub fn of(
        user: &'a User,
        table: &'a KeyReader,
        opener: &'a Opener,
        audit: &'a AuditWriter,
        developer: Option<&'a DeveloperKeys>,
    ) -> Self {
        Self {
            user,
            table,
            opener,
            audit,
            developer,
        }
    }

    /// Opens one key: one `GetItem`, then side by side one `Decrypt` and the audit record, without
    /// which the key is not handed out. In Local mode the developer's environment and `.env` come
    /// first.
    ///
    /// # Errors
    /// [`KeyError`]; never another key instead.
    pub async fn get(&self, provider: Provider, event: &Event<'_>) -> Result<Opened, KeyError> {
        if let Some(key) = self.developer.and_then(|keys| keys.find(provider)) {
            let credential = Credential {
                provider,
                kid: format!("env:{}", provider.facts().env),
                hint: key.hint(),
            };
            let event = about(event, provider, &credential.kid);
            self.audit.write(self.user, &event, Outcome::Ok).await?;
            return Ok(Opened { key, credential });
        }
        let row = self
            .table
            .get(self.user, provider)
            .await?
            .ok_or(KeyError::Missing(provider))?;
        let event = about(event, provider, &row.record.kid);
        let unusable = match row.record.enabled {
            false => Some(KeyError::Paused(provider)),
            true => row
                .record
                .expired(event.now)
                .then_some(KeyError::Expired(provider)),
        };
        if let Some(error) = unusable {
            self.audit.note(self.user, &event, Outcome::Refused).await;
            return Err(error);
        }
        let binding = Binding {
            user: self.user.id(),
            provider,
            kid: &row.record.kid,
        };
        let (opened, audited) = tokio::join!(
            self.opener.open(&row.sealed, &binding),
            self.audit.write(self.user, &event, Outcome::Ok),
        );
        audited?;
        let key = match opened {
            Ok(key) => key,
            Err(error) => {
                self.audit.note(self.user, &event, Outcome::Refused).await;
                return Err(error.into());
            }
        };
        let credential = Credential {
            provider,
            kid: row.record.kid,
            hint: row.record.hint,
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
