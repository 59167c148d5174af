//! What a person's own keys were spent on: tokens per day and provider.

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, Select},
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use time::{Date, Duration, OffsetDateTime};
use utoipa::ToSchema;

use crate::{
    key_table::{TableError, failure, partition, text},
    provider::Provider,
    user::User,
};

const PREFIX: &str = "TOKENS#";
/// How long a day is kept.
const KEPT: Duration = Duration::days(400);

/// What counts of one answer at most: a provider that says more is wrong, and must not spoil the day's sum.
pub const TOKENS_MAX: u64 = 1_000_000_000;
/// What is shown of a sum at most; JavaScript's whole numbers are exact up to here.
const SHOWN_MAX: f64 = 9_007_199_254_740_991.0;

/// Tokens, as a provider counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// What was sent.
    pub prompt_tokens: u64,
    /// What came back, thinking included.
    pub output_tokens: u64,
    /// Both.
    pub total_tokens: u64,
}

/// One provider on one day.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = UsageDay)]
pub struct Day {
    #[serde(skip_serializing)]
    #[schema(ignore)]
    sk: String,
    /// The day, UTC.
    #[serde(default)]
    day: String,
    /// Whose tokens.
    #[serde(default)]
    provider: String,
    /// Answers.
    #[serde(default, deserialize_with = "sum")]
    #[schema(required)]
    calls: u64,
    /// What was sent.
    #[serde(default, deserialize_with = "sum")]
    #[schema(required)]
    prompt_tokens: u64,
    /// What came back, thinking included.
    #[serde(default, deserialize_with = "sum")]
    #[schema(required)]
    output_tokens: u64,
}

/// A stored sum. DynamoDB adds up to 38 digits, and one odd sum must not hide all other days.
fn sum<'de, D: Deserializer<'de>>(stored: D) -> Result<u64, D::Error> {
    let number = Value::deserialize(stored)?.as_f64().unwrap_or(0.0);
    Ok(number.clamp(0.0, SHOWN_MAX) as u64)
}

/// Can only add to what was used.
#[derive(Debug, Clone)]
pub struct UsageWriter {
    dynamodb: Client,
    table: String,
}

/// Can only read what was used.
#[derive(Debug, Clone)]
pub struct UsageReader {
    dynamodb: Client,
    table: String,
}

fn sort(day: Date, provider: &str) -> String {
    format!("{PREFIX}{day}#{provider}")
}

impl UsageWriter {
    /// Adds to `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One `UpdateItem` that adds one answer and its tokens, each count at most [`TOKENS_MAX`], to the day.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn add(
        &self,
        user: &User,
        provider: Provider,
        usage: Usage,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let number = |n: u64| AttributeValue::N(n.min(TOKENS_MAX).to_string());
        let ttl = (now + KEPT).unix_timestamp();
        self.dynamodb
            .update_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(&sort(now.date(), provider.name())))
            .update_expression(
                "ADD calls :one, prompt_tokens :prompt, output_tokens :output SET #ttl = :ttl",
            )
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":prompt", number(usage.prompt_tokens))
            .expression_attribute_values(":output", number(usage.output_tokens))
            .expression_attribute_values(":ttl", AttributeValue::N(ttl.to_string()))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }
}

impl UsageReader {
    /// Reads from `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One `Query`: today and the `days` - 1 before it, oldest first.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn days(
        &self,
        user: &User,
        days: u16,
        now: OffsetDateTime,
    ) -> Result<Vec<Day>, TableError> {
        let first = now.date() - Duration::days(i64::from(days) - 1);
        let answer = self
            .dynamodb
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
            .expression_attribute_values(":pk", partition(user))
            .expression_attribute_values(":first", text(&sort(first, "")))
            // '~' sorts after every provider's name.
            .expression_attribute_values(":last", text(&sort(now.date(), "~")))
            .select(Select::SpecificAttributes)
            .projection_expression("sk, calls, prompt_tokens, output_tokens")
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let items = answer.items.unwrap_or_default();
        let mut days: Vec<Day> =
            serde_dynamo::from_items(items).map_err(|_| TableError::Corrupt("usage"))?;
        for day in &mut days {
            let named = day.sk[PREFIX.len()..].split_once('#');
            let (date, provider) = named.ok_or(TableError::Corrupt("usage"))?;
            (day.day, day.provider) = (date.to_owned(), provider.to_owned());
        }
        Ok(days)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn stored(calls: &AttributeValue) -> Day {
        let item = HashMap::from([
            ("sk".to_owned(), text("TOKENS#2026-11-24#gemini")),
            ("calls".to_owned(), calls.clone()),
            (
                "prompt_tokens".to_owned(),
                AttributeValue::N("7".to_owned()),
            ),
        ]);
        serde_dynamo::from_item(item).unwrap()
    }

    #[test]
    fn an_odd_stored_sum_is_shown_within_bounds() {
        let most = SHOWN_MAX as u64;
        for (sum, shown) in [
            ("0", 0),
            ("9007199254740991", most),
            ("9007199254740992", most),
            ("9223372036854775807", most),
            ("18446744073709551616", most),
            ("27670116110564327421", most),
            ("99999999999999999999999999999999999999", most),
            ("1E+125", most),
            ("-1", 0),
            ("-99999999999999999999", 0),
            ("2.9", 2),
        ] {
            let day = stored(&AttributeValue::N(sum.to_owned()));
            assert_eq!((day.calls, day.prompt_tokens), (shown, 7), "{sum}");
        }
        for odd in [
            AttributeValue::Null(true),
            text("many"),
            AttributeValue::Bool(true),
        ] {
            assert_eq!(stored(&odd).calls, 0, "{odd:?}");
        }
    }
}
