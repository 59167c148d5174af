//! Asks providers whether stored keys still work, where that is free.
//!
//! A provider's word is recorded on the row of the very key it was about. One refusal is a doubt; a
//! second one a day later makes the key invalid.

use std::{collections::BTreeMap, sync::Arc};

use lambda_runtime::Context;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    audit::{Action, Event, Outcome},
    aws::Aws,
    config::Config,
    https::HttpsError,
    key_scan::{Cursors, Fields, KeyScanner, Row},
    key_table::{Status, TableError},
    problem::Problem,
    provider::Provider,
    provider_check::{Checker, Verdict},
    sweep::{Answer, Invoked, Sweep, Turns},
    user_api_keys::{KeyAccess, KeyError, UserApiKeys},
};

/// Its name on Lambda and in the audit log.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Keys under way at once: what waits for its turn is not held up long.
const CONCURRENCY: u16 = 8;

const VALID: &str = "valid";
const INVALID: &str = "invalid";
const UNKNOWN: &str = "unknown";
/// The provider is not asked: no free check, a key that is paused or expired, or not in doubt.
const SKIPPED: &str = "skipped";
/// Replaced, restored or deleted meanwhile.
const SUPERSEDED: &str = "superseded";

/// All this function can reach.
pub struct Deps {
    deploy_env: String,
    scanner: KeyScanner,
    cursors: Cursors,
    access: KeyAccess,
    checker: Checker,
    per_second: u16,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, HttpsError> {
        let free = |provider: &Provider| provider.facts().check.is_some();
        let opens: Vec<_> = Provider::ALL.iter().copied().filter(free).collect();
        Ok(Self {
            deploy_env: config.deploy_env.clone(),
            scanner: KeyScanner::new(aws.dynamodb.clone(), config.table_name.clone()),
            cursors: Cursors::new(aws.dynamodb.clone(), config.table_name.clone()),
            access: KeyAccess::new(config, aws, NAME, &opens),
            checker: Checker::new(config)?,
            per_second: config.check_per_second,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    /// Every key.
    Check,
    /// Keys that have been refused once, a day after that.
    Recheck,
}

/// One queue per provider.
type Queues = BTreeMap<Provider, Turns>;

/// Answers one invocation; `context` is there on Lambda.
///
/// # Errors
/// When nothing could be done.
pub async fn handle(
    deps: &Deps,
    context: Option<&Context>,
    event: Value,
) -> Result<Answer, Problem> {
    handle_at(deps, context, event, OffsetDateTime::now_utc).await
}

/// The same by another clock.
///
/// # Errors
/// When nothing could be done.
pub async fn handle_at(
    deps: &Deps,
    context: Option<&Context>,
    event: Value,
    clock: impl Fn() -> OffsetDateTime + Sync,
) -> Result<Answer, Problem> {
    let queue = |&provider: &Provider| (provider, Turns::new(Some(deps.per_second)));
    let queues: &Queues = &Provider::ALL.iter().map(queue).collect();
    let clock = &clock;
    let sweep = Sweep {
        function: NAME,
        deploy_env: &deps.deploy_env,
        scanner: &deps.scanner,
        cursors: &deps.cursors,
        fields: Fields::Record,
        concurrency: Turns::abreast(CONCURRENCY, Some(deps.per_second)),
        outcomes: &[VALID, INVALID, UNKNOWN, SKIPPED, SUPERSEDED],
    };
    let each = |invoked: Arc<Invoked<Job>>, row: Arc<Row>| async move {
        let checked = check(deps, queues, &invoked, &row, clock).await;
        checked.map_err(Problem::from)
    };
    sweep.answer(context, event, each).await
}

/// Where a check is due: one `GetItem`, then `Decrypt` beside the audit record, the provider's answer
/// and one `UpdateItem`.
async fn check(
    deps: &Deps,
    queues: &Queues,
    invoked: &Invoked<Job>,
    row: &Row,
    clock: &(impl Fn() -> OffsetDateTime + Sync),
) -> Result<&'static str, KeyError> {
    let provider = row.provider()?;
    let record = row.record()?;
    let (Some(free), Some(queue)) = (&provider.facts().check, queues.get(&provider)) else {
        return Ok(SKIPPED);
    };
    let in_doubt = record.refused_at.is_some() && record.status != Status::Invalid;
    let due = invoked.job == Job::Check || in_doubt;
    if !due || !record.enabled || record.expired(clock()) {
        return Ok(SKIPPED);
    }
    queue.turn().await;
    let user = row.owner()?;
    let keys = UserApiKeys::of(&user, &deps.access, None);
    let event = Event {
        action: Action::Check,
        provider: Some(provider),
        kid: None,
        purpose: None,
        request_id: &invoked.request_id,
        now: clock(),
    };
    let found = match keys.find(provider).await {
        Err(KeyError::Missing(_)) => return Ok(SUPERSEDED),
        found => found?,
    };
    let Some(record) = found.record().cloned() else {
        return Ok(SKIPPED);
    };
    let opened = match found.open(&event).await {
        Err(error) if error.is_the_persons() => return Ok(SUPERSEDED),
        opened => opened?,
    };
    let verdict = deps.checker.check(provider, free, &opened.key).await;
    if verdict == Verdict::Invalid {
        let event = Event {
            kid: Some(&record.kid),
            ..event
        };
        deps.access
            .audit
            .note(&user, &event, Outcome::Refused)
            .await;
    }
    let marker = &deps.access.marker;
    match marker
        .checked(&user, provider, &record, verdict, clock())
        .await
    {
        Ok(()) => Ok(word(verdict)),
        Err(TableError::Condition | TableError::Conflict) => Ok(SUPERSEDED),
        Err(error) => Err(error.into()),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => VALID,
        Verdict::Invalid => INVALID,
        Verdict::Unknown => UNKNOWN,
    }
}
