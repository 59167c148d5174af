//! How often one person may call, counted in the table.
//!
//! Each window is one item, each call one conditional update, so exactly the limit passes however
//! many calls arrive at once. Must not know what a call does.

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, ReturnValue},
};
use futures_util::future::join_all;
use time::OffsetDateTime;

use crate::{
    key_table::{TableError, failure, partition, text},
    user::User,
};

const DAY_S: i64 = 24 * 3_600;

/// Calls that share a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Text from a provider.
    Generate,
    /// Everything that changes something.
    Save,
    /// Everything that looks.
    Read,
    /// Asking a provider about a key that is not known to work; a thief of keys would like that too.
    Check,
    /// Handing keys to the app's other back ends, one call for several.
    Open,
}

/// How long calls are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
}

/// How many calls of a class one person may make in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Which calls.
    pub class: Class,
    /// In what time.
    pub window: Window,
    /// How many, 1 or more.
    pub calls: u32,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 5] = [
        Self::Generate,
        Self::Save,
        Self::Read,
        Self::Check,
        Self::Open,
    ];

    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Save => "save",
            Self::Read => "read",
            Self::Check => "check",
            Self::Open => "open",
        }
    }
}

impl Window {
    /// Every window.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Hour, Self::Day];

    /// As stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    const fn length_s(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => DAY_S,
        }
    }
}

/// What a person has left, for the `RateLimit-*` headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Calls in a window.
    pub limit: u32,
    /// Calls left in this one.
    pub remaining: u32,
    /// Seconds until the next one.
    pub reset_s: u64,
}

/// Why a call is not let through.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// Too many calls; the allowance says when there will be more.
    #[error("over the limit")]
    Limited(Allowance),
    /// As many streams as a user may have are open.
    #[error("too many open streams")]
    Streams {
        /// How many that is.
        limit: u8,
        /// Seconds until one of them ends if it is not heard of again, 1 or more.
        wait_s: u64,
    },
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Counts calls.
#[derive(Debug, Clone)]
pub struct Limiter {
    dynamodb: Client,
    table: String,
    limits: Vec<Limit>,
}

impl Limiter {
    /// Counts in `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String, limits: &[Limit]) -> Self {
        Self {
            dynamodb,
            table,
            limits: limits.to_vec(),
        }
    }

    /// One `UpdateItem` per limit of the class, side by side. Returns what is left of the tightest;
    /// `None` for a class without a limit. A call that one limit refuses still counts in the others.
    ///
    /// # Errors
    /// [`LimitError`]
    pub async fn count(
        &self,
        user: &User,
        class: Class,
        now: OffsetDateTime,
    ) -> Result<Option<Allowance>, LimitError> {
        let limits = self.limits.iter().filter(|limit| limit.class == class);
        let counted = join_all(limits.map(|limit| self.count_in(user, limit, now))).await;
        let left: Result<Vec<_>, _> = counted.into_iter().collect();
        Ok(left?.into_iter().min_by_key(|left| left.remaining))
    }

    async fn count_in(
        &self,
        user: &User,
        limit: &Limit,
        now: OffsetDateTime,
    ) -> Result<Allowance, LimitError> {
        let now_s = now.unix_timestamp();
        let (class, window) = (limit.class.name(), limit.window.name());
        let number = now_s.div_euclid(limit.window.length_s());
        let end_s = (number + 1) * limit.window.length_s();
        let value = |n: i64| AttributeValue::N(n.to_string());
        let counted = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(&format!("USE#{class}-{window}#{number}")))
            .update_expression("SET n = if_not_exists(n, :zero) + :one, #ttl = :ttl")
            .condition_expression("attribute_not_exists(n) OR n < :limit")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":zero", value(0))
            .expression_attribute_values(":one", value(1))
            .expression_attribute_values(":limit", value(limit.calls.into()))
            .expression_attribute_values(":ttl", value(end_s + DAY_S))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|error| failure(&error));
        let allowance = |used: u32| Allowance {
            limit: limit.calls,
            remaining: limit.calls.saturating_sub(used),
            reset_s: u64::try_from(end_s - now_s).unwrap_or_default(),
        };
        match counted {
            Err(TableError::Condition) => Err(LimitError::Limited(allowance(limit.calls))),
            Err(error) => Err(error.into()),
            Ok(answer) => {
                let attributes = answer.attributes();
                let used = attributes.and_then(|item| item.get("n")?.as_n().ok()?.parse().ok());
                let used = used.ok_or(TableError::Corrupt("usage window"))?;
                Ok(allowance(used))
            }
        }
    }
}
