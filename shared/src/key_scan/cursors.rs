//! Where a job stopped, kept in the table under a name that says nothing.
//!
//! A cursor passes through the history of a state machine, which more people may read than the table. So
//! it is a random name, `JOB#<cursor>`, of a row that holds the place, and means something to the same
//! part of the same job only.

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use ulid::Ulid;

use super::{Place, Segment};
use crate::key_table::{Item, TableError, failure, text};

const PREFIX: &str = "JOB#";
const SORT_KEY: &str = "CURSOR";
/// Far longer than an execution lasts that goes on by itself.
const KEPT: Duration = Duration::days(7);

/// Names a place, and no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor(Ulid);

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.0.to_string()
    }
}

impl TryFrom<String> for Cursor {
    type Error = ulid::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Ulid::from_string(&text).map(Self)
    }
}

/// Can only keep places and find them again.
#[derive(Debug, Clone)]
pub struct Cursors {
    dynamodb: Client,
    table: String,
}

impl Cursors {
    /// Keeps them in `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One `PutItem`. The name is new each time, so that an invocation that is repeated goes on where
    /// its own cursor says.
    ///
    /// # Errors
    /// [`TableError`]
    pub(crate) async fn keep(
        &self,
        place: &Place,
        job: &str,
        segment: Segment,
        now: OffsetDateTime,
    ) -> Result<Cursor, TableError> {
        let cursor = Cursor(Ulid::new());
        let until = (now + KEPT).unix_timestamp().to_string();
        let mut item = primary_key(cursor);
        item.extend(
            [
                ("job", text(job)),
                ("segment", text(&part(segment))),
                ("at_pk", text(&place.pk)),
                ("at_sk", text(&place.sk)),
                ("ttl", AttributeValue::N(until)),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let put = self.dynamodb.put_item().table_name(&self.table);
        let put = put.set_item(Some(item)).send().await;
        put.map_err(|error| failure(&error))?;
        Ok(cursor)
    }

    /// One consistent `GetItem`; `None` for a cursor that this part of this job was never given.
    ///
    /// # Errors
    /// [`TableError`]
    pub(crate) async fn find(
        &self,
        cursor: Cursor,
        job: &str,
        segment: Segment,
    ) -> Result<Option<Place>, TableError> {
        let get = self.dynamodb.get_item().table_name(&self.table);
        let get = get.set_key(Some(primary_key(cursor))).consistent_read(true);
        let answer = get.send().await.map_err(|error| failure(&error))?;
        let Some(item) = answer.item else {
            return Ok(None);
        };
        let said = |name| item.get(name).and_then(|value| value.as_s().ok());
        let own = said("job").is_some_and(|of| of == job)
            && said("segment").is_some_and(|of| *of == part(segment));
        Ok(match (own, said("at_pk"), said("at_sk")) {
            (true, Some(pk), Some(sk)) => Some(Place {
                pk: pk.clone(),
                sk: sk.clone(),
            }),
            _ => None,
        })
    }
}

fn primary_key(cursor: Cursor) -> Item {
    let partition = format!("{PREFIX}{}", cursor.0);
    [("pk", text(&partition)), ("sk", text(SORT_KEY))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn part(segment: Segment) -> String {
    format!("{}/{}", segment.number, segment.total)
}
