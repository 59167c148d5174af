//! The key in use and the one it replaced: a save, a restore and a delete change both together.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    primitives::Blob,
    types::{AttributeValue, Delete, Put, TransactWriteItem, builders::DeleteBuilder},
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    CURRENT, Item, KeyWriter, NewKey, PREVIOUS, Record, SAME_VERSION, SealedRow, Status,
    TableError, failure, key_of, past, primary_key, sealed_row, text,
};
use crate::{
    audit::Entry,
    config::KeyArn,
    provider::Provider,
    sealing::{CONTEXT_VERSION, FORMAT},
    user::User,
};

/// How long a key that was replaced can be brought back.
const KEPT: Duration = Duration::DAY;
/// How often a write is tried again because others write the same row.
const ROUNDS: usize = 5;

/// What of a row that was read must be as it was, for a save or a restore to write over it.
pub const SAME_REVISION: [&str; 2] = ["kid", "rev"];

/// What a row may be put over.
enum Over<'a> {
    Anything,
    Nothing,
    /// A row that is still as it was read.
    Read(&'a Item),
}

/// A key's row as it stood before a save. No `Debug`: the ciphertext is in it.
pub struct Before(Option<Item>);

impl Before {
    /// Whether there is a key.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The version of that key.
    #[must_use]
    pub fn version(&self) -> Option<u64> {
        self.0.as_ref().map(|row| number(row, "ver"))
    }
}

/// A key in use and the one it replaced, which is still kept. No `Debug`: ciphertexts are in it.
pub struct Restorable {
    current: Item,
    previous: Item,
    wanted: Record,
    kms_key: KeyArn,
}

/// How a key is brought back.
#[derive(Debug)]
pub struct Restore {
    /// The version that must be in use, where the caller named one (`If-Match`).
    pub replaces: Option<u64>,
    /// What goes on the record with it, or not at all.
    pub record: Option<Entry>,
    /// When.
    pub now: OffsetDateTime,
}

impl Restorable {
    /// The version of the key in use.
    #[must_use]
    pub fn version(&self) -> u64 {
        number(&self.current, "ver")
    }

    /// The key that would come back.
    #[must_use]
    pub fn wanted(&self) -> &Record {
        &self.wanted
    }
}

impl KeyWriter {
    /// One strongly consistent `GetItem`, for [`Self::save`].
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn before(&self, user: &User, provider: Provider) -> Result<Before, TableError> {
        Ok(Before(self.0.get(primary_key(user, provider)).await?))
    }

    /// One `TransactWriteItems`: ciphertext, kid, KMS key and hint change together or not at all, the
    /// key they replace goes into its own row, and it is on the record. Returns the version, counted from 1. The kid makes
    /// it once: an attempt after one whose answer was lost finds its own kid and changes nothing.
    ///
    /// # Errors
    /// [`TableError`]; the old keys are whole.
    pub async fn save(
        &self,
        user: &User,
        Before(mut before): Before,
        new: &NewKey<'_>,
        now: OffsetDateTime,
    ) -> Result<u64, TableError> {
        for _ in 0..ROUNDS {
            let version = before.as_ref().map(|row| number(row, "ver"));
            if before.as_ref().and_then(|row| row.get("kid")) == Some(&text(new.kid)) {
                return Ok(version.unwrap_or_default());
            }
            if new.replaces.is_some_and(|asked| version != Some(asked)) {
                return Err(TableError::Condition);
            }
            let row = new_row(user, before.as_ref(), new, now)?;
            let mut writes = match &before {
                None => vec![self.put_of(row, Over::Nothing)?],
                Some(old) => self.replacing(user, new.provider, row, old, None, now)?,
            };
            if let Some(Entry(record)) = &new.record {
                writes.push(self.put_of(record.clone(), Over::Anything)?);
            }
            match self.transact(writes).await {
                Ok(()) => return Ok(version.unwrap_or_default() + 1),
                Err(TableError::Condition | TableError::Conflict) => {
                    before = self.before(user, new.provider).await?.0;
                }
                Err(error) => return Err(error),
            }
        }
        Err(TableError::Conflict)
    }

    /// One transaction that saves the key if the person has none of this provider; whether it did. Sent
    /// again by the SDK it is the same transaction.
    ///
    /// # Errors
    /// [`TableError`]; nothing has changed, or its answer was lost.
    pub async fn add(
        &self,
        user: &User,
        new: &NewKey<'_>,
        now: OffsetDateTime,
    ) -> Result<bool, TableError> {
        let row = new_row(user, None, new, now)?;
        match self.transact(vec![self.put_of(row, Over::Nothing)?]).await {
            Ok(()) => Ok(true),
            Err(TableError::Condition) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Two `GetItem`s side by side, for [`Self::restore`]. Only a key under `kms_key`, which seals,
    /// comes back: one that a rotation has not moved yet could otherwise pass behind it unseen.
    ///
    /// # Errors
    /// [`TableError::Condition`] when no earlier key is kept at `now`, [`TableError::Conflict`] when
    /// it is to be moved first.
    pub async fn restorable(
        &self,
        user: &User,
        provider: Provider,
        kms_key: &KeyArn,
        now: OffsetDateTime,
    ) -> Result<Restorable, TableError> {
        let previous = self.0.get(key_of(user, PREVIOUS, provider));
        let (current, previous) =
            tokio::try_join!(self.0.get(primary_key(user, provider)), previous)?;
        let (Some(current), Some(previous)) = (current, previous) else {
            return Err(TableError::Condition);
        };
        let kept_until = previous.get("kept_until").and_then(|at| at.as_s().ok());
        if kept_until.is_none_or(|at| past(at, now)) {
            return Err(TableError::Condition);
        }
        let SealedRow { record, sealed } = sealed_row(previous.clone())?;
        if sealed.key_arn != *kms_key {
            return Err(TableError::Conflict);
        }
        Ok(Restorable {
            wanted: record,
            kms_key: sealed.key_arn,
            current,
            previous,
        })
    }

    /// One `TransactWriteItems`: the key that was replaced and the key in use change places, `kept_until`
    /// counts from now, and it is on the record. Returns the version. With `replaces` only one of
    /// several at once goes through; without it the others find the key in use and change nothing.
    ///
    /// # Errors
    /// [`TableError::Condition`] when either key was replaced or deleted meanwhile; nothing changes.
    pub async fn restore(
        &self,
        user: &User,
        provider: Provider,
        mut keys: Restorable,
        Restore {
            replaces,
            record,
            now,
        }: Restore,
    ) -> Result<u64, TableError> {
        let kid = text(&keys.wanted.kid);
        for _ in 0..ROUNDS {
            let version = keys.version() + 1;
            let row = restored_row(user, provider, &keys, now)?;
            let both = Some(&keys.previous);
            let mut writes = self.replacing(user, provider, row, &keys.current, both, now)?;
            if let Some(Entry(record)) = &record {
                writes.push(self.put_of(record.clone(), Over::Anything)?);
            }
            match self.transact(writes).await {
                Ok(()) => return Ok(version),
                Err(TableError::Condition | TableError::Conflict) => {}
                Err(error) => return Err(error),
            }
            let before = self.before(user, provider).await?.0;
            // Brought back by somebody else: not by an attempt of ours, which has one token for all.
            if let Some(row) = before.filter(|row| row.get("kid") == Some(&kid)) {
                return match replaces {
                    Some(_) => Err(TableError::Condition),
                    None => Ok(number(&row, "ver")),
                };
            }
            let again = self.restorable(user, provider, &keys.kms_key, now).await?;
            let same = |a: &Item, b: &Item| a.get("kid") == b.get("kid");
            if replaces.is_some_and(|asked| asked != again.version())
                || !same(&again.current, &keys.current)
                || !same(&again.previous, &keys.previous)
            {
                return Err(TableError::Condition);
            }
            keys = again;
        }
        Err(TableError::Conflict)
    }

    /// One `TransactWriteItems`: keys and those they replaced go together. Deleting nothing is fine,
    /// unless the caller named the `version` that must go (`If-Match`).
    ///
    /// # Errors
    /// [`TableError`], [`TableError::Condition`] for another version; all are there still.
    pub async fn delete(
        &self,
        user: &User,
        providers: &[Provider],
        version: Option<u64>,
    ) -> Result<(), TableError> {
        let rows = |prefix| {
            let keys = providers.iter().map(move |&of| key_of(user, prefix, of));
            keys.map(|key| {
                Delete::builder()
                    .table_name(&self.0.name)
                    .set_key(Some(key))
            })
        };
        let current = rows(CURRENT).map(|delete| match version {
            None => delete,
            Some(version) => delete
                .condition_expression(SAME_VERSION)
                .expression_attribute_values(":version", AttributeValue::N(version.to_string())),
        });
        let deletes: Vec<_> = current
            .chain(rows(PREVIOUS))
            .map(delete_of)
            .collect::<Result<_, _>>()?;
        for _ in 0..ROUNDS {
            match self.transact(deletes.clone()).await {
                Err(TableError::Conflict) => {}
                other => return other,
            }
        }
        Err(TableError::Conflict)
    }

    /// Puts `row` in the place of `old`, which is kept as the previous one; both only if the rows are
    /// still as they were read.
    fn replacing(
        &self,
        user: &User,
        provider: Provider,
        row: Item,
        old: &Item,
        previous: Option<&Item>,
        now: OffsetDateTime,
    ) -> Result<Vec<TransactWriteItem>, TableError> {
        let until = now + KEPT;
        let mut kept = old.clone();
        kept.extend(key_of(user, PREVIOUS, provider));
        kept.insert("kept_until".to_owned(), text(&until.format(&Rfc3339)?));
        let ttl = AttributeValue::N(until.unix_timestamp().to_string());
        kept.insert("ttl".to_owned(), ttl);
        let over_previous = previous.map_or(Over::Anything, Over::Read);
        let puts = [(row, Over::Read(old)), (kept, over_previous)];
        let puts = puts.map(|(row, over)| self.put_of(row, over));
        puts.into_iter().collect()
    }

    fn put_of(&self, row: Item, over: Over<'_>) -> Result<TransactWriteItem, TableError> {
        let mut put = Put::builder().table_name(&self.0.name).set_item(Some(row));
        match over {
            Over::Anything => {}
            Over::Nothing => put = put.condition_expression("attribute_not_exists(pk)"),
            Over::Read(read) => {
                let mut conditions = vec!["attribute_exists(pk)".to_owned()];
                for name in SAME_REVISION {
                    conditions.push(match read.get(name) {
                        Some(value) => {
                            put =
                                put.expression_attribute_values(format!(":{name}"), value.clone());
                            format!("{name}=:{name}")
                        }
                        // A damaged row can be saved over, too.
                        None => format!("attribute_not_exists({name})"),
                    });
                }
                put = put.condition_expression(conditions.join(" AND "));
            }
        }
        let put = put.build().map_err(|_| TableError::Corrupt("put"))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// The SDK gives every attempt of one transaction the same token, so it happens once.
    async fn transact(&self, writes: Vec<TransactWriteItem>) -> Result<(), TableError> {
        let transaction = self.0.dynamodb.transact_write_items();
        let answer = transaction.set_transact_items(Some(writes)).send().await;
        answer.map_err(|error| cancelled(&error))?;
        Ok(())
    }
}

fn delete_of(delete: DeleteBuilder) -> Result<TransactWriteItem, TableError> {
    let delete = delete.build().map_err(|_| TableError::Corrupt("delete"))?;
    Ok(TransactWriteItem::builder().delete(delete).build())
}

/// Why a transaction did not happen, by the codes of its parts.
fn cancelled(error: &SdkError<TransactWriteItemsError>) -> TableError {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
        error.as_service_error()
    else {
        return failure(error);
    };
    let reasons = cancelled.cancellation_reasons().iter();
    let codes: Vec<_> = reasons.filter_map(|reason| reason.code()).collect();
    match codes.iter().find(|code| **code != "None") {
        Some(&"ConditionalCheckFailed") => TableError::Condition,
        Some(&"TransactionConflict") => TableError::Conflict,
        code => TableError::Unavailable((*code.unwrap_or(&"cancelled")).to_owned()),
    }
}

/// A whole number of a row; 0 where there is none.
fn number(row: &Item, name: &str) -> u64 {
    let value = row.get(name).and_then(|value| value.as_n().ok());
    value.and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Counts on from the row that was there.
fn counted(mut row: Item, user: &User, provider: Provider, before: Option<&Item>) -> Item {
    row.extend(primary_key(user, provider));
    for name in ["ver", "rev"] {
        let next = before.map_or(0, |row| number(row, name)) + 1;
        row.insert(name.to_owned(), AttributeValue::N(next.to_string()));
    }
    if let Some(created_at) = before.and_then(|row| row.get("created_at")) {
        row.insert("created_at".to_owned(), created_at.clone());
    }
    row
}

fn new_row(
    user: &User,
    before: Option<&Item>,
    new: &NewKey<'_>,
    now: OffsetDateTime,
) -> Result<Item, TableError> {
    let now = now.format(&Rfc3339)?;
    let expires_at = new.expires_at.map(|at| at.format(&Rfc3339)).transpose()?;
    let active = new.status == Status::Active;
    let texts = [
        ("fmt", Some(FORMAT)),
        ("ctxv", Some(CONTEXT_VERSION)),
        ("kid", Some(new.kid)),
        ("cmk", Some(new.sealed.key_arn.as_str())),
        ("hint", Some(new.hint)),
        ("status", Some(new.status.as_str())),
        ("created_at", Some(&now)),
        ("updated_at", Some(&now)),
        ("expires_at", expires_at.as_deref()),
        ("description", new.description),
        ("checked_at", active.then_some(now.as_str())),
        ("last_check", active.then_some("valid")),
    ];
    let set = texts
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), text(value?))));
    let mut row: HashMap<_, _> = set.collect();
    let ciphertext = Blob::new(new.sealed.ciphertext.as_slice());
    row.insert("ct".to_owned(), AttributeValue::B(ciphertext));
    row.insert("enabled".to_owned(), AttributeValue::Bool(true));
    Ok(counted(row, user, new.provider, before))
}

fn restored_row(
    user: &User,
    provider: Provider,
    keys: &Restorable,
    now: OffsetDateTime,
) -> Result<Item, TableError> {
    let mut row = keys.previous.clone();
    row.remove("kept_until");
    row.remove("ttl");
    row.insert("updated_at".to_owned(), text(&now.format(&Rfc3339)?));
    Ok(counted(row, user, provider, Some(&keys.current)))
}
