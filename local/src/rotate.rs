//! `rotate`: a new embedded KMS key, and every ciphertext moved to it, as the state machine of
//! `rotation.asl.json` does it on AWS: passes over the table's segments until one finds nothing to do.

mod fill;

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Args;
use embedded::{Embedded, StartError};
use futures_util::future::try_join_all;
use lambda_http::Context;
use rotate_keys::{Deps, handle};
use serde_json::{Value, json};
use user_api_keys::{
    aws::Aws,
    config::{Config, ConfigError, Pace},
    invocation::deadline_in,
    key_scan::{Fields, KeyScanner, Segment},
    key_table::TableError,
    problem::Problem,
    sweep::{Answer, FailedRow},
};

use crate::{
    progress::{self, Progress},
    serve,
    stack::unattended,
};

/// Passes after which rows that still do not move are somebody's work. As in `rotation.asl.json`.
const PASSES: u32 = 5;
/// Seconds before an invocation that failed is tried again; the state machine has more patience.
const WAITS_S: [u64; 3] = [1, 2, 4];
/// How long one invocation works before it answers with a cursor.
const SLICE: Duration = Duration::from_secs(1);
/// SQLite takes one write at a time, so more of them wait only.
const CONCURRENCY: u16 = 8;

/// What `rotate` takes from the command line.
#[derive(Debug, Clone, Args)]
pub struct RotateArgs {
    /// Folder of the embedded database and KMS keys; no server may be running on it.
    #[arg(long, env = "USER_API_KEYS_DATA_DIR", default_value = ".local")]
    data_dir: PathBuf,
    /// The rows are those of `serve --production`.
    #[arg(long)]
    production: bool,
    /// First fill an empty data folder with so many generated keys.
    #[arg(long, value_name = "N")]
    keys: Option<u64>,
    /// Count what would be moved, and change nothing.
    #[arg(long, conflicts_with_all = ["keys", "verify"])]
    dry_run: bool,
    /// Say how many keys are under which KMS key, and change nothing.
    #[arg(long, conflicts_with = "keys")]
    verify: bool,
    /// Parts of the table that are worked on side by side; SQLite gains nothing by more than one.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    segments: u32,
}

/// Why the rotation did not run to its end. What was moved stays moved; the next run goes on.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Embedded DynamoDB or KMS.
    #[error(transparent)]
    Embedded(#[from] StartError),
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// An invocation that failed each time it was tried.
    #[error("rotate-keys failed: {0}")]
    Job(String),
    /// A data folder that holds somebody's keys.
    #[error("{} already holds keys that were not generated here; --keys fills an empty folder: name another with --data-dir", .0.display())]
    NotEmpty(PathBuf),
    /// A generated key could not be saved.
    #[error("a generated key was not saved: {0}")]
    Fill(String),
    /// Ctrl-C.
    #[error("stopped; run the same command again to go on")]
    Stopped,
    /// The terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Runs it; the exit code is 0 when no key is left under an older KMS key, which can be disabled then,
/// and 2 when some are.
///
/// # Errors
/// [`RotateError`]
pub async fn rotate(args: &RotateArgs) -> Result<ExitCode, RotateError> {
    let work = Box::pin(run(args));
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(RotateError::Stopped),
    }
}

async fn run(args: &RotateArgs) -> Result<ExitCode, RotateError> {
    let mut services = services(args).await?;
    let places = Places::count(&services).await?;
    if args.verify {
        return places.report();
    }
    let unfinished = services.older_kms_keys.iter().any(|key| !key.retired);
    let begun = unfinished || places.left() > 0;
    if args.dry_run {
        return dry_run(&places, begun);
    }
    match begun {
        // A restored copy of the database may be under a key that was disabled.
        true => services.retire_older_kms_keys(false)?,
        false => services.new_kms_key()?,
    }
    if !move_all(args, &services, &places, begun).await? {
        return Ok(ExitCode::from(2));
    }
    let places = Places::count(&services).await?;
    if places.left() > 0 {
        return places.report();
    }
    services.retire_older_kms_keys(true)?;
    say(format_args!(
        "no key is left under an older KMS key; it is disabled now"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The embedded services, filled first where that is asked for.
async fn services(args: &RotateArgs) -> Result<Embedded, RotateError> {
    let Some(keys) = args.keys else {
        return Ok(Embedded::in_folder(&args.data_dir).await?);
    };
    fill::check(&args.data_dir)?;
    let services = Embedded::in_folder(&args.data_dir).await?;
    fill::fill(&services, &config(args, &services)?, keys).await?;
    Ok(services)
}

/// Runs the job to its end; whether it is complete. `places` is where keys were before it began.
async fn move_all(
    args: &RotateArgs,
    services: &Embedded,
    places: &Places,
    begun: bool,
) -> Result<bool, RotateError> {
    let (word, to_move, there) = match begun {
        true => ("going on", places.left(), places.current),
        false => ("rotating", places.total(), 0),
    };
    say(format_args!(
        "{word}: {to_move} keys to move to a new KMS key, {there} are there already"
    ))?;
    let mut config = config(args, services)?;
    config.rotate_pace = Pace {
        concurrency: CONCURRENCY,
        per_second: None,
    };
    let deps = Deps::new(&config, &Aws::new(&services.dynamodb, &services.kms));
    let started = Instant::now();
    let rotation = Rotation::new(&deps, args.segments, places.total());
    let outcome = rotation.run().await?;
    outcome.report(started.elapsed(), to_move)?;
    Ok(outcome.complete)
}

/// The environment's settings, for jobs that nobody calls.
fn config(args: &RotateArgs, services: &Embedded) -> Result<Config, ConfigError> {
    serve::config(args.production, services, None, unattended)
}

fn say(line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn dry_run(places: &Places, begun: bool) -> Result<ExitCode, RotateError> {
    match begun {
        true => say(format_args!(
            "a rotation has begun: {} keys would be moved, {} are moved already",
            places.left(),
            places.current
        ))?,
        false => say(format_args!(
            "a new KMS key would be made, and {} keys moved to it",
            places.current
        ))?,
    }
    Ok(exit(places.left()))
}

fn exit(left: u64) -> ExitCode {
    match left {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// How many keys are under which KMS key.
struct Places {
    current: u64,
    /// The key's id, whether it is retired, and how many keys are under it.
    older: Vec<(String, bool, u64)>,
    elsewhere: u64,
}

impl Places {
    async fn count(services: &Embedded) -> Result<Self, TableError> {
        let table = services.table_name.clone();
        let scanner = KeyScanner::new(services.dynamodb.clone(), table);
        let mut by_arn = BTreeMap::<String, u64>::new();
        let whole = Segment::new(0, 1).ok_or(TableError::Corrupt("segment"))?;
        let mut after = None;
        loop {
            let page = scanner.page(whole, after.as_ref(), Fields::Sealed).await?;
            for row in &page.rows {
                let arn = row.kms_key().unwrap_or_default().to_owned();
                *by_arn.entry(arn).or_default() += 1;
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut take = |arn: &str| by_arn.remove(arn).unwrap_or_default();
        let current = take(&services.kms_key_arn);
        let older = services.older_kms_keys.iter();
        let older = older.map(|key| {
            let id = key.arn.rsplit('/').next().unwrap_or_default();
            (id.to_owned(), key.retired, take(&key.arn))
        });
        let older = older.collect();
        Ok(Self {
            current,
            older,
            elsewhere: by_arn.values().sum(),
        })
    }

    fn left(&self) -> u64 {
        let older: u64 = self.older.iter().map(|(_, _, keys)| keys).sum();
        older + self.elsewhere
    }

    fn total(&self) -> u64 {
        self.current + self.left()
    }

    fn report(&self) -> Result<ExitCode, RotateError> {
        say(format_args!(
            "{:>9} keys under the current KMS key",
            self.current
        ))?;
        for (id, retired, keys) in &self.older {
            let state = if *retired { ", disabled" } else { "" };
            say(format_args!(
                "{keys:>9} keys under the older KMS key {id}{state}"
            ))?;
        }
        if self.elsewhere > 0 {
            let keys = self.elsewhere;
            say(format_args!(
                "{keys:>9} keys under a KMS key that is not ours"
            ))?;
        }
        match self.left() {
            0 => say(format_args!(
                "zero left: the older KMS keys can be disabled"
            ))?,
            left => say(format_args!(
                "{left} left: no older KMS key may be disabled"
            ))?,
        }
        Ok(exit(self.left()))
    }
}

/// Counts of one pass over every segment.
#[derive(Debug, Default)]
struct Pass {
    counts: BTreeMap<&'static str, u64>,
    failures: Vec<FailedRow>,
}

impl Pass {
    fn count(&self, word: &str) -> u64 {
        self.counts.get(word).copied().unwrap_or_default()
    }

    fn add(&mut self, counts: BTreeMap<&'static str, u64>, failures: Vec<FailedRow>) {
        for (word, rows) in counts {
            *self.counts.entry(word).or_default() += rows;
        }
        self.failures.extend(failures);
    }

    /// A whole pass that found nothing to do.
    fn is_clean(&self) -> bool {
        ["rewrapped", "superseded", "failed"].map(|word| self.count(word)) == [0; 3]
    }

    /// A pass that can only fail again.
    fn is_stuck(&self) -> bool {
        ["rewrapped", "superseded"].map(|word| self.count(word)) == [0; 2] && !self.is_clean()
    }
}

/// The state machine of `rotation.asl.json`, in this process.
struct Rotation<'a> {
    deps: &'a Deps,
    segments: u32,
    progress: Progress,
}

/// How it ended.
struct Outcome {
    complete: bool,
    passes: u32,
    rewrapped: u64,
    superseded: u64,
    last: Pass,
}

impl<'a> Rotation<'a> {
    fn new(deps: &'a Deps, segments: u32, rows: u64) -> Self {
        Self {
            deps,
            segments,
            progress: Progress::new("moving", rows),
        }
    }

    async fn run(&self) -> Result<Outcome, RotateError> {
        let mut outcome = Outcome {
            complete: false,
            passes: 0,
            rewrapped: 0,
            superseded: 0,
            last: Pass::default(),
        };
        while outcome.passes < PASSES {
            self.progress.restart();
            let segments = (0..self.segments).map(|segment| self.segment(segment));
            let mut pass = Pass::default();
            for one in try_join_all(segments).await? {
                pass.add(one.counts, one.failures);
            }
            outcome.passes += 1;
            outcome.rewrapped += pass.count("rewrapped");
            outcome.superseded += pass.count("superseded");
            outcome.complete = pass.is_clean();
            let over = pass.is_clean() || pass.is_stuck();
            outcome.last = pass;
            if over {
                break;
            }
        }
        self.progress.end();
        Ok(outcome)
    }

    /// Loops on the cursor.
    async fn segment(&self, segment: u32) -> Result<Pass, RotateError> {
        let mut pass = Pass::default();
        let mut cursor = Value::Null;
        loop {
            let event = json!({"job": "rewrap", "segment": segment,
                "total_segments": self.segments, "cursor": cursor});
            let answer = self.invoke(event).await?;
            self.progress.add(&answer);
            cursor = json!(answer.cursor);
            pass.add(answer.counts, answer.failures);
            if answer.done {
                return Ok(pass);
            }
        }
    }

    /// Tries again after each of [`WAITS_S`].
    async fn invoke(&self, event: Value) -> Result<Answer, RotateError> {
        let mut waits = WAITS_S.map(Duration::from_secs).into_iter();
        loop {
            let mut context = Context::default();
            context.request_id = ulid::Ulid::new().to_string();
            context.deadline = deadline_in(SLICE);
            match handle(self.deps, Some(&context), event.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(problem) => match waits.next() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(job(&problem)),
                },
            }
        }
    }
}

fn job(problem: &Problem) -> RotateError {
    let cause = problem.cause();
    RotateError::Job(match cause.is_empty() {
        true => problem.detail().to_owned(),
        false => cause.to_owned(),
    })
}

impl Outcome {
    fn report(&self, took: Duration, to_move: u64) -> std::io::Result<()> {
        let failed = self.last.count("failed");
        let rate = self.rewrapped as f64 / took.as_secs_f64();
        say(format_args!(
            "{} of {to_move} keys moved in {:.1} s ({rate:.0} a second) and {} passes; {} superseded, \
             {failed} failed",
            self.rewrapped,
            took.as_secs_f64(),
            self.passes,
            self.superseded,
        ))?;
        if let Some(peak) = progress::peak_memory_mib() {
            say(format_args!("peak memory {peak} MiB"))?;
        }
        for row in &self.last.failures {
            let kid = row.kid.as_deref().unwrap_or("-");
            say(format_args!(
                "failed: {} of user {} (kid {kid}): {}",
                row.row, row.user, row.reason
            ))?;
        }
        if failed > 0 {
            say(format_args!(
                "the rotation is not complete: no older KMS key may be disabled. Rows of another stack \
                 do not open here; if there are some, run once with --production or their DEPLOY_ENV."
            ))?;
        }
        Ok(())
    }
}
