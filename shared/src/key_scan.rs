//! Everybody's key rows, page by page, for scheduled jobs, and the one write that moves a ciphertext.
//!
//! Authority is a type: [`KeyScanner`] only reads, [`KeyMover`] only replaces one ciphertext by
//! another of the same key, [`Cursors`] only keeps where a job stopped. Nobody is there in a scheduled job, so whose row it is stands in its
//! primary key alone; what the row says of itself proves nothing, and KMS refuses it where it is not
//! true.

mod cursors;

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::UpdateItemError,
    primitives::Blob,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure, Select},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    key_table::{
        CURRENT, Item, PREVIOUS, RECORD, Record, TableError, failure, record, take_sealed, text,
    },
    provider::Provider,
    sealing::Sealed,
    telemetry::hashed_text,
    user::User,
};

pub use cursors::{Cursor, Cursors};

/// What moving a ciphertext takes.
const SEALED: &str = "pk, sk, fmt, ctxv, kid, ct, cmk, rev";

/// Rows of one `Scan`, so that memory does not depend on the table: some 500 KB, half of what DynamoDB
/// would return.
const PAGE: i32 = 500;

/// When a ciphertext may be replaced: the row is there (an `UpdateItem` would bring a deleted one
/// back), holds the same key in the same revision, and under the KMS key that was read. All of
/// rotation's safety rests on it; the model in `tests/rotation_model.rs` shows what breaks without.
pub const UNCHANGED: &str = "attribute_exists(pk) AND kid=:kid AND rev=:rev AND cmk=:old";

/// What is read of every row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fields {
    /// Ciphertexts of keys in use and of those they replaced.
    Sealed,
    /// Records of keys in use.
    Record,
}

/// One of `total` parts of the table, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    number: i32,
    total: i32,
}

impl Segment {
    /// `None` unless `number` is below `total` and that at most 1,000,000, which is DynamoDB's limit.
    #[must_use]
    pub fn new(number: u32, total: u32) -> Option<Self> {
        let fits = number < total && total <= 1_000_000;
        Some(Self {
            number: i32::try_from(number).ok().filter(|_| fits)?,
            total: i32::try_from(total).ok()?,
        })
    }
}

/// Where a pass goes on: the primary key of the last row that is done. It names a user, so it is kept in
/// the table ([`Cursors`]) and nobody else is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pk: String,
    sk: String,
}

impl Place {
    fn of(item: &Item) -> Result<Self, TableError> {
        let part = |name| item.get(name)?.as_s().ok().cloned();
        match (part("pk"), part("sk")) {
            (Some(pk), Some(sk)) => Ok(Self { pk, sk }),
            _ => Err(TableError::Corrupt("primary key")),
        }
    }

    fn key(&self) -> Item {
        [("pk", text(&self.pk)), ("sk", text(&self.sk))]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}

/// One key row of anybody's. No `Debug`: the ciphertext may be in it.
pub struct Row {
    place: Place,
    item: Item,
}

/// A sealed key and the revision in which it was read. No `Debug`: the ciphertext is in it.
pub struct Revision {
    /// The key's own id.
    pub kid: String,
    /// What `sealing` moves.
    pub sealed: Sealed,
    rev: AttributeValue,
}

impl Row {
    /// Where a pass goes on after it.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Whose it is.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] for a primary key of nobody's.
    pub fn owner(&self) -> Result<User, TableError> {
        User::of_row(&self.place.pk).ok_or(TableError::Corrupt("user id"))
    }

    /// Whose key it is, in use or replaced.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] for a provider this version does not know.
    pub fn provider(&self) -> Result<Provider, TableError> {
        let sk = &self.place.sk;
        let name = sk
            .strip_prefix(CURRENT)
            .or_else(|| sk.strip_prefix(PREVIOUS));
        let provider = name.and_then(|name| name.parse().ok());
        provider.ok_or(TableError::Corrupt("provider"))
    }

    /// What it seals; read with [`Fields::Sealed`].
    ///
    /// # Errors
    /// [`TableError::Corrupt`] for a row of another format or shape.
    pub fn revision(&self) -> Result<Revision, TableError> {
        let mut item = self.item.clone();
        let sealed = take_sealed(&mut item)?;
        let kid = item.get("kid").and_then(|kid| kid.as_s().ok());
        Ok(Revision {
            kid: kid.ok_or(TableError::Corrupt("kid"))?.clone(),
            rev: item.remove("rev").ok_or(TableError::Corrupt("rev"))?,
            sealed,
        })
    }

    /// The KMS key it names; read with [`Fields::Sealed`].
    #[must_use]
    pub fn kms_key(&self) -> Option<&str> {
        Some(self.item.get("cmk")?.as_s().ok()?)
    }

    /// What a list shows of it; read with [`Fields::Record`].
    ///
    /// # Errors
    /// [`TableError::Corrupt`]
    pub fn record(&self) -> Result<Record, TableError> {
        record(self.item.clone())
    }

    /// Names it for the person who runs this, and no person: `(whose, hashed; sort key; kid)`.
    #[must_use]
    pub fn name(&self, deploy_env: &str) -> (String, String, Option<String>) {
        let user = self.place.pk.trim_start_matches("USER#");
        let kid = self.item.get("kid").and_then(|kid| kid.as_s().ok());
        let is_kid = |kid: &&String| ulid::Ulid::from_string(kid).is_ok();
        (
            hashed_text(deploy_env, user),
            self.place.sk.clone(),
            kid.filter(is_kid).cloned(),
        )
    }
}

/// A part of a segment.
pub struct Page {
    /// In the order of a scan.
    pub rows: Vec<Row>,
    /// Where the next one begins; `None` at the segment's end.
    pub next: Option<Place>,
}

/// Reads everybody's rows.
#[derive(Debug, Clone)]
pub struct KeyScanner {
    dynamodb: Client,
    table: String,
}

impl KeyScanner {
    /// Reads from `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One strongly consistent `Scan` of at most 500 rows.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn page(
        &self,
        segment: Segment,
        after: Option<&Place>,
        fields: Fields,
    ) -> Result<Page, TableError> {
        let mut scan = self
            .dynamodb
            .scan()
            .table_name(&self.table)
            .consistent_read(true)
            // The role demands it: no more than these attributes.
            .select(Select::SpecificAttributes)
            .limit(PAGE)
            .set_exclusive_start_key(after.map(Place::key))
            .expression_attribute_values(":current", text(CURRENT));
        scan = match fields {
            Fields::Sealed => scan
                .filter_expression("begins_with(sk, :current) OR begins_with(sk, :previous)")
                .expression_attribute_values(":previous", text(PREVIOUS))
                .projection_expression(SEALED),
            Fields::Record => scan
                .filter_expression("begins_with(sk, :current)")
                .expression_attribute_names("#status", "status")
                .projection_expression(format!("pk, {RECORD}")),
        };
        // The one segment of one is the whole table, which DynamoDB reads without being told so.
        if segment.total > 1 {
            scan = scan.segment(segment.number).total_segments(segment.total);
        }
        let answer = scan.send().await.map_err(|error| failure(&error))?;
        let row = |item: Item| {
            let place = Place::of(&item)?;
            Ok(Row { place, item })
        };
        let rows = answer.items.unwrap_or_default().into_iter().map(row);
        Ok(Page {
            rows: rows.collect::<Result<_, TableError>>()?,
            next: answer
                .last_evaluated_key
                .as_ref()
                .map(Place::of)
                .transpose()?,
        })
    }
}

/// Replaces a ciphertext by another of the same key, and can change nothing else.
#[derive(Debug, Clone)]
pub struct KeyMover {
    dynamodb: Client,
    table: String,
}

impl KeyMover {
    /// Writes to `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One `UpdateItem`, if the row is [`UNCHANGED`]. An attempt after one whose answer was lost finds
    /// its own ciphertext and is done.
    ///
    /// # Errors
    /// [`TableError::Condition`] or [`TableError::Conflict`] when somebody wrote or deleted the row
    /// meanwhile; nothing has changed.
    pub async fn replace(
        &self,
        row: &Row,
        read: &Revision,
        moved: &Sealed,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let ciphertext = AttributeValue::B(Blob::new(moved.ciphertext.as_slice()));
        let answer = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .set_key(Some(row.place.key()))
            .update_expression("SET ct=:ct, cmk=:new, rewrapped_at=:now, rev=rev+:one")
            .condition_expression(UNCHANGED)
            .expression_attribute_values(":ct", ciphertext.clone())
            .expression_attribute_values(":new", text(moved.key_arn.as_str()))
            .expression_attribute_values(":now", text(&now.format(&Rfc3339)?))
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":kid", text(&read.kid))
            .expression_attribute_values(":rev", read.rev.clone())
            .expression_attribute_values(":old", text(read.sealed.key_arn.as_str()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed))
                if failed.item().and_then(|row| row.get("ct")) == Some(&ciphertext) =>
            {
                Ok(())
            }
            _ => Err(failure(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_one_of_as_many_as_dynamodb_takes() {
        assert!(Segment::new(0, 1).is_some() && Segment::new(999_999, 1_000_000).is_some());
        for (number, total) in [(0, 0), (1, 1), (5, 4), (0, 1_000_001), (u32::MAX, u32::MAX)] {
            assert_eq!(Segment::new(number, total), None, "{number} of {total}");
        }
    }
}
