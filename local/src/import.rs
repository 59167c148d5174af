//! `import-env` and `import-postgres`: keys that were kept in clear, sealed for their owners.
//!
//! Only adds: a person's key that is in the table already stays, so a run that was stopped goes on where
//! it was, and nobody's newer key is lost. Never prints a key, and never changes what it reads.

mod env_file;
mod postgres;
mod report;

use std::{path::PathBuf, process::ExitCode, sync::Mutex};

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;
use time::OffsetDateTime;
use ulid::Ulid;
use user_api_keys::{
    api_key::ApiKey,
    audit::{self, AuditWriter, Outcome},
    key_table::{KeyReader, KeyWriter, NewKey, TableError},
    provider::Provider,
    sealing::{Binding, Opener, Sealer, SealingError},
    user::User,
};

use self::report::{Reason, Report, Skipped};
use crate::{
    progress::Progress,
    stack::{Stack, StackArgs, StackError},
};

/// Keys under way at once.
const CONCURRENCY: usize = 8;
/// In whose name the audit records are.
const NAME: &str = "import";

/// Keys of a `.env` file.
#[derive(Debug, Clone, Args)]
pub struct EnvArgs {
    /// The file; its variables are called as in this project: GEMINI_API_KEY, ….
    file: PathBuf,
    /// Whose they are: a Clerk user id.
    #[arg(long)]
    user: String,
    #[command(flatten)]
    common: ImportArgs,
}

/// Keys of the system before.
#[derive(Debug, Clone, Args)]
pub struct PostgresArgs {
    /// postgres://…, with the tables `onboarding_sessions` and `api_keys`. Better in the environment than
    /// on the command line, where others see it.
    #[arg(env = "DATABASE_URL", hide_env_values = true)]
    url: String,
    #[command(flatten)]
    common: ImportArgs,
}

#[derive(Debug, Clone, Args)]
struct ImportArgs {
    /// Say what would be imported and what not, and change nothing.
    #[arg(long, conflicts_with = "verify")]
    dry_run: bool,
    /// Import nothing; open every key and compare it with its source.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    stack: StackArgs,
}

/// Why the import did not run to its end. What was imported stays; the next run goes on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The stack.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The source file.
    #[error("{} cannot be read: {problem}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// What is wrong, without a value.
        problem: String,
    },
    /// The source database. Its words may hold values, so only its code is shown.
    #[error("PostgreSQL: {0}")]
    Postgres(String),
    /// The table.
    #[error("{0}; run it again, it goes on")]
    Table(#[from] TableError),
    /// KMS.
    #[error("{0}; run it again, it goes on")]
    Sealing(#[from] SealingError),
    /// The terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A key as a source has it. No `Debug`: it is in clear.
struct Found {
    /// Where it stands, for the report.
    place: String,
    user: Option<String>,
    provider: String,
    key: SecretString,
    /// When it was saved there.
    saved_at: Option<OffsetDateTime>,
}

/// A key that can be imported.
struct Wanted {
    place: String,
    user: User,
    provider: Provider,
    key: ApiKey,
    saved_at: OffsetDateTime,
}

/// Imports a `.env` file.
///
/// # Errors
/// [`ImportError`]
pub async fn env(args: &EnvArgs) -> Result<ExitCode, ImportError> {
    let (found, skipped) = env_file::read(&args.file, &args.user)?;
    import(&args.common, found, skipped).await
}

/// Imports from PostgreSQL.
///
/// # Errors
/// [`ImportError`]
pub async fn postgres(args: &PostgresArgs) -> Result<ExitCode, ImportError> {
    import(&args.common, postgres::read(&args.url).await?, Vec::new()).await
}

/// `found` is newest first for each person and provider; `skipped` is reported and no more.
async fn import(
    args: &ImportArgs,
    found: Vec<Found>,
    skipped: Skipped,
) -> Result<ExitCode, ImportError> {
    let target = Target::open(&args.stack).await?;
    let mut report = Report::default();
    for (place, reason) in skipped {
        report.skip(place, reason);
    }
    let wanted = target.wanted(found, &mut report);
    let report = Mutex::new(report);
    let word = match (args.dry_run, args.verify) {
        (true, _) => "would be imported",
        (_, true) => "open and are the same",
        _ => "imported",
    };
    let progress = Progress::new(word, wanted.len() as u64);
    let done = stream::iter(wanted).map(|wanted| target.one(args, wanted));
    let done = done.buffer_unordered(CONCURRENCY).try_for_each(|outcome| {
        progress.step();
        // Nobody panics while holding it.
        if let Ok(mut report) = report.lock() {
            report.add(outcome);
        }
        async { Ok(()) }
    });
    let outcome = done.await;
    progress.end();
    let report = report.into_inner().unwrap_or_default();
    report.print(word)?;
    outcome?;
    Ok(match args.verify && report.differs() {
        true => ExitCode::from(2),
        false => ExitCode::SUCCESS,
    })
}

/// Where the keys go.
struct Target {
    sealer: Sealer,
    opener: Opener,
    writer: KeyWriter,
    reader: KeyReader,
    audit: AuditWriter,
    stack: Stack,
}

impl Target {
    async fn open(args: &StackArgs) -> Result<Self, StackError> {
        let stack = Stack::open(args).await?;
        let (dynamodb, kms) = (&stack.aws.dynamodb, &stack.aws.kms);
        Ok(Self {
            sealer: Sealer::new(kms.clone(), &stack.config),
            opener: Opener::new(kms.clone(), &stack.config, Provider::ALL),
            writer: KeyWriter::new(dynamodb.clone(), stack.table()),
            reader: KeyReader::new(dynamodb.clone(), stack.table()),
            audit: AuditWriter::new(dynamodb.clone(), stack.table(), NAME),
            stack,
        })
    }

    /// What can be imported: of a person's keys of one provider the newest that is one.
    fn wanted(&self, found: Vec<Found>, report: &mut Report) -> Vec<Wanted> {
        let mut taken = std::collections::HashSet::new();
        let mut wanted = Vec::new();
        for found in found {
            let place = found.place.clone();
            match self.judge(found) {
                Err(reason) => report.skip(place, reason),
                Ok(key)
                    if taken.insert((key.user.id().as_str().to_owned(), key.provider.name())) =>
                {
                    wanted.push(key);
                }
                Ok(_) => report.skip(place, Reason::Older),
            }
        }
        wanted
    }

    fn judge(&self, found: Found) -> Result<Wanted, Reason> {
        let user = found.user.ok_or(Reason::NoSession)?;
        let user = self.stack.person(&user).map_err(|_| Reason::UserId)?;
        let name = found.provider.trim().to_ascii_lowercase();
        let provider: Provider = name.parse().map_err(|_| Reason::Provider)?;
        let key = ApiKey::of(provider, found.key).map_err(Reason::Key)?;
        Ok(Wanted {
            place: found.place,
            user,
            provider,
            key,
            saved_at: found.saved_at.unwrap_or_else(OffsetDateTime::now_utc),
        })
    }

    async fn one(&self, args: &ImportArgs, wanted: Wanted) -> Result<report::One, ImportError> {
        let outcome = match (args.dry_run, args.verify) {
            (true, _) => Ok(()),
            (_, true) => self.compare(&wanted).await?,
            _ => self.add(&wanted).await?,
        };
        Ok((wanted.place, outcome))
    }

    /// Seals and saves it, with a record on the person's trail.
    async fn add(&self, wanted: &Wanted) -> Result<Result<(), Reason>, ImportError> {
        let Wanted {
            user,
            provider,
            key,
            ..
        } = wanted;
        if self.writer.before(user, *provider).await?.is_there() {
            return Ok(Err(Reason::There));
        }
        // A key's age counts from its id.
        let kid = Ulid::from_datetime(wanted.saved_at.into()).to_string();
        let binding = Binding {
            user: user.id(),
            provider: *provider,
            kid: &kid,
        };
        let hint = key.hint();
        let new = NewKey::unverified(
            *provider,
            &kid,
            self.sealer.seal(key, &binding).await?,
            &hint,
        );
        let now = OffsetDateTime::now_utc();
        let event = audit::Event {
            action: audit::Action::Save,
            provider: Some(*provider),
            kid: Some(&kid),
            purpose: None,
            request_id: NAME,
            now,
        };
        self.audit.write(user, &event, Outcome::Ok).await?;
        match self.writer.add(user, &new, now).await {
            Ok(true) => Ok(Ok(())),
            Ok(false) => {
                self.audit.note(user, &event, Outcome::Failed).await;
                Ok(Err(Reason::There))
            }
            Err(error) => {
                self.audit.note(user, &event, Outcome::Failed).await;
                Err(error.into())
            }
        }
    }

    /// Opens what is in the table and holds it against the source.
    async fn compare(&self, wanted: &Wanted) -> Result<Result<(), Reason>, ImportError> {
        let Some(row) = self.reader.get(&wanted.user, wanted.provider).await? else {
            return Ok(Err(Reason::Missing));
        };
        let binding = Binding {
            user: wanted.user.id(),
            provider: wanted.provider,
            kid: &row.record.kid,
        };
        match self.opener.open(&row.sealed, &binding).await {
            // EXPOSE: to compare the two in this process; neither is kept or shown.
            Ok(key) if key.expose() == wanted.key.expose() => Ok(Ok(())),
            Ok(_) => Ok(Err(Reason::Differs)),
            Err(SealingError::DoesNotOpen(_) | SealingError::InnerBinding) => {
                Ok(Err(Reason::DoesNotOpen))
            }
            Err(error) => Err(error.into()),
        }
    }
}
