//! Keys of many people, saved and opened as the functions do it, and what should be there afterwards.

use std::collections::BTreeMap;

use embedded::Embedded;
use secrecy::SecretString;
use time::OffsetDateTime;
use user_api_keys::{
    api_key::ApiKey,
    audit::{Action, Event},
    auth::TrustedCaller,
    aws::Aws,
    config::Config,
    key_table::{KeyWriter, NewKey, Restore, TableError},
    provider::Provider,
    sealing::{Binding, Sealer},
    user::User,
    user_api_keys::{KeyAccess, UserApiKeys},
};

/// What save-keys and a function that opens every key can reach, with one setting of KMS keys.
pub(crate) struct Functions {
    sealer: Sealer,
    keys: KeyWriter,
    access: KeyAccess,
    trusted: TrustedCaller,
}

/// Whose key of which provider.
pub(crate) type Slot = (String, Provider);

/// The key in use and the one it replaced, in clear.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) current: Option<String>,
    pub(crate) previous: Option<String>,
}

impl Functions {
    pub(crate) fn new(config: &Config, aws: &Aws) -> Self {
        Self {
            sealer: Sealer::new(aws.kms.clone(), config),
            keys: KeyWriter::new(aws.dynamodb.clone(), config.table_name.clone()),
            access: KeyAccess::new(config, aws, "test", Provider::ALL),
            trusted: TrustedCaller::new(config).unwrap(),
        }
    }

    fn user(&self, slot: &Slot) -> User {
        self.trusted.user(&slot.0).unwrap()
    }

    pub(crate) async fn save(&self, slot: &Slot, text: &str) -> Result<(), String> {
        let (user, provider) = (self.user(slot), slot.1);
        let kid = ulid::Ulid::new().to_string();
        let key = ApiKey::parse(SecretString::from(text)).ok().unwrap();
        let binding = Binding {
            user: user.id(),
            provider,
            kid: &kid,
        };
        let said = |error: TableError| error.to_string();
        let sealed = self.sealer.seal(&key, &binding).await;
        let hint = key.hint();
        let new = NewKey::unverified(
            provider,
            &kid,
            sealed.map_err(|error| error.to_string())?,
            &hint,
        );
        let now = OffsetDateTime::now_utc();
        let before = self.keys.before(&user, provider).await.map_err(said)?;
        let saved = self.keys.save(&user, before, &new, now).await;
        saved.map(|_| ()).map_err(said)
    }

    pub(crate) async fn delete(&self, slot: &Slot) -> Result<(), String> {
        let deleted = self.keys.delete(&self.user(slot), &[slot.1], None).await;
        deleted.map_err(|error| error.to_string())
    }

    pub(crate) async fn restore(&self, slot: &Slot) -> Result<(), String> {
        let (user, now) = (self.user(slot), OffsetDateTime::now_utc());
        let said = |error: TableError| error.to_string();
        let keys = self
            .keys
            .restorable(&user, slot.1, self.sealer.kms_key(), now)
            .await;
        let keys = keys.map_err(said)?;
        let plainly = Restore {
            replaces: None,
            record: None,
            now,
        };
        let restored = self.keys.restore(&user, slot.1, keys, plainly).await;
        restored.map(|_| ()).map_err(said)
    }

    /// The key in use, in clear, after a real `Decrypt`; `None` when there is none.
    pub(crate) async fn open(&self, slot: &Slot) -> Result<Option<String>, String> {
        let user = self.user(slot);
        let event = Event {
            action: Action::Check,
            provider: Some(slot.1),
            kid: None,
            purpose: None,
            request_id: "r-1",
            now: OffsetDateTime::now_utc(),
        };
        let keys = UserApiKeys::of(&user, &self.access, None);
        match keys.get(slot.1, &event).await {
            // EXPOSE: to compare it with what was saved.
            Ok(opened) => Ok(Some(opened.key.expose().to_owned())),
            Err(error) if error.is_the_persons() => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Every slot opens to what it should, and so does what was replaced, once it is restored.
    pub(crate) async fn check(&self, expected: &BTreeMap<Slot, Pair>) {
        for (slot, pair) in expected {
            assert_eq!(self.open(slot).await, Ok(pair.current.clone()), "{slot:?}");
            let restored = self.restore(slot).await;
            match &pair.previous {
                Some(_) => {
                    assert_eq!(restored, Ok(()), "{slot:?}");
                    assert_eq!(self.open(slot).await, Ok(pair.previous.clone()), "{slot:?}");
                }
                None => assert!(restored.is_err(), "{slot:?} has nothing to restore"),
            }
        }
    }
}

/// Rows by the KMS key they are under.
pub(crate) async fn by_kms_key(services: &Embedded) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut pages = services
        .dynamodb
        .scan()
        .table_name(&services.table_name)
        .consistent_read(true)
        .into_paginator()
        .items()
        .send();
    while let Some(item) = pages.next().await {
        if let Some(key) = item.unwrap().get("cmk") {
            *found.entry(key.as_s().unwrap().clone()).or_default() += 1;
        }
    }
    found
}
