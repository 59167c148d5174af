//! Moves every ciphertext to the current KMS key. Can re-encrypt and can never decrypt.
//!
//! Safe to run twice, at once, or to be killed: each row is moved by one conditional write.

use std::sync::Arc;

use lambda_runtime::Context;
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    aws::Aws,
    config::{Config, Pace},
    key_scan::{Cursors, Fields, KeyMover, KeyScanner, Row},
    key_table::TableError,
    problem::Problem,
    sealing::{Binding, Rewrapper},
    sweep::{Answer, Invoked, Sweep, Turns},
};

/// Its name on Lambda.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Under the current KMS key now.
const REWRAPPED: &str = "rewrapped";
/// Somebody wrote or deleted the row meanwhile; a next pass looks at it again.
const SUPERSEDED: &str = "superseded";
/// Was under the current KMS key already.
const SKIPPED: &str = "skipped";

/// All this function can reach.
pub struct Deps {
    deploy_env: String,
    scanner: KeyScanner,
    cursors: Cursors,
    rewrapper: Rewrapper,
    mover: KeyMover,
    pace: Pace,
}

impl Deps {
    /// Exactly this function's capabilities.
    #[must_use]
    pub fn new(config: &Config, aws: &Aws) -> Self {
        let table = || config.table_name.clone();
        Self {
            deploy_env: config.deploy_env.clone(),
            scanner: KeyScanner::new(aws.dynamodb.clone(), table()),
            cursors: Cursors::new(aws.dynamodb.clone(), table()),
            rewrapper: Rewrapper::new(aws.kms.clone(), config),
            mover: KeyMover::new(aws.dynamodb.clone(), table()),
            pace: config.rotate_pace,
        }
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Job {
    Rewrap,
}

/// Answers one invocation; `context` is there on Lambda.
///
/// # Errors
/// When nothing could be done.
pub async fn handle(
    deps: &Deps,
    context: Option<&Context>,
    event: Value,
) -> Result<Answer, Problem> {
    let turns = &Turns::new(deps.pace.per_second);
    let sweep = Sweep {
        function: NAME,
        deploy_env: &deps.deploy_env,
        scanner: &deps.scanner,
        cursors: &deps.cursors,
        fields: Fields::Sealed,
        concurrency: Turns::abreast(deps.pace.concurrency, deps.pace.per_second),
        outcomes: &[REWRAPPED, SUPERSEDED, SKIPPED],
    };
    let each = |invoked: Arc<Invoked<Job>>, row: Arc<Row>| async move {
        match invoked.job {
            Job::Rewrap => rewrap(deps, turns, &row).await,
        }
    };
    sweep.answer(context, event, each).await
}

/// One `ReEncrypt` and one conditional `UpdateItem`, for a row that is not where it should be.
async fn rewrap(deps: &Deps, turns: &Turns, row: &Row) -> Result<&'static str, Problem> {
    let read = row.revision()?;
    if deps.rewrapper.is_current(&read.sealed) {
        return Ok(SKIPPED);
    }
    let owner = row.owner()?;
    let binding = Binding {
        user: owner.id(),
        provider: row.provider()?,
        kid: &read.kid,
    };
    turns.turn().await;
    let moved = deps.rewrapper.rewrap(&read.sealed, &binding).await?;
    let now = OffsetDateTime::now_utc();
    match deps.mover.replace(row, &read, &moved, now).await {
        Ok(()) => Ok(REWRAPPED),
        Err(TableError::Condition | TableError::Conflict) => Ok(SUPERSEDED),
        Err(error) => Err(error.into()),
    }
}
