//! How often one person may call, counted in the table.
//!
//! Each window is one item, each call one conditional update, so exactly the limit passes however
//! many calls arrive at once. Must not know what a call does.

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, ReturnValue},
};
use time::OffsetDateTime;

use crate::{
    config::{Config, RateLimits},
    key_table::{TableError, failure, partition, text},
    user::User,
};

const MINUTE_S: i64 = 60;
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
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Counts calls.
#[derive(Debug, Clone)]
pub struct Limiter {
    dynamodb: Client,
    table: String,
    limits: RateLimits,
}

/// One limit of a class.
struct Window {
    name: &'static str,
    length_s: i64,
    limit: u32,
}

impl Limiter {
    /// Counts in the table as `config` says.
    #[must_use]
    pub fn new(dynamodb: Client, config: &Config) -> Self {
        Self {
            dynamodb,
            table: config.table_name.clone(),
            limits: config.rate_limits,
        }
    }

    /// One `UpdateItem`; two side by side for a class with a limit per day. Returns what is left of
    /// the minute.
    ///
    /// # Errors
    /// [`LimitError`]
    pub async fn count(
        &self,
        user: &User,
        class: Class,
        now: OffsetDateTime,
    ) -> Result<Allowance, LimitError> {
        let (name, limit) = match class {
            Class::Generate => ("generate-minute", self.limits.generate_per_minute),
            Class::Save => ("save-minute", self.limits.save_per_minute),
            Class::Read => ("read-minute", self.limits.read_per_minute),
        };
        let minute = Window {
            name,
            length_s: MINUTE_S,
            limit,
        };
        if class != Class::Generate {
            return self.count_in(user, &minute, now).await;
        }
        let day = Window {
            name: "generate-day",
            length_s: DAY_S,
            limit: self.limits.generate_per_day,
        };
        let counted = tokio::join!(
            self.count_in(user, &minute, now),
            self.count_in(user, &day, now)
        );
        counted.1?;
        counted.0
    }

    async fn count_in(
        &self,
        user: &User,
        window: &Window,
        now: OffsetDateTime,
    ) -> Result<Allowance, LimitError> {
        let now_s = now.unix_timestamp();
        let number = now_s.div_euclid(window.length_s);
        let end_s = (number + 1) * window.length_s;
        let value = |n: i64| AttributeValue::N(n.to_string());
        let counted = self
            .dynamodb
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(&format!("USE#{}#{number}", window.name)))
            .update_expression("SET n = if_not_exists(n, :zero) + :one, #ttl = :ttl")
            .condition_expression("attribute_not_exists(n) OR n < :limit")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":zero", value(0))
            .expression_attribute_values(":one", value(1))
            .expression_attribute_values(":limit", value(window.limit.into()))
            .expression_attribute_values(":ttl", value(end_s + DAY_S))
            .return_values(ReturnValue::UpdatedNew)
            .send()
            .await
            .map_err(|error| failure(&error));
        let allowance = |used: u32| Allowance {
            limit: window.limit,
            remaining: window.limit.saturating_sub(used),
            reset_s: u64::try_from(end_s - now_s).unwrap_or_default(),
        };
        match counted {
            Err(TableError::Condition) => Err(LimitError::Limited(allowance(window.limit))),
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
