//! Keys of the system before: `api_keys` of `onboarding_sessions`.

use futures_util::TryStreamExt;
use secrecy::SecretString;
use time::OffsetDateTime;
use tokio_postgres::{
    Config, NoTls, Row,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{Found, ImportError};

/// Newest first for each person and provider. Times as seconds, whatever their columns' type is.
const KEYS: &str = "SELECT k.session_id::text, s.user_id::text, k.provider::text, k.key::text, \
     extract(epoch FROM coalesce(k.updated_at, k.created_at))::float8 \
     FROM api_keys k LEFT JOIN onboarding_sessions s ON s.id = k.session_id \
     ORDER BY coalesce(k.updated_at, k.created_at) DESC NULLS LAST, k.session_id DESC";

/// Reads all of them, in a session that can write nothing.
pub(super) async fn read(url: &str) -> Result<Vec<Found>, ImportError> {
    let mut config: Config = url.parse().map_err(|_| {
        ImportError::Postgres(
            "the address is not postgres://…, with an sslmode of disable or require".to_owned(),
        )
    })?;
    if config.get_ssl_mode() == SslMode::Prefer && !here(&config) {
        config.ssl_mode(SslMode::Require);
    }
    config.options("-c default_transaction_read_only=on");
    let client = connect(&config).await?;
    let none: [&str; 0] = [];
    let rows = client.query_raw(KEYS, none).await.map_err(failure)?;
    rows.map_err(failure)
        .and_then(async |row| found(&row))
        .try_collect()
        .await
}

async fn connect(config: &Config) -> Result<tokio_postgres::Client, ImportError> {
    // The connection ends with the client; what it ends with, the client hears too.
    if config.get_ssl_mode() == SslMode::Disable {
        let (client, connection) = config.connect(NoTls).await.map_err(failure)?;
        tokio::spawn(connection);
        return Ok(client);
    }
    let tls = MakeRustlsConnect::with_native_certs();
    let tls =
        tls.map_err(|_| ImportError::Postgres("no certificates on this machine".to_owned()))?;
    let (tls, _) = tls;
    let (client, connection) = config.connect(tls).await.map_err(failure)?;
    tokio::spawn(connection);
    Ok(client)
}

/// Whether the database is on this machine, so that nobody listens in between.
fn here(config: &Config) -> bool {
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
        Host::Unix(_) => true,
    })
}

fn found(row: &Row) -> Result<Found, ImportError> {
    let text = |n: usize| row.try_get::<_, Option<String>>(n).map_err(failure);
    let seconds: Option<f64> = row.try_get(4).map_err(failure)?;
    let (session, user) = (text(0)?.unwrap_or_default(), text(1)?);
    let provider = text(2)?.unwrap_or_default();
    let owner = user.as_deref().map_or("nobody", shown);
    Ok(Found {
        place: format!(
            "session {}, {owner}, {}",
            shown(&session),
            shown_provider(&provider)
        ),
        user,
        provider,
        // What was pasted often brought a line break along, and the system before dropped it when it read.
        key: SecretString::from(text(3)?.unwrap_or_default().trim().to_owned()),
        saved_at: seconds.and_then(|s| OffsetDateTime::from_unix_timestamp(s as i64).ok()),
    })
}

/// A session's or a person's id in the report, if it looks like one.
fn shown(text: &str) -> &str {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '@');
    match (1..=40).contains(&text.len()) && text.chars().all(word) {
        true => text,
        false => "(not shown)",
    }
}

/// A provider's name in the report, if it can be nothing else: somebody may have pasted a key there.
fn shown_provider(text: &str) -> &str {
    let letter = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-' | ' ');
    match (1..=24).contains(&text.len()) && text.chars().all(letter) {
        true => text,
        false => "(not shown)",
    }
}

/// The failure's code and kind; its words may hold values.
fn failure(error: tokio_postgres::Error) -> ImportError {
    let code = error.code().map(|code| code.code().to_owned());
    ImportError::Postgres(match code.as_deref() {
        Some("42P01") => "there is no table api_keys or onboarding_sessions (42P01)".to_owned(),
        Some("28P01" | "28000") => "the user or the password is wrong (28P01)".to_owned(),
        Some("3D000") => "there is no such database (3D000)".to_owned(),
        Some(code) => format!("refused ({code})"),
        None if error.is_closed() => "the connection was lost".to_owned(),
        None => {
            "cannot be reached, or does not speak TLS (add ?sslmode=disable for one that does not)"
                .to_owned()
        }
    })
}
