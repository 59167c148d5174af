//! Who did what with which key, for the person themselves to read.
//!
//! A record is written before a key is used; what then fails leaves a second record that says so.
//! Records name keys and never hold one.

use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, Select},
};
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::{
    key_table::{Item, TableError, failure, partition, projection, text},
    provider::Provider,
    telemetry,
    user::{Actor, User},
};

/// How long a record is kept.
const KEPT: Duration = Duration::days(90);
const PREFIX: &str = "AUDIT#";
/// What is read of a record; nothing else in the table may come along.
const SHOWN: &[&str] = &[
    "sk",
    "ttl",
    "at",
    "action",
    "provider",
    "kid",
    "purpose",
    "function",
    "request_id",
    "outcome",
    "via",
    "actor",
    "session",
    "caller",
];

/// What was done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Saved or replaced.
    Save,
    /// Paused, worded, given an end.
    Change,
    /// Brought back in place of the key that replaced it.
    Restore,
    /// Deleted.
    Delete,
    /// Opened, to be used.
    Open,
    /// Opened, to be shown to its owner.
    Export,
    /// Sent to its provider to hear whether it works.
    Check,
    /// Looked at, by somebody who is signed in on its owner's behalf.
    Look,
    /// Written to the front end's `.env` (Local mode).
    FrontendEnv,
}

impl Action {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Save => "save",
            Self::Change => "change",
            Self::Restore => "restore",
            Self::Delete => "delete",
            Self::Open => "open",
            Self::Export => "export",
            Self::Check => "check",
            Self::Look => "look",
            Self::FrontendEnv => "frontend_env",
        }
    }
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Allowed, and about to be done.
    Ok,
    /// It was allowed, and then did not happen.
    Failed,
    /// The caller went away before the answer was whole.
    Abandoned,
    /// The key is paused, expired, does not open, or its provider does not take it.
    Refused,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Abandoned => "abandoned",
        }
    }
}

/// One thing done with one person's keys.
#[derive(Debug, Clone, Copy)]
pub struct Event<'a> {
    /// What.
    pub action: Action,
    /// With whose key; `None` for all of them.
    pub provider: Option<Provider>,
    /// Which key, where it is known.
    pub kid: Option<&'a str>,
    /// What for, where a back end says so.
    pub purpose: Option<&'a str>,
    /// In which request.
    pub request_id: &'a str,
    /// When.
    pub now: OffsetDateTime,
}

/// One record, not written yet.
#[derive(Debug, Clone)]
pub struct Entry(pub(crate) Item);

/// Can only add records, in the name of one function.
#[derive(Debug, Clone)]
pub struct AuditWriter {
    dynamodb: Client,
    table: String,
    function: &'static str,
}

impl AuditWriter {
    /// Writes to `table` in the name of `function`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String, function: &'static str) -> Self {
        Self {
            dynamodb,
            table,
            function,
        }
    }

    /// In whose name it writes.
    pub(crate) fn function(&self) -> &'static str {
        self.function
    }

    /// One `PutItem`.
    ///
    /// # Errors
    /// [`TableError`]; then the key must not be used.
    pub async fn write(
        &self,
        user: &User,
        event: &Event<'_>,
        outcome: Outcome,
    ) -> Result<(), TableError> {
        let Entry(item) = self.entry(user, event, outcome)?;
        let put = self.dynamodb.put_item().table_name(&self.table);
        let put = put.set_item(Some(item)).send().await;
        put.map_err(|error| failure(&error))?;
        Ok(())
    }

    /// The record that [`Self::write`] would write, for a transaction with what it is about.
    ///
    /// # Errors
    /// [`TableError`] for a time that has no form.
    pub fn entry(
        &self,
        user: &User,
        event: &Event<'_>,
        outcome: Outcome,
    ) -> Result<Entry, TableError> {
        let ttl = (event.now + KEPT).unix_timestamp();
        let at = event.now.format(&Rfc3339)?;
        let texts = [
            ("sk", Some(format!("{PREFIX}{}", Ulid::new()).as_str())),
            ("at", Some(&at)),
            ("action", Some(event.action.as_str())),
            ("function", Some(self.function)),
            ("request_id", Some(event.request_id)),
            ("outcome", Some(outcome.as_str())),
            ("provider", event.provider.map(Provider::name)),
            ("kid", event.kid),
            ("purpose", event.purpose),
            ("via", Some(user.via().as_str())),
            ("actor", user.actor().map(Actor::as_str)),
            ("session", user.session()),
            ("caller", user.caller()),
        ]
        .map(|(name, value)| (name, value.map(text)));
        let others = [
            ("pk", Some(partition(user))),
            ("ttl", Some(AttributeValue::N(ttl.to_string()))),
        ];
        let all = texts.into_iter().chain(others);
        let set = all.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Ok(Entry(set.collect()))
    }

    /// Records that something allowed did not happen, or was refused. The failure itself is what the
    /// caller hears of, so a record that cannot be written is an error in the log.
    pub async fn note(&self, user: &User, event: &Event<'_>, outcome: Outcome) {
        if let Err(error) = self.write(user, event, outcome).await {
            tracing::error!(%error, request_id = event.request_id, "audit record not written");
            telemetry::not_audited(self.function);
        }
    }
}

/// A record as its owner reads it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AuditRecord)]
pub struct Record {
    #[serde(skip_serializing)]
    #[schema(ignore)]
    sk: String,
    #[serde(skip_serializing)]
    #[schema(ignore)]
    ttl: i64,
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// `save`, `change`, `restore`, `delete`, `open`, `export`, `check`, `look` or `frontend_env`.
    pub action: String,
    /// With whose key; null for all of them.
    #[schema(required)]
    pub provider: Option<String>,
    /// Which key.
    #[schema(required)]
    pub kid: Option<String>,
    /// What for, where a back end said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// By which function.
    pub function: String,
    /// In which request.
    pub request_id: String,
    /// `ok`, `failed`, `refused` or `abandoned`.
    pub outcome: String,
    /// How it was known who the user is: `session`, `trusted_caller`, `local` or `job`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Who was signed in on the user's behalf: a Clerk user id, or `unnamed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The same for everything that one session did; the session's id cannot be told from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The AWS identity that called, where Lambda says which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<String>,
}

/// A page of records, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditPage, example = json!({"records": [{"at": "2026-11-24T06:00:00Z", "action": "open",
    "provider": "gemini", "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "function": "generate-content",
    "request_id": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "outcome": "ok"}], "next_cursor": null}))]
pub struct Page {
    records: Vec<Record>,
    /// What `cursor` takes for the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// Can only read records.
#[derive(Debug, Clone)]
pub struct AuditReader {
    dynamodb: Client,
    table: String,
}

impl AuditReader {
    /// Reads from `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One `Query`: at most `limit` of the person's own records older than `cursor`.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn page(
        &self,
        user: &User,
        limit: u8,
        cursor: Option<Ulid>,
        now: OffsetDateTime,
    ) -> Result<Page, TableError> {
        // '$' sorts after '#', so this is past every record.
        let before = cursor.map_or("AUDIT$".to_owned(), |id| format!("{PREFIX}{id}"));
        let (shown, names) = projection(SHOWN);
        let answer = self
            .dynamodb
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :before")
            .expression_attribute_values(":pk", partition(user))
            .expression_attribute_values(":from", text(PREFIX))
            .expression_attribute_values(":before", text(&before))
            .select(Select::SpecificAttributes)
            .projection_expression(shown)
            .set_expression_attribute_names(Some(names))
            .scan_index_forward(false)
            // The cursor's own record, the page, and one more to see whether there is more.
            .limit(i32::from(limit) + 1 + i32::from(cursor.is_some()))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let items = answer.items.unwrap_or_default();
        let mut records: Vec<Record> =
            serde_dynamo::from_items(items).map_err(|_| TableError::Corrupt("audit record"))?;
        // The cursor's own record was the last of the page before.
        records.retain(|record| record.sk < before);
        let more = records.len() > usize::from(limit);
        records.truncate(limit.into());
        let last = records
            .last()
            .map(|record| record.sk[PREFIX.len()..].to_owned());
        let next_cursor = last.filter(|_| more);
        // TTL is housekeeping: what is over is not shown, deleted or not.
        records.retain(|record| record.ttl > now.unix_timestamp());
        Ok(Page {
            records,
            next_cursor,
        })
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Region};
    use aws_smithy_runtime_api::client::{
        http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
        orchestrator::HttpRequest,
        result::ConnectorError,
    };
    use metrics_cloudwatch_embedded::Builder;

    use super::*;

    /// No call gets through.
    #[derive(Debug)]
    struct Nowhere;

    impl HttpConnector for Nowhere {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            HttpConnectorFuture::ready(Err(ConnectorError::user("nowhere".into())))
        }
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_written_rings() {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .http_client(http_client_fn(|_, _| SharedHttpConnector::new(Nowhere)))
            .build();
        let writer = AuditWriter::new(Client::from_conf(config), "t".to_owned(), "fetch-keys");
        let event = Event {
            action: Action::Open,
            provider: Some(Provider::Gemini),
            kid: None,
            purpose: None,
            request_id: "r-1",
            now: OffsetDateTime::UNIX_EPOCH,
        };
        // For the whole process, in which no other test counts these.
        let collector = Builder::new().cloudwatch_namespace("test").init().unwrap();
        writer.note(&User::local(), &event, Outcome::Refused).await;
        let mut written = Vec::new();
        collector.flush(&mut written).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["audit_failures"], 1, "{written}");
        assert_eq!(written["function"], "fetch-keys");
    }
}
