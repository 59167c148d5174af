//! `export` and `erase`: everything of one person, as JSON, or gone.

use std::{collections::HashMap, io::Write};

use aws_sdk_dynamodb::{error::ProvideErrorMetadata, types::AttributeValue};
use clap::Args;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use user_api_keys::{
    audit::{self, AuditReader},
    key_table::{KeyLister, TableError},
    onboarding::Sessions,
    provider::Provider,
    usage::UsageReader,
    user::User,
    user_api_keys::{KeyAccess, KeyError, UserApiKeys},
};

use crate::stack::{Stack, StackArgs, StackError};

/// In whose name the audit records are.
const NAME: &str = "export";
/// Records of the trail at a time.
const PAGE: u8 = 100;
/// Days of usage that are kept.
const DAYS: u16 = 400;

/// What `export` takes from the command line.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// Whose: a Clerk user id.
    #[arg(long)]
    user: String,
    /// With the keys in clear. Each is on the person's audit log.
    #[arg(long)]
    reveal: bool,
    #[command(flatten)]
    stack: StackArgs,
}

/// What `erase` takes from the command line.
#[derive(Debug, Clone, Args)]
pub struct EraseArgs {
    /// Whose: a Clerk user id.
    #[arg(long)]
    user: String,
    /// Do it; without this only what would be erased is counted.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    stack: StackArgs,
}

/// Why it was not done, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// The stack.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A key that should open does not.
    #[error("{provider}: {source}")]
    Key {
        /// What is wrong with it.
        source: KeyError,
        /// Whose key it is.
        provider: &'static str,
    },
    /// What is stored cannot be shown.
    #[error("a row cannot be shown as JSON")]
    Json(#[from] serde_json::Error),
    /// What is stored is of a time that cannot be written.
    #[error(transparent)]
    Time(#[from] time::error::Format),
    /// The table refused; run it again, it goes on.
    #[error("DynamoDB: {0}; run it again, it goes on")]
    Refused(String),
    /// The terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Prints all of one person's data.
///
/// # Errors
/// [`PersonError`]
pub async fn export(args: &ExportArgs) -> Result<(), PersonError> {
    let stack = Stack::open(&args.stack).await?;
    let user = stack.person(&args.user)?;
    let now = OffsetDateTime::now_utc();
    let dynamodb = || stack.aws.dynamodb.clone();
    let sessions = Sessions::new(dynamodb(), stack.table());
    let whole = json!({
        "user_id": user.id().as_str(),
        "stack": stack.config.deploy_env,
        "exported_at": now.format(&Rfc3339)?,
        "keys": keys(&stack, &user, args.reveal, now).await?,
        "onboarding": serde_json::to_value(sessions.get(&user).await?)?,
        "audit": trail(&stack, &user, now).await?,
        "usage": serde_json::to_value(
            UsageReader::new(dynamodb(), stack.table()).days(&user, DAYS, now).await?,
        )?,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string_pretty(&whole)?)?;
    Ok(out.flush()?)
}

async fn keys(
    stack: &Stack,
    user: &User,
    reveal: bool,
    now: OffsetDateTime,
) -> Result<Vec<Value>, PersonError> {
    let lister = KeyLister::new(stack.aws.dynamodb.clone(), stack.table());
    let access = KeyAccess::new(&stack.config, &stack.aws, NAME, Provider::ALL);
    let mine = UserApiKeys::of(user, &access, None);
    let event = audit::Event {
        action: audit::Action::Export,
        provider: None,
        kid: None,
        purpose: Some("export"),
        request_id: NAME,
        now,
    };
    let mut keys = Vec::new();
    for record in lister.list(user).await? {
        let Some(provider) = record.provider() else {
            continue;
        };
        let shown = record.shown(now, stack.config.rotate_after_days);
        let mut shown = serde_json::to_value(shown)?;
        if reveal {
            shown["api_key"] = match mine.get(provider, &event).await {
                // EXPOSE: the operator hands a person their own data, and says so with --reveal.
                Ok(opened) => json!(opened.key.expose()),
                // Paused or expired: it is not opened for anybody.
                Err(error) if error.is_the_persons() => Value::Null,
                Err(source) => {
                    let provider = provider.facts().title;
                    return Err(PersonError::Key { source, provider });
                }
            };
        }
        keys.push(shown);
    }
    Ok(keys)
}

async fn trail(stack: &Stack, user: &User, now: OffsetDateTime) -> Result<Vec<Value>, PersonError> {
    let reader = AuditReader::new(stack.aws.dynamodb.clone(), stack.table());
    let mut records = Vec::new();
    let mut cursor = None;
    loop {
        let page = serde_json::to_value(reader.page(user, PAGE, cursor, now).await?)?;
        records.extend(page["records"].as_array().into_iter().flatten().cloned());
        cursor = page["next_cursor"]
            .as_str()
            .and_then(|cursor| cursor.parse().ok());
        if cursor.is_none() {
            return Ok(records);
        }
    }
}

/// Deletes everything of one person, and says what remains elsewhere.
///
/// # Errors
/// [`PersonError`]; what was deleted stays deleted.
pub async fn erase(args: &EraseArgs) -> Result<(), PersonError> {
    let stack = Stack::open(&args.stack).await?;
    let user = stack.person(&args.user)?;
    let rows = rows(&stack, &user).await?;
    let mut out = std::io::stdout().lock();
    if !args.yes {
        writeln!(out, "{} rows would be erased; --yes does it", rows.len())?;
        return Ok(());
    }
    for row in &rows {
        let delete = stack.aws.dynamodb.delete_item().table_name(stack.table());
        delete
            .set_key(Some(row.clone()))
            .send()
            .await
            .map_err(|error| refused(&error))?;
    }
    let left = self::rows(&stack, &user).await?.len();
    writeln!(
        out,
        "{} rows erased, {left} left",
        rows.len() - left.min(rows.len())
    )?;
    writeln!(
        out,
        "What remains: point-in-time recovery has the rows for 35 days, and every other backup of the \
         table for as long as you keep it; keys in them open until the KMS key is deleted. Logs have a \
         hash in the person's place, for as long as the log groups say. The keys still work at their \
         providers: only the person can revoke them there. Clerk has the account."
    )?;
    Ok(out.flush()?)
}

type Key = HashMap<String, AttributeValue>;

/// The primary keys of everything that is theirs.
async fn rows(stack: &Stack, user: &User) -> Result<Vec<Key>, PersonError> {
    let person = AttributeValue::S(format!("USER#{}", user.id().as_str()));
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let query = stack.aws.dynamodb.query().table_name(stack.table());
        let page = query
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", person.clone())
            .projection_expression("pk, sk")
            .consistent_read(true)
            .set_exclusive_start_key(after)
            .send()
            .await
            .map_err(|error| refused(&error))?;
        rows.extend(page.items.unwrap_or_default());
        after = page.last_evaluated_key;
        if after.is_none() {
            return Ok(rows);
        }
    }
}

fn refused<E: ProvideErrorMetadata>(error: &aws_sdk_dynamodb::error::SdkError<E>) -> PersonError {
    let service = error.as_service_error();
    let code = service.and_then(ProvideErrorMetadata::code);
    PersonError::Refused(code.unwrap_or("no answer").to_owned())
}
