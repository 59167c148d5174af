//! A person's way through onboarding: six steps, kept as one item.
//!
//! Knows steps and their order; must not know keys. Keys that a front end sends along with a step are
//! dropped before anything is kept, and from what was kept before they were known as such.

mod key_name;
mod step_data;

pub use step_data::StepData;

use std::collections::BTreeMap;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::{
    key_table::{TableError, failure, partition, text},
    user::User,
};

/// The steps, first to last: title and what a person does there.
pub const STEPS: [(&str, &str); 6] = [
    ("API Keys", "Save your own AI provider keys"),
    ("Website", "Tell us about your website"),
    ("Research", "Choose how your topics are researched"),
    ("Personalization", "Set your style and audience"),
    ("Integrations", "Connect the tools you use"),
    ("Finish", "Check everything and start"),
];
/// What all steps together may keep, in bytes of JSON.
pub const DATA_MAX_BYTES: usize = 64 * 1024;
const SESSION: &str = "SESSION";
/// Every attribute of a [`Session`].
const STORED: &str = "session_id, rev, current_step, started_at, updated_at, completed_at, steps";
/// How often a change is tried again after another one got in before it.
const ATTEMPTS: usize = 5;

/// The number of a step, 1 to 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepNumber(u8);

impl StepNumber {
    /// Accepts `1` to `6`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let number: u8 = text.parse().ok()?;
        let exact = number.to_string() == text;
        (exact && (1..=STEPS.len()).contains(&number.into())).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }

    fn all() -> impl Iterator<Item = Self> {
        (1..).take(STEPS.len()).map(Self)
    }
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Done.
    Completed,
    /// Left out.
    Skipped,
}

/// A step that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Step {
    status: Ended,
    completed_at: String,
    #[serde(default, with = "json_text")]
    data: Value,
    #[serde(default)]
    validation_errors: Vec<String>,
}

/// `data` as stored: JSON in one text. As DynamoDB's own types it would lose digits, and numbers
/// beyond 1e126 or more than 32 levels could not be written at all.
mod json_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(data: &Value, serializer: S) -> Result<S::Ok, S::Error> {
        data.to_string().serialize(serializer)
    }

    /// Also what stood here before it was a text.
    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
        match Value::deserialize(d)? {
            Value::String(text) => serde_json::from_str(&text).map_err(de::Error::custom),
            data => Ok(data),
        }
    }
}

/// One person's session. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Session {
    /// Its own id; empty before the start.
    pub session_id: String,
    /// Counts writes.
    rev: u64,
    /// 0 before the start.
    pub current_step: u8,
    /// When the person started.
    pub started_at: Option<String>,
    /// Last change.
    pub updated_at: Option<String>,
    /// When the person finished.
    pub completed_at: Option<String>,
    steps: BTreeMap<String, Step>,
}

/// A step as an answer shows it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OnboardingStep, example = json!({"step_number": 1, "title": "API Keys",
    "description": "Save your own AI provider keys", "status": "in_progress", "completed_at": null,
    "data": null, "validation_errors": []}))]
pub struct ShownStep {
    /// 1 to 6.
    #[schema(minimum = 1, maximum = 6)]
    step_number: u8,
    title: &'static str,
    description: &'static str,
    /// `pending`, `in_progress`, `completed` or `skipped`.
    #[schema(pattern = "^(pending|in_progress|completed|skipped)$")]
    pub status: &'static str,
    #[schema(required)]
    completed_at: Option<String>,
    /// What the front end kept there, without any keys.
    pub data: Value,
    /// What the front end found wrong.
    pub validation_errors: Vec<String>,
}

/// The data of all steps is larger than [`DATA_MAX_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the steps together hold more than 64 KiB")]
pub struct TooMuchData;

impl Session {
    /// Starts it; a second start changes nothing.
    ///
    /// # Errors
    /// Only when `now` cannot be written down.
    pub fn start(&mut self, now: OffsetDateTime) -> Result<(), TableError> {
        if self.started_at.is_none() {
            self.session_id = Ulid::new().to_string();
            self.started_at = Some(now.format(&Rfc3339)?);
            self.current_step = 1;
        }
        Ok(())
    }

    /// Ends a step, starting the session if need be.
    ///
    /// # Errors
    /// Only when `now` cannot be written down.
    pub fn end(
        &mut self,
        step: StepNumber,
        status: Ended,
        kept: StepData,
        now: OffsetDateTime,
    ) -> Result<(), TableError> {
        self.start(now)?;
        let ended = Step {
            status,
            completed_at: now.format(&Rfc3339)?,
            data: kept.data,
            validation_errors: kept.validation_errors,
        };
        self.steps.insert(step.0.to_string(), ended);
        self.current_step = self.next_step().unwrap_or(STEPS.len() as u8);
        Ok(())
    }

    /// Finishes the whole of it.
    ///
    /// # Errors
    /// Only when `now` cannot be written down.
    pub fn finish(&mut self, now: OffsetDateTime) -> Result<(), TableError> {
        let last = StepNumber(STEPS.len() as u8);
        if !self.steps.contains_key(&last.0.to_string()) {
            self.end(last, Ended::Completed, StepData::default(), now)?;
        }
        if self.completed_at.is_none() {
            self.completed_at = Some(now.format(&Rfc3339)?);
        }
        self.current_step = last.0;
        Ok(())
    }

    /// Back to step 1, with nothing ended.
    pub fn reset(&mut self) {
        self.steps.clear();
        self.completed_at = None;
        self.current_step = 1;
    }

    /// The first step that has not ended.
    #[must_use]
    pub fn next_step(&self) -> Option<u8> {
        let open = |step: &StepNumber| !self.steps.contains_key(&step.0.to_string());
        StepNumber::all().find(open).map(StepNumber::get)
    }

    /// Ended steps out of six, in percent; 100 once finished.
    #[must_use]
    pub fn completion_percentage(&self) -> u8 {
        match self.completed_at {
            Some(_) => 100,
            None => (self.steps.len() * 100 / STEPS.len()) as u8,
        }
    }

    /// Whether only the last step is left.
    #[must_use]
    pub fn can_proceed_to_final(&self) -> bool {
        self.next_step()
            .is_none_or(|step| usize::from(step) == STEPS.len())
    }

    /// One step, ended or not.
    #[must_use]
    pub fn shown(&self, number: StepNumber) -> ShownStep {
        let (title, description) = STEPS[usize::from(number.0) - 1];
        let step = self.steps.get(&number.0.to_string());
        ShownStep {
            step_number: number.0,
            title,
            description,
            status: match step.map(|step| step.status) {
                Some(Ended::Completed) => "completed",
                Some(Ended::Skipped) => "skipped",
                None if self.current_step == number.0 => "in_progress",
                None => "pending",
            },
            completed_at: step.map(|step| step.completed_at.clone()),
            data: step.map_or(Value::Null, |step| step.data.clone()),
            validation_errors: step.map_or_else(Vec::new, |step| step.validation_errors.clone()),
        }
    }

    /// All six.
    #[must_use]
    pub fn shown_steps(&self) -> Vec<ShownStep> {
        StepNumber::all().map(|step| self.shown(step)).collect()
    }

    /// Takes out what an older rule kept.
    fn drop_keys(&mut self) {
        for step in self.steps.values_mut() {
            let errors = std::mem::take(&mut step.validation_errors);
            let kept = StepData::without_keys(step.data.take(), errors);
            (step.data, step.validation_errors) = (kept.data, kept.validation_errors);
        }
    }

    /// # Errors
    /// [`TooMuchData`]
    fn check_size(&self) -> Result<(), TooMuchData> {
        let of = |step: &Step| {
            let errors = step.validation_errors.iter().map(String::len);
            step.data.to_string().len() + errors.sum::<usize>()
        };
        match self.steps.values().map(of).sum::<usize>() <= DATA_MAX_BYTES {
            true => Ok(()),
            false => Err(TooMuchData),
        }
    }
}

/// Why a session was not changed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The steps would hold too much.
    #[error(transparent)]
    TooMuchData(#[from] TooMuchData),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Reads and writes the one session item of a person, and nothing else.
#[derive(Debug, Clone)]
pub struct Sessions {
    dynamodb: Client,
    table: String,
}

impl Sessions {
    /// Sessions in `table`.
    #[must_use]
    pub fn new(dynamodb: Client, table: String) -> Self {
        Self { dynamodb, table }
    }

    /// One strongly consistent `GetItem`; a person who never started has an empty session.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn get(&self, user: &User) -> Result<Session, TableError> {
        let answer = self
            .dynamodb
            .get_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(SESSION))
            // The role demands it: a row with a ciphertext would come without it.
            .projection_expression(STORED)
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| failure(&error))?;
        let session = answer.item.map(serde_dynamo::from_item).transpose();
        let session: Option<Session> = session.map_err(|_| TableError::Corrupt("session"))?;
        let mut session = session.unwrap_or_default();
        session.drop_keys();
        Ok(session)
    }

    /// One read and one conditional write; read and tried again when another change got in between.
    ///
    /// # Errors
    /// [`SessionError`]; the session is as it was.
    pub async fn change(
        &self,
        user: &User,
        now: OffsetDateTime,
        change: impl Fn(&mut Session) -> Result<(), TableError>,
    ) -> Result<Session, SessionError> {
        for _ in 0..ATTEMPTS {
            let mut session = self.get(user).await?;
            change(&mut session)?;
            session.check_size()?;
            session.updated_at = Some(now.format(&Rfc3339).map_err(TableError::from)?);
            match self.put(user, &mut session).await {
                Err(TableError::Condition) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(session),
            }
        }
        Err(TableError::Unavailable("too many changes at once".to_owned()).into())
    }

    async fn put(&self, user: &User, session: &mut Session) -> Result<(), TableError> {
        let before = session.rev;
        session.rev += 1;
        let item: std::collections::HashMap<String, AttributeValue> =
            serde_dynamo::to_item(&*session).map_err(|_| TableError::Corrupt("session"))?;
        self.dynamodb
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .item("pk", partition(user))
            .item("sk", text(SESSION))
            .condition_expression("rev = :before OR (attribute_not_exists(pk) AND :before = :zero)")
            .expression_attribute_values(":before", AttributeValue::N(before.to_string()))
            .expression_attribute_values(":zero", AttributeValue::N("0".to_owned()))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }

    /// One `DeleteItem`; the keys stay.
    ///
    /// # Errors
    /// [`TableError`]
    pub async fn delete(&self, user: &User) -> Result<(), TableError> {
        self.dynamodb
            .delete_item()
            .table_name(&self.table)
            .key("pk", partition(user))
            .key("sk", text(SESSION))
            .send()
            .await
            .map_err(|error| failure(&error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_of_an_older_rule_are_not_shown() {
        let item = json!({"session_id": "s", "rev": 1, "current_step": 2, "steps": {"1": {
            "status": "completed", "completed_at": "2026-01-01T00:00:00Z",
            "data": r#"{"gemini":"AQ.super-secret","site":"a.test"}"#,
            "validation_errors": ["AQ.super-secret is wrong"]}}});
        let mut session: Session = serde_json::from_value(item).unwrap();
        session.drop_keys();
        let shown = session.shown(StepNumber(1));
        assert_eq!(shown.data, json!({"site": "a.test"}));
        assert_eq!(shown.validation_errors, ["************ is wrong"]);
    }

    #[test]
    fn data_comes_back_as_it_was_sent_whatever_dynamodb_can_hold() {
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        let data = json!({"big": 3.18e134, "digits": 0.12345678901234567, "one": 1.0, "": "", "deep": deep});
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut session = Session::default();
        let step = StepNumber(2);
        let kept = StepData::without_keys(data.clone(), Vec::new());
        session.end(step, Ended::Completed, kept, now).unwrap();
        let item: std::collections::HashMap<String, AttributeValue> =
            serde_dynamo::to_item(&session).unwrap();
        let read: Session = serde_dynamo::from_item(item).unwrap();
        assert_eq!(read.shown(step).data, data);
    }

    #[test]
    fn a_step_number_is_1_to_6_and_nothing_like_it() {
        for text in ["1", "6"] {
            assert!(StepNumber::parse(text).is_some());
        }
        for text in ["0", "7", "-1", "+1", "01", "1.0", "", "one", "256"] {
            assert!(StepNumber::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn progress_is_ended_steps_out_of_six() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut session = Session::default();
        assert_eq!(
            (session.current_step, session.completion_percentage()),
            (0, 0)
        );
        for step in StepNumber::all().take(5) {
            session
                .end(step, Ended::Skipped, StepData::default(), now)
                .unwrap();
        }
        assert_eq!(
            (session.current_step, session.completion_percentage()),
            (6, 83)
        );
        assert!(session.can_proceed_to_final());
        session.reset();
        assert_eq!(
            (session.current_step, session.completion_percentage()),
            (1, 0)
        );
    }
}
