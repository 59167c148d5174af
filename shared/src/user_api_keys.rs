//! What business code uses: one person's keys.
//!
//! Made for one [`User`]; nothing else in the code base turns a ciphertext into a key.

use serde::{Serialize, Serializer};
use time::OffsetDateTime;

use crate::{
    api_key::ApiKey,
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

impl<'a> UserApiKeys<'a> {
    /// The keys of `user`; `developer` is there in Local mode only.
    #[must_use]
    pub fn of(
        user: &'a User,
        table: &'a KeyReader,
        opener: &'a Opener,
        developer: Option<&'a DeveloperKeys>,
    ) -> Self {
        Self {
            user,
            table,
            opener,
            developer,
        }
    }

    /// Opens one key: one `GetItem`, one `Decrypt`. In Local mode the developer's environment and
    /// `.env` come first.
    ///
    /// # Errors
    /// [`KeyError`]; never another key instead.
    pub async fn get(&self, provider: Provider, now: OffsetDateTime) -> Result<Opened, KeyError> {
        if let Some(key) = self.developer.and_then(|keys| keys.find(provider)) {
            let credential = Credential {
                provider,
                kid: format!("env:{}", provider.facts().env),
                hint: key.hint(),
            };
            return Ok(Opened { key, credential });
        }
        let row = self
            .table
            .get(self.user, provider)
            .await?
            .ok_or(KeyError::Missing(provider))?;
        if !row.record.enabled {
            return Err(KeyError::Paused(provider));
        }
        if row.record.expired(now) {
            return Err(KeyError::Expired(provider));
        }
        let binding = Binding {
            user: self.user.id(),
            provider,
            kid: &row.record.kid,
        };
        let key = self.opener.open(&row.sealed, &binding).await?;
        let credential = Credential {
            provider,
            kid: row.record.kid,
            hint: row.record.hint,
        };
        Ok(Opened { key, credential })
    }
}
