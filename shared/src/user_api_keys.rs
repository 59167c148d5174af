//! What business code uses: one person's keys.
//!
//! Made for one [`User`]; nothing else in the code base turns a ciphertext into a key.

use time::OffsetDateTime;

use crate::{
    api_key::ApiKey,
    key_table::{KeyReader, Record, TableError},
    provider::Provider,
    sealing::{Binding, Opener, SealingError},
    user::User,
};

/// One person's keys; there is no other person's, no operator's and no fallback.
pub struct UserApiKeys<'a> {
    user: &'a User,
    table: &'a KeyReader,
    opener: &'a Opener,
}

/// An opened key and the record it came with.
pub struct Opened {
    /// The plaintext.
    pub key: ApiKey,
    /// What a list shows of it; `kid` and `hint` name the credential that pays.
    pub record: Record,
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
    /// The keys of `user`.
    #[must_use]
    pub fn of(user: &'a User, table: &'a KeyReader, opener: &'a Opener) -> Self {
        Self {
            user,
            table,
            opener,
        }
    }

    /// Opens one key: one `GetItem`, one `Decrypt`.
    ///
    /// # Errors
    /// [`KeyError`]; never another key instead.
    pub async fn get(&self, provider: Provider, now: OffsetDateTime) -> Result<Opened, KeyError> {
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
        Ok(Opened {
            key,
            record: row.record,
        })
    }
}
