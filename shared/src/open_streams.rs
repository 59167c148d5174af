//! How many streamed answers a user has open at once.
//!
//! A stream can hold an instance for minutes, so a count of calls a minute does not keep one user from
//! taking all of them. Each user has a few places in one item, each held by a lease of thirty seconds that is
//! renewed while the stream is open: a place comes back when its stream ends, and by itself when the
//! instance dies.

use std::{convert::Infallible, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    operation::update_item::UpdateItemError,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use time::OffsetDateTime;
use tokio::{runtime::Handle, time::sleep};
use ulid::Ulid;

use crate::{
    key_table::{Item, TableError, failure, partition, text},
    rate_limit::LimitError,
    user::User,
};

/// Most places a user can have: `s0` to `s9` are what a role lets generate-content write.
pub const MAX: u8 = 10;
const SORT: &str = "STREAMS";
/// How long a place stays taken after its holder was last heard of.
const LEASE: Duration = Duration::from_secs(30);
const RENEWED_EVERY: Duration = Duration::from_secs(10);
/// How often another place is tried because somebody else was faster.
const ROUNDS: u8 = MAX;
/// How long the item is kept after the last stream began.
const KEPT_S: i64 = 24 * 3_600;

/// Counts open streams.
#[derive(Debug, Clone)]
pub struct StreamLimiter {
    dynamodb: Client,
    table: String,
    limit: u8,
}

/// A place that is taken; given back by [`Self::close`], or in the background when it is dropped.
#[derive(Debug)]
pub struct OpenStream {
    limiter: StreamLimiter,
    user: User,
    slot: String,
    /// `None` once it has been given back.
    lease: Option<String>,
}

/// Why a place could not be taken.
enum Refused {
    /// Somebody holds it; the item as it is.
    Taken(Item),
    Table(TableError),
}

impl StreamLimiter {
    /// At most `limit` streams of a user at once, 1 to [`MAX`].
    #[must_use]
    pub fn new(dynamodb: Client, table: String, limit: u8) -> Self {
        Self {
            dynamodb,
            table,
            limit,
        }
    }

    /// Takes a place: one `UpdateItem`, and one more for each time that the place was taken.
    ///
    /// # Errors
    /// [`LimitError::Streams`] when all are taken.
    pub async fn open(&self, user: &User, now: OffsetDateTime) -> Result<OpenStream, LimitError> {
        let now_ms = unix_ms(now);
        let lease = lease(now_ms);
        let mut slot = fastrand::u8(..self.limit);
        for _ in 0..ROUNDS {
            let name = slot_name(slot);
            let item = match self.put(user, &name, &lease, Over::EndedBy(now_ms)).await {
                Ok(()) => return Ok(self.opened(user, name, lease)),
                Err(Refused::Table(error)) => return Err(error.into()),
                Err(Refused::Taken(item)) => item,
            };
            // The answer of an attempt before was lost.
            if held(&item, &name) == Some(&lease) {
                return Ok(self.opened(user, name, lease));
            }
            slot = self.free(&item, now_ms)?;
        }
        Err(TableError::Conflict.into())
    }

    fn opened(&self, user: &User, slot: String, lease: String) -> OpenStream {
        OpenStream {
            limiter: self.clone(),
            user: user.clone(),
            slot,
            lease: Some(lease),
        }
    }

    /// One of the places that are free in `item`.
    fn free(&self, item: &Item, now_ms: i64) -> Result<u8, LimitError> {
        let ends = |slot: u8| held(item, &slot_name(slot)).map_or(0, |lease| ends_ms(lease));
        let free: Vec<u8> = (0..self.limit)
            .filter(|slot| ends(*slot) < now_ms)
            .collect();
        fastrand::choice(free).ok_or_else(|| {
            let first_ms = (0..self.limit).map(ends).min().unwrap_or_default();
            let wait_s = u64::try_from((first_ms - now_ms) / 1_000).unwrap_or_default();
            LimitError::Streams {
                limit: self.limit,
                wait_s: wait_s.max(1),
            }
        })
    }

    async fn put(
        &self,
        user: &User,
        slot: &str,
        lease: &str,
        over: Over<'_>,
    ) -> Result<(), Refused> {
        let (condition, than) = match over {
            Over::EndedBy(now_ms) => {
                let ended = "attribute_not_exists(#slot) OR #slot < :than";
                (ended, now_ms.to_string())
            }
            Over::Lease(lease) => ("#slot = :than", lease.to_owned()),
        };
        let ttl = ends_ms(lease) / 1_000 + KEPT_S;
        let put = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(SORT))
            .update_expression("SET #slot = :lease, #ttl = :ttl")
            .condition_expression(condition)
            .expression_attribute_names("#slot", slot)
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":lease", text(lease))
            .expression_attribute_values(":than", text(&than))
            .expression_attribute_values(":ttl", AttributeValue::N(ttl.to_string()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        put.map(drop).map_err(refused)
    }

    async fn give_back(&self, user: &User, slot: &str, lease: &str) {
        let given = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(SORT))
            .update_expression("REMOVE #slot")
            .condition_expression("#slot = :lease")
            .expression_attribute_names("#slot", slot)
            .expression_attribute_values(":lease", text(lease))
            .send()
            .await;
        match given.map_err(|error| failure(&error)) {
            // Somebody else's by now, or given back by an attempt whose answer was lost.
            Ok(_) | Err(TableError::Condition) => {}
            Err(error) => tracing::warn!(%error, "an open stream is counted until its lease ends"),
        }
    }
}

/// What a lease may be put over.
enum Over<'a> {
    /// Nothing, or a lease that ended before this time.
    EndedBy(i64),
    Lease(&'a str),
}

impl OpenStream {
    /// Does `work`, and keeps the place meanwhile: one `UpdateItem` every ten seconds.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.renewing() => match never {},
        }
    }

    async fn renewing(&mut self) -> Infallible {
        loop {
            sleep(RENEWED_EVERY).await;
            if let Some(old) = &self.lease {
                let new = lease(unix_ms(OffsetDateTime::now_utc()));
                let put = self
                    .limiter
                    .put(&self.user, &self.slot, &new, Over::Lease(old));
                self.lease = match put.await {
                    Ok(()) => Some(new),
                    Err(Refused::Taken(item)) if held(&item, &self.slot) == Some(&new) => Some(new),
                    // Too late, it is somebody else's.
                    Err(Refused::Taken(_)) => None,
                    // The next try is before the lease ends.
                    Err(Refused::Table(_)) => continue,
                };
            }
        }
    }

    /// Gives the place back: one `UpdateItem`.
    pub async fn close(mut self) {
        if let Some(lease) = self.lease.take() {
            self.limiter.give_back(&self.user, &self.slot, &lease).await;
        }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let (Some(lease), Ok(runtime)) = (self.lease.take(), Handle::try_current()) else {
            return;
        };
        let (limiter, user) = (self.limiter.clone(), self.user.clone());
        let slot = std::mem::take(&mut self.slot);
        runtime.spawn(async move { limiter.give_back(&user, &slot, &lease).await });
    }
}

fn slot_name(slot: u8) -> String {
    format!("s{slot}")
}

fn held<'a>(item: &'a Item, slot: &str) -> Option<&'a String> {
    item.get(slot).and_then(|lease| lease.as_s().ok())
}

/// `<when it ends>#<whose it is>`. Times have 13 digits until the year 2286, so texts compare as times do.
fn lease(now_ms: i64) -> String {
    let ends_ms = now_ms + i64::try_from(LEASE.as_millis()).unwrap_or_default();
    format!("{ends_ms}#{}", Ulid::new())
}

/// 0 for what is no lease.
fn ends_ms(lease: &str) -> i64 {
    let ends = lease.split('#').next().map(str::parse);
    ends.and_then(Result::ok).unwrap_or_default()
}

fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

fn refused(error: SdkError<UpdateItemError>) -> Refused {
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
            Refused::Taken(failed.item().cloned().unwrap_or_default())
        }
        _ => Refused::Table(failure(&error)),
    }
}
