//! The key rows in DynamoDB.
//!
//! Authority is a type: [`KeyWriter`] saves, restores and deletes, [`KeyReader`] reads one sealed
//! row, [`KeyLister`] reads records without ciphertext, [`KeyMarker`] notes on a row what became of
//! its key. Knows rows; must not know plaintext.
//!
//! A key that is replaced stays for a day in a row of its own, `PREV#<provider>`.

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue, Select},
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, Time, format_description::well_known::Rfc3339};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::{
    audit::Entry,
    config::KeyArn,
    provider::Provider,
    provider_check::Verdict,
    sealing::{CONTEXT_VERSION, FORMAT, Sealed},
    user::User,
};

pub use self::versions::{Before, Restorable, Restore, SAME_REVISION};

mod versions;

/// Sort keys of the key in use and of the one it replaced; no other item's lies between them.
pub(crate) const CURRENT: &str = "KEY#";
pub(crate) const PREVIOUS: &str = "PREV#";
/// What a list may read: everything but the ciphertext and the KMS key.
pub(crate) const RECORD: &str = "sk, kid, ver, hint, #status, enabled, expires_at, description, \
                                 created_at, updated_at, checked_at, last_check, refused_at, \
                                 last_used_at, kept_until";
/// A mark neither touches another key nor brings one back to life.
const SAME_KEY: &str = "attribute_exists(pk) AND kid=:kid";
/// A change or a delete of the version that its caller has seen.
const SAME_VERSION: &str = "attribute_exists(pk) AND ver=:version";
/// Two refusals so far apart make a key invalid: a provider's bad hour does not.
const REFUSALS_APART: Duration = Duration::DAY;

/// A row as DynamoDB has it.
pub(crate) type Item = HashMap<String, AttributeValue>;

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
    /// Another write to the same row was under way; nothing was changed.
    #[error("another write was under way")]
    Conflict,
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
    /// What came of the last time it was asked: `valid`, `invalid` or `unknown`.
    pub last_check: Option<String>,
    /// Since when the provider refuses it, while only checks have said so.
    pub refused_at: Option<String>,
    /// Last use, to the day.
    pub last_used_at: Option<String>,
    /// The key it replaced, while that is kept.
    #[serde(skip)]
    pub previous: Option<Previous>,
}

/// A key that was replaced and can be brought back. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[schema(as = PreviousKey)]
pub struct Previous {
    /// Its own id.
    kid: String,
    /// Last four characters, or empty.
    #[schema(max_length = 4)]
    hint: String,
    /// It cannot be brought back from this time on.
    kept_until: String,
}

impl Record {
    /// Whose key it is; `None` for a provider this version does not know.
    #[must_use]
    pub fn provider(&self) -> Option<Provider> {
        self.sk.strip_prefix(CURRENT)?.parse().ok()
    }

    /// For an answer at `now`; `None` for a provider this version does not know.
    #[must_use]
    pub fn shown(self, now: OffsetDateTime, rotate_after_days: u16) -> Option<ShownRecord> {
        let provider = self.provider()?.name();
        let age_days = age_days(&self.kid, now);
        let previous = self.previous.filter(|key| !past(&key.kept_until, now));
        Some(ShownRecord {
            provider,
            age_days,
            stale: age_days.is_some_and(|days| days >= rotate_after_days.into()),
            last_check: self.last_check,
            previous,
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
        self.expires_at.as_deref().is_some_and(|at| past(at, now))
    }
}

/// Whether a time has come; one that cannot be read has.
fn past(at: &str, now: OffsetDateTime) -> bool {
    OffsetDateTime::parse(at, &Rfc3339).map_or(true, |at| at <= now)
}

/// Whole days since a key was saved, which is when its kid was made.
fn age_days(kid: &str, now: OffsetDateTime) -> Option<u64> {
    let made_ms = Ulid::from_string(kid).ok()?.timestamp_ms();
    let now_ms = u64::try_from(now.unix_timestamp()).ok()? * 1_000;
    Some(now_ms.saturating_sub(made_ms) / 86_400_000)
}

/// A key's record; never the key. Times are RFC 3339 in UTC.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KeyRecord, example = json!({"provider": "gemini", "hint": "abcd",
    "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "version": 1, "status": "active", "enabled": true,
    "expires_at": null, "description": "mine", "created_at": "2026-11-24T06:00:00Z",
    "updated_at": "2026-11-24T06:00:00Z", "checked_at": "2026-11-24T06:00:00Z",
    "last_check": "valid", "last_used_at": null, "age_days": 12, "stale": false, "previous": null}))]
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
    /// What came of the last time it was asked. `invalid` beside another `status`: it has refused the
    /// key once and is asked again a day later.
    #[schema(required, pattern = "^(valid|invalid|unknown)$")]
    last_check: Option<String>,
    /// Last use, to the day.
    #[schema(required)]
    last_used_at: Option<String>,
    /// Whole days since this key was saved.
    #[schema(required)]
    age_days: Option<u64>,
    /// Old enough to be replaced at its provider; a reminder, it works as before.
    stale: bool,
    /// The key it replaced, for a day.
    #[schema(required)]
    previous: Option<Previous>,
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
    /// What goes on the record with it, or not at all.
    pub record: Option<Entry>,
}

impl<'a> NewKey<'a> {
    /// A key of which nothing is known but what it takes to store it, over whatever is there.
    #[must_use]
    pub fn unverified(provider: Provider, kid: &'a str, sealed: Sealed, hint: &'a str) -> Self {
        Self {
            provider,
            kid,
            sealed,
            hint,
            description: None,
            expires_at: None,
            status: Status::Unverified,
            replaces: None,
            record: None,
        }
    }
}

/// A change of a key's record that leaves the key itself alone; `None` leaves a field alone too.
#[derive(Debug, Default)]
pub struct Change {
    /// The version this must change, where the caller named one (`If-Match`).
    pub version: Option<u64>,
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

/// Saves, restores and deletes keys.
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

/// A projection that names every attribute through an alias, since many are DynamoDB's own words.
pub(crate) fn projection(attributes: &[&str]) -> (String, HashMap<String, String>) {
    let aliases: Vec<_> = attributes.iter().map(|name| format!("#{name}")).collect();
    let names = attributes.iter().map(|name| (*name).to_owned());
    (
        aliases.join(", "),
        aliases.iter().cloned().zip(names).collect(),
    )
}

pub(crate) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(crate) fn partition(user: &User) -> AttributeValue {
    AttributeValue::S(format!("USER#{}", user.id().as_str()))
}

/// Of the row with that prefix.
fn key_of(user: &User, prefix: &str, provider: Provider) -> Item {
    let sort = format!("{prefix}{}", provider.name());
    [("pk", partition(user)), ("sk", AttributeValue::S(sort))]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

fn primary_key(user: &User, provider: Provider) -> Item {
    key_of(user, CURRENT, provider)
}

impl KeyWriter {
    /// Writes to the table `name`.
    #[must_use]
    pub fn new(dynamodb: Client, name: String) -> Self {
        Self(Table { dynamodb, name })
    }

    /// One `UpdateItem` on a row that is there; returns the record as it is now.
    ///
    /// # Errors
    /// [`TableError::Condition`] when there is no key, or not of that version.
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
        if let Some(version) = change.version {
            update = update
                .condition_expression(SAME_VERSION)
                .expression_attribute_values(":version", AttributeValue::N(version.to_string()));
        }
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
        let row = self.0.get(primary_key(user, provider)).await?;
        row.map(sealed_row).transpose()
    }
}

impl Table {
    /// One strongly consistent `GetItem`.
    async fn get(&self, key: Item) -> Result<Option<Item>, TableError> {
        let get = self.dynamodb.get_item().table_name(&self.name);
        let answer = get.set_key(Some(key)).consistent_read(true).send().await;
        Ok(answer.map_err(|error| failure(&error))?.item)
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
            .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :last")
            // Said in words, since the role demands it: without it ciphertexts would come along.
            .select(Select::SpecificAttributes)
            .projection_expression(RECORD)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":pk", partition(user))
            .expression_attribute_values(":first", text(CURRENT))
            // '~' sorts after every provider's name.
            .expression_attribute_values(":last", text(&format!("{PREVIOUS}~")))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let rows = answer.items.unwrap_or_default().into_iter();
        let (current, replaced): (Vec<_>, Vec<_>) =
            rows.partition(|row| provider_name(row, PREVIOUS).is_none());
        let mut records: Vec<Record> = current.into_iter().map(record).collect::<Result<_, _>>()?;
        for row in replaced {
            let name = provider_name(&row, PREVIOUS).map(str::to_owned);
            let mut of_key = records.iter_mut();
            let found = of_key.find(|key| key.sk.strip_prefix(CURRENT) == name.as_deref());
            if let Some(key) = found {
                let previous = serde_dynamo::from_item(row);
                key.previous = Some(previous.map_err(|_| TableError::Corrupt("previous"))?);
            }
        }
        Ok(records)
    }
}

/// What follows `prefix` in a row's sort key.
fn provider_name<'a>(row: &'a Item, prefix: &str) -> Option<&'a str> {
    row.get("sk")?.as_s().ok()?.strip_prefix(prefix)
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
        let expression = "SET #status=:invalid, last_check=:invalid, checked_at=:now, rev=rev+:one";
        self.mark(user, provider, kid, expression)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":invalid", text(Status::Invalid.as_str()))
            .expression_attribute_values(":now", text(&now.format(&Rfc3339)?))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }

    /// Notes that this key was seen to work: one `UpdateItem`.
    ///
    /// # Errors
    /// [`TableError::Condition`] when the key was replaced or deleted meanwhile.
    pub async fn works(
        &self,
        user: &User,
        provider: Provider,
        kid: &str,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let expression = "SET #status=:active, last_check=:valid, checked_at=:now, rev=rev+:one \
                          REMOVE refused_at";
        self.mark(user, provider, kid, expression)
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":active", text(Status::Active.as_str()))
            .expression_attribute_values(":valid", text("valid"))
            .expression_attribute_values(":now", text(&now.format(&Rfc3339)?))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }

    /// Notes what a check of this very key heard: one `UpdateItem`. A refusal makes it invalid when
    /// the first one is a day old or more, and nothing but a refusal was heard since.
    ///
    /// # Errors
    /// [`TableError::Condition`] when the key was replaced or deleted meanwhile, or another check
    /// heard otherwise.
    pub async fn checked(
        &self,
        user: &User,
        provider: Provider,
        record: &Record,
        verdict: Verdict,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        let first_refusal = record.refused_at.as_deref();
        let twice = first_refusal.is_some_and(|at| past(at, now - REFUSALS_APART));
        let (word, status, expression) = match verdict {
            Verdict::Valid => (
                "valid",
                Some(Status::Active),
                "SET last_check=:word, checked_at=:now, #status=:status, rev=rev+:one REMOVE refused_at",
            ),
            Verdict::Invalid if twice => (
                "invalid",
                Some(Status::Invalid),
                "SET last_check=:word, checked_at=:now, #status=:status, rev=rev+:one",
            ),
            Verdict::Invalid => (
                "invalid",
                None,
                "SET last_check=:word, checked_at=:now, refused_at=if_not_exists(refused_at,:now), \
                 rev=rev+:one",
            ),
            Verdict::Unknown => ("unknown", None, "SET last_check=:word, rev=rev+:one"),
        };
        let mut update = self
            .mark(user, provider, &record.kid, expression)
            .expression_attribute_values(":word", text(word));
        if verdict != Verdict::Unknown {
            update = update.expression_attribute_values(":now", text(&now.format(&Rfc3339)?));
        }
        if let Some(status) = status {
            update = update
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":status", text(status.as_str()));
        }
        if let (Some(first), Some(Status::Invalid)) = (first_refusal, status) {
            update = update
                .condition_expression(format!("{SAME_KEY} AND refused_at=:first"))
                .expression_attribute_values(":first", text(first));
        }
        update.send().await.map_err(|error| failure(&error))?;
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
            .condition_expression(SAME_KEY)
            .expression_attribute_values(":one", AttributeValue::N("1".to_owned()))
            .expression_attribute_values(":kid", text(kid))
    }
}

pub(crate) fn record(item: Item) -> Result<Record, TableError> {
    serde_dynamo::from_item(item).map_err(|_| TableError::Corrupt("record"))
}

pub(crate) fn sealed_row(mut item: Item) -> Result<SealedRow, TableError> {
    let sealed = take_sealed(&mut item)?;
    Ok(SealedRow {
        record: record(item)?,
        sealed,
    })
}

/// The sealed key of a row, of which the row keeps nothing.
pub(crate) fn take_sealed(item: &mut Item) -> Result<Sealed, TableError> {
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
    Ok(Sealed {
        ciphertext: ciphertext.into_inner(),
        key_arn,
    })
}

/// Keeps the code and drops the message, which may name the account.
pub(crate) fn failure<E: ProvideErrorMetadata>(error: &SdkError<E>) -> TableError {
    let code = error
        .as_service_error()
        .and_then(ProvideErrorMetadata::code);
    match code {
        Some("ConditionalCheckFailedException") => TableError::Condition,
        Some("TransactionConflictException") => TableError::Conflict,
        code => TableError::Unavailable(code.unwrap_or("no answer").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED_MS: u64 = 1_800_000_000_000;

    fn shown(days: i64, seconds: i64) -> ShownRecord {
        let kid = Ulid::from_parts(SAVED_MS, 7).to_string();
        let row = [
            ("sk", "KEY#gemini"),
            ("kid", &kid),
            ("hint", ""),
            ("status", "active"),
            ("created_at", "x"),
            ("updated_at", "x"),
        ];
        let mut row: Item = row
            .map(|(name, value)| (name.to_owned(), text(value)))
            .into();
        row.insert("ver".to_owned(), AttributeValue::N("1".to_owned()));
        row.insert("enabled".to_owned(), AttributeValue::Bool(true));
        let saved = OffsetDateTime::from_unix_timestamp((SAVED_MS / 1_000) as i64).unwrap();
        let now = saved + Duration::days(days) + Duration::seconds(seconds);
        record(row).unwrap().shown(now, 90).unwrap()
    }

    #[test]
    fn a_keys_age_counts_from_its_save_and_makes_it_stale_on_the_day() {
        for (days, seconds, age, stale) in [
            (0, 0, 0, false),
            // A clock that is behind.
            (0, -30, 0, false),
            (0, 86_399, 0, false),
            (89, 86_399, 89, false),
            (90, 0, 90, true),
            (4_000, 0, 4_000, true),
        ] {
            let shown = shown(days, seconds);
            assert_eq!(
                (shown.age_days, shown.stale),
                (Some(age), stale),
                "{days} {seconds}"
            );
            assert!(shown.enabled, "a reminder");
        }
        assert_eq!(
            age_days("env:GEMINI_API_KEY", OffsetDateTime::now_utc()),
            None
        );
    }
}
