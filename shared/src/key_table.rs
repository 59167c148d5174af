//! The key rows in DynamoDB.
//!
//! Authority is a type: [`KeyWriter`] saves and deletes, [`KeyReader`] reads one sealed row,
//! [`KeyLister`] reads records without ciphertext, [`KeyMarker`] notes on a row what became of its
//! key. Knows rows; must not know plaintext.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::{UpdateItemError, builders::UpdateItemFluentBuilder},
    primitives::Blob,
    types::{
        AttributeValue, DeleteRequest, ReturnValue, ReturnValuesOnConditionCheckFailure,
        WriteRequest,
    },
};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, Time, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use crate::{
    config::KeyArn,
    provider::Provider,
    sealing::{CONTEXT_VERSION, FORMAT, Sealed},
    user::User,
};

/// What a list may read: everything but the ciphertext and the KMS key.
const RECORD: &str = "sk, kid, ver, hint, #status, enabled, expires_at, description, created_at, \
                      updated_at, checked_at, last_used_at";

/// How often DynamoDB may leave a part of a batch for the next call.
const DELETE_ROUNDS: usize = 5;

/// Why the table did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Throttled, timed out or failed after retries.
    #[error("DynamoDB is temporarily unavailable ({0})")]
    Unavailable(String),
    /// A row that does not have its shape. An alarm.
    #[error("corrupt row: {0}")]
    Corrupt(&'static str),
    /// The row is not what the caller took it for, or not there; nothing was changed.
    #[error("condition did not hold")]
    Condition,
    /// A time that cannot be written down.
    #[error("time cannot be formatted")]
    Time(#[from] time::error::Format),
}

/// Whether a key is known to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The provider accepted it.
    Active,
    /// Nobody has asked the provider, or it did not answer.
    Unverified,
    /// The provider refused it.
    Invalid,
}

impl Status {
    /// As stored and as shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Unverified => "unverified",
            Self::Invalid => "invalid",
        }
    }
}

/// A key's record, as a list shows it. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    sk: String,
    /// The key's own id (ULID).
    pub kid: String,
    /// Number of saves by the user.
    pub ver: u64,
    /// Last four characters, or empty.
    pub hint: String,
    /// Whether it is known to work.
    pub status: Status,
    /// A paused key is not opened.
    pub enabled: bool,
    /// It is not opened from this time on.
    pub expires_at: Option<String>,
    /// The person's own words.
    pub description: Option<String>,
    /// First save.
    pub created_at: String,
    /// Last change by the person.
    pub updated_at: String,
    /// Last answer of the provider.
    pub checked_at: Option<String>,
    /// Last use, to the day.
    pub last_used_at: Option<String>,
}

impl Record {
    /// Whose key it is; `None` for a provider this version does not know.
    #[must_use]
    pub fn provider(&self) -> Option<Provider> {
        self.sk.strip_prefix("KEY#")?.parse().ok()
    }

    /// For an answer; `None` for a provider this version does not know.
    #[must_use]
    pub fn shown(self) -> Option<ShownRecord> {
        Some(ShownRecord {
            provider: self.provider()?.name(),
            hint: self.hint,
            kid: self.kid,
            version: self.ver,
            status: self.status.as_str(),
            enabled: self.enabled,
            expires_at: self.expires_at,
            description: self.description,
            created_at: self.created_at,
            updated_at: self.updated_at,
            checked_at: self.checked_at,
            last_used_at: self.last_used_at,
        })
    }

    /// Whether its time is over at `now`; a time that cannot be read counts as over.
    #[must_use]
    pub fn expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.as_deref().is_some_and(|at| {
            OffsetDateTime::parse(at, &Rfc3339).map_or(true, |expires_at| expires_at <= now)
        })
    }
}

/// A key's record; never the key. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyRecord, example = json!({"provider": "gemini", "hint": "abcd",
    "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "version": 1, "status": "active", "enabled": true,
    "expires_at": null, "description": "mine", "created_at": "2026-11-24T06:00:00Z",
    "updated_at": "2026-11-24T06:00:00Z", "checked_at": "2026-11-24T06:00:00Z",
    "last_used_at": null}))]
pub struct ShownRecord {
    /// Provider's name.
    #[schema(value_type = Provider)]
    pub provider: &'static str,
    /// Last four characters, or empty.
    #[schema(max_length = 4)]
    pub hint: String,
    /// The key's own id, new with every save.
    kid: String,
    /// Number of saves, for `If-Match`.
    version: u64,
    /// `active`, `unverified` or `invalid`.
    #[schema(pattern = "^(active|unverified|invalid)$")]
    status: &'static str,
    /// `false` while paused.
    enabled: bool,
    /// The key is not opened from then on.
    #[schema(required)]
    expires_at: Option<String>,
    /// The person's own words.
    #[schema(required)]
    description: Option<String>,
    /// First save.
    created_at: String,
    /// Last change by the person.
    updated_at: String,
    /// Last answer of the provider.
    #[schema(required)]
    checked_at: Option<String>,
    /// Last use, to the day.
    #[schema(required)]
    last_used_at: Option<String>,
}

/// A record together with its sealed key.
#[derive(Debug, Clone)]
pub struct SealedRow {
    /// What a list shows.
    pub record: Record,
    /// What `sealing` opens.
    pub sealed: Sealed,
}

/// A save: one new version of one key.
#[derive(Debug)]
pub struct NewKey<'a> {
    /// Whose key it is.
    pub provider: Provider,
    /// Fresh for every save.
    pub kid: &'a str,
    /// The ciphertext, bound to `kid`.
    pub sealed: Sealed,
    /// See [`crate::api_key::ApiKey::hint`].
    pub hint: &'a str,
    /// The person's own words.
    pub description: Option<&'a str>,
    /// When the key stops being opened.
    pub expires_at: Option<OffsetDateTime>,
    /// What the provider said.
    pub status: Status,
    /// The version this save must replace, where the caller named one (`If-Match`).
    pub replaces: Option<u64>,
}

/// A change of a key's record that leaves the key itself alone; `None` leaves a field alone too.
#[derive(Debug, Default)]
pub struct Change {
    /// Whether the key may be opened.
    pub enabled: Option<bool>,
    /// The person's own words; `Some(None)` takes them away.
    pub description: Option<Option<String>>,
    /// When the key stops being opened; `Some(None)` is never.
    pub expires_at: Option<Option<OffsetDateTime>>,
}

/// Where the rows are.
#[derive(Debug, Clone)]
struct Table {
    dynamodb: Client,
    name: String,
}

/// Saves and deletes keys.
#[derive(Debug, Clone)]
pub struct KeyWriter(Table);
/// Reads one sealed row.
#[derive(Debug, Clone)]
pub struct KeyReader(Table);
/// Reads records without their ciphertext.
#[derive(Debug, Clone)]
pub struct KeyLister(Table);
/// Notes what became of a key, and can change nothing else.
#[derive(Debug, Clone)]
pub struct KeyMarker(Table);

pub(crate) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(crate) fn partition(user: &User) -> AttributeValue {
    AttributeValue::S(format!("USER#{}", user.id().as_str()))
}

fn sort(provider: Provider) -> AttributeValue {
    AttributeValue::S(format!("KEY#{}", provider.name()))
}

fn primary_key(user: &User, provider: Provider) -> HashMap<String, AttributeValue> {
    [("pk", partition(user)), ("sk", sort(provider))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

impl KeyWriter {
    /// Writes to the table `name`.
    #[must_use]
    pub fn new(dynamodb: Client, name: String) -> Self {
        Self(Table { dynamodb, name })
    }

    /// One `UpdateItem`: ciphertext, kid, KMS key and hint change together or not at all.
    /// Returns the version, counted from 1. The kid makes it once: an attempt after one whose answer
    /// was lost finds its own kid and changes nothing.
    ///
    /// # Errors
    /// [`TableError`]; the old key is whole.
    pub async fn save(
        &self,
        user: &User,
        new: NewKey<'_>,
        now: OffsetDateTime,
    ) -> Result<u64, TableError> {
        let now = now.format(&Rfc3339)?;
        let expires_at = new.expires_at.map(|at| at.format(&Rfc3339)).transpose()?;
        let checked_at = (new.status == Status::Active).then_some(now.as_str());
        let optional = [
            ("expires_at", expires_at.as_deref()),
            ("description", new.description),
            ("checked_at", checked_at),
        ];
        let (set, remove): (Vec<_>, Vec<_>) =
            optional.into_iter().partition(|(_, value)| value.is_some());
        let mut expression = "SET fmt=:fmt, ctxv=:ctxv, kid=:kid, ct=:ct, cmk=:cmk, hint=:hint, \
             #status=:status, enabled=:enabled, updated_at=:now, \
             created_at=if_not_exists(created_at,:now), \
             ver=if_not_exists(ver,:zero)+:one, rev=if_not_exists(rev,:zero)+:one"
            .to_owned();
        for (name, _) in &set {
            expression.push_str(&format!(", {name}=:{name}"));
        }
        expression.push_str(" REMOVE last_used_at, rewrapped_at");
        for (name, _) in &remove {
            expression.push_str(&format!(", {name}"));
        }
        let number = |n: u8| AttributeValue::N(n.to_string());
        let mut update = self
            .0
            .dynamodb
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(primary_key(user, new.provider)))
            .update_expression(expression)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":fmt", text(FORMAT))
            .expression_attribute_values(":ctxv", text(CONTEXT_VERSION))
            .expression_attribute_values(":kid", text(new.kid))
            .expression_attribute_values(":ct", AttributeValue::B(Blob::new(new.sealed.ciphertext)))
            .expression_attribute_values(":cmk", text(new.sealed.key_arn.as_str()))
            .expression_attribute_values(":hint", text(new.hint))
            .expression_attribute_values(":status", text(new.status.as_str()))
            .expression_attribute_values(":enabled", AttributeValue::Bool(true))
            .expression_attribute_values(":now", text(&now))
            .expression_attribute_values(":zero", number(0))
            .expression_attribute_values(":one", number(1));
        for (name, value) in set {
            update = update
                .expression_attribute_values(format!(":{name}"), text(value.unwrap_or_default()));
        }
        let condition = match new.replaces {
            Some(version) => {
                let version = AttributeValue::N(version.to_string());
                update = update.expression_attribute_values(":replaces", version);
                "ver = :replaces AND kid <> :kid"
            }
            None => "attribute_not_exists(kid) OR kid <> :kid",
        };
        let answer = update
            .condition_expression(condition)
            .return_values(ReturnValue::UpdatedNew)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let row = match &answer {
            Ok(answer) => answer.attributes(),
            Err(error) => match error.as_service_error() {
                Some(UpdateItemError::ConditionalCheckFailedException(failed)) => failed
                    .item()
                    .filter(|row| row.get("kid") == Some(&text(new.kid))),
                _ => None,
            },
        };
        match (row, answer.as_ref().err()) {
            (Some(row), _) => version(row),
            (None, Some(error)) => Err(failure(error)),
            (None, None) => Err(TableError::Corrupt("no version")),
        }
    }

    /// One `UpdateItem` on a row that is there; returns the record as it is now.
    ///
    /// # Errors
    /// [`TableError::Condition`] when there is no key.
    pub async fn change(
        &self,
        user: &User,
        provider: Provider,
        change: Change,
        now: OffsetDateTime,
    ) -> Result<Record, TableError> {
        let expires_at = match change.expires_at {
            Some(Some(at)) => Some(Some(at.format(&Rfc3339)?)),
            other => other.map(|_| None),
        };
        let mut set = vec!["rev=rev+:one", "updated_at=:now"];
        let mut remove = Vec::new();
        let mut update = self
            .0
            .dynamodb
            .update_item()
            .table_name(&self.0.name)
            .set_key(Some(primary_key(user, provider)))
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":now", text(&now.format(&Rfc3339)?));
        if let Some(enabled) = change.enabled {
            set.push("enabled=:enabled");
            update = update.expression_attribute_values(":enabled", AttributeValue::Bool(enabled));
        }
        for (name, assignment, value) in [
            (
                "description",
                "description=:description",
                change.description,
            ),
            ("expires_at", "expires_at=:expires_at", expires_at),
        ] {
            match value {
                Some(Some(value)) => {
                    set.push(assignment);
                    update = update.expression_attribute_values(format!(":{name}"), text(&value));
                }
                Some(None) => remove.push(name),
                None => {}
            }
        }
        let mut expression = format!("SET {}", set.join(", "));
        if !remove.is_empty() {
            expression.push_str(&format!(" REMOVE {}", remove.join(", ")));
        }
        let answer = update
            .update_expression(expression)
            .return_values(ReturnValue::AllNew)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        record(answer.attributes.unwrap_or_default())
    }

    /// Deletes every key: one `BatchWriteItem`, and another for what DynamoDB leaves over.
    ///
    /// # Errors
    /// [`TableError`]; some may be deleted, and a next try deletes the rest.
    pub async fn delete_all(&self, user: &User) -> Result<(), TableError> {
        let delete = |&provider: &Provider| {
            let key = DeleteRequest::builder().set_key(Some(primary_key(user, provider)));
            let key = key.build().map_err(|_| TableError::Corrupt("delete"))?;
            Ok(WriteRequest::builder().delete_request(key).build())
        };
        let all: Result<Vec<_>, TableError> = Provider::ALL.iter().map(delete).collect();
        let mut left = HashMap::from([(self.0.name.clone(), all?)]);
        for _ in 0..DELETE_ROUNDS {
            let batch = self.0.dynamodb.batch_write_item();
            let answer = batch.set_request_items(Some(left)).send().await;
            left = answer
                .map_err(|error| failure(&error))?
                .unprocessed_items
                .unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(TableError::Unavailable("unprocessed items".to_owned()))
    }

    /// One `DeleteItem`; deleting nothing is fine.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn delete(&self, user: &User, provider: Provider) -> Result<(), TableError> {
        self.0
            .dynamodb
            .delete_item()
            .table_name(&self.0.name)
            .set_key(Some(primary_key(user, provider)))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }
}

impl KeyReader {
    /// Reads from the table `name`.
    #[must_use]
    pub fn new(dynamodb: Client, name: String) -> Self {
        Self(Table { dynamodb, name })
    }

    /// One strongly consistent `GetItem`.
    ///
    /// # Errors
    /// [`TableError::Corrupt`] for a row of another format or shape.
    pub async fn get(
        &self,
        user: &User,
        provider: Provider,
    ) -> Result<Option<SealedRow>, TableError> {
        let answer = self
            .0
            .dynamodb
            .get_item()
            .table_name(&self.0.name)
            .set_key(Some(primary_key(user, provider)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        answer.item.map(sealed_row).transpose()
    }
}

impl KeyLister {
    /// Reads from the table `name`.
    #[must_use]
    pub fn new(dynamodb: Client, name: String) -> Self {
        Self(Table { dynamodb, name })
    }

    /// One strongly consistent `Query` whose projection leaves the ciphertext out.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn list(&self, user: &User) -> Result<Vec<Record>, TableError> {
        let answer = self
            .0
            .dynamodb
            .query()
            .table_name(&self.0.name)
            .key_condition_expression("pk = :pk AND begins_with(sk, :keys)")
            .projection_expression(RECORD)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pk", partition(user))
            .expression_attribute_values(":keys", text("KEY#"))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        answer
            .items
            .unwrap_or_default()
            .into_iter()
            .map(record)
            .collect()
    }
}

impl KeyMarker {
    /// Marks rows of the table `name`.
    #[must_use]
    pub fn new(dynamodb: Client, name: String) -> Self {
        Self(Table { dynamodb, name })
    }

    /// Notes the day of a use: one `UpdateItem` on the first use of a day, and nothing after it.
    ///
    /// # Errors
    /// [`TableError::Condition`] when the key was replaced or deleted meanwhile.
    pub async fn used(
        &self,
        user: &User,
        provider: Provider,
        record: &Record,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let today = now.replace_time(Time::MIDNIGHT).format(&Rfc3339)?;
        if record.last_used_at.as_ref() == Some(&today) {
            return Ok(());
        }
        self.mark(
            user,
            provider,
            &record.kid,
            "SET last_used_at=:today, rev=rev+:one",
        )
        .expression_attribute_values(":today", text(&today))
        .send()
        .await
        .map_err(|error| failure(&error))?;
        Ok(())
    }

    /// Notes that the provider refuses this key: one `UpdateItem`.
    ///
    /// # Errors
    /// [`TableError::Condition`] when the key was replaced or deleted meanwhile.
    pub async fn refused(
        &self,
        user: &User,
        provider: Provider,
        kid: &str,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let expression = "SET #status=:invalid, checked_at=:now, rev=rev+:one";
        self.mark(user, provider, kid, expression)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":invalid", text(Status::Invalid.as_str()))
            .expression_attribute_values(":now", text(&now.format(&Rfc3339)?))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }

    /// An update of this very key: it neither touches another nor brings one back to life.
    fn mark(
        &self,
        user: &User,
        provider: Provider,
        kid: &str,
        expression: &str,
    ) -> UpdateItemFluentBuilder {
        let update = self.0.dynamodb.update_item().table_name(&self.0.name);
        update
            .set_key(Some(primary_key(user, provider)))
            .update_expression(expression)
            .condition_expression("attribute_exists(pk) AND kid=:kid")
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":kid", text(kid))
    }
}

fn version(row: &HashMap<String, AttributeValue>) -> Result<u64, TableError> {
    let version = row.get("ver").and_then(|ver| ver.as_n().ok()?.parse().ok());
    version.ok_or(TableError::Corrupt("no version"))
}

fn record(item: HashMap<String, AttributeValue>) -> Result<Record, TableError> {
    serde_dynamo::from_item(item).map_err(|_| TableError::Corrupt("record"))
}

fn sealed_row(mut item: HashMap<String, AttributeValue>) -> Result<SealedRow, TableError> {
    let is = |name: &str, value: &str| {
        item.get(name)
            .and_then(|v| v.as_s().ok())
            .is_some_and(|v| v == value)
    };
    if !is("fmt", FORMAT) || !is("ctxv", CONTEXT_VERSION) {
        return Err(TableError::Corrupt("format"));
    }
    let key_arn = item
        .get("cmk")
        .and_then(|value| KeyArn::parse(value.as_s().ok()?))
        .ok_or(TableError::Corrupt("cmk"))?;
    let Some(AttributeValue::B(ciphertext)) = item.remove("ct") else {
        return Err(TableError::Corrupt("ct"));
    };
    let sealed = Sealed {
        ciphertext: ciphertext.into_inner(),
        key_arn,
    };
    Ok(SealedRow {
        record: record(item)?,
        sealed,
    })
}

/// Keeps the code and drops the message, which may name the account.
pub(crate) fn failure<E: ProvideErrorMetadata>(error: &SdkError<E>) -> TableError {
    let code = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code);
    match code {
        Some("ConditionalCheckFailedException") => TableError::Condition,
        code => TableError::Unavailable(code.unwrap_or("no answer").to_owned()),
    }
}
