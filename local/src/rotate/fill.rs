//! Generated keys in an empty data folder, saved as save-keys saves them.

use std::{fs, path::Path};

use embedded::Embedded;
use futures_util::{StreamExt, TryStreamExt, stream};
use secrecy::SecretString;
use time::OffsetDateTime;
use ulid::Ulid;
use user_api_keys::{
    api_key::ApiKey,
    auth::TrustedCaller,
    config::Config,
    key_table::{KeyWriter, NewKey},
    mode::Mode,
    provider::Provider,
    sealing::{Binding, Sealer},
};

use super::{Places, RotateError};
use crate::progress::Progress;

/// Saves under way at once.
const CONCURRENCY: usize = 8;
/// Says that everything in the folder is generated.
const MARKER: &str = "generated";

/// Whether the folder may be filled: it is empty, or was filled here before. Says so in it.
pub(super) fn check(folder: &Path) -> Result<(), RotateError> {
    let marker = folder.join(MARKER);
    if marker.exists() {
        return Ok(());
    }
    let empty = fs::read_dir(folder).map_or(true, |mut files| files.next().is_none());
    if !empty {
        return Err(RotateError::NotEmpty(folder.to_owned()));
    }
    fs::create_dir_all(folder)?;
    fs::File::create(marker)?.sync_all()?;
    Ok(())
}

/// Saves keys until there are `wanted`; goes on where a run before was stopped.
pub(super) async fn fill(
    services: &Embedded,
    config: &Config,
    wanted: u64,
) -> Result<(), RotateError> {
    let there = Places::count(services).await?.total();
    let progress = Progress::new("saving", wanted.saturating_sub(there));
    let table = services.table_name.clone();
    // In Local mode nobody else may be named, and these users are made up.
    let mut everybody = config.clone();
    everybody.mode = Mode::Production;
    let filling = Filling {
        sealer: Sealer::new(services.kms.clone(), config),
        keys: KeyWriter::new(services.dynamodb.clone(), table),
        trusted: TrustedCaller::new(&everybody)
            .ok_or_else(|| RotateError::Fill("no trusted caller".to_owned()))?,
    };
    // Saves begin in order, so what a stopped run left out is among the last.
    let first = there.saturating_sub(CONCURRENCY as u64);
    let first = if there < wanted { first } else { wanted };
    stream::iter(first..wanted)
        .map(|number| filling.save(number))
        .buffered(CONCURRENCY)
        .try_for_each(|()| {
            progress.step();
            async { Ok(()) }
        })
        .await?;
    progress.end();
    Ok(())
}

struct Filling {
    sealer: Sealer,
    keys: KeyWriter,
    trusted: TrustedCaller,
}

impl Filling {
    /// One person has one key of each provider.
    async fn save(&self, number: u64) -> Result<(), RotateError> {
        let failed = |error: &dyn std::fmt::Display| RotateError::Fill(error.to_string());
        let providers = Provider::ALL.len() as u64;
        let provider = Provider::ALL
            .iter()
            .cycle()
            .nth((number % providers) as usize)
            .copied()
            .ok_or_else(|| failed(&"no provider"))?;
        let sub = format!("user_generated{:010}", number / providers);
        let user = self.trusted.user(&sub).map_err(|error| failed(&error))?;
        let before = self.keys.before(&user, provider).await?;
        if before.is_there() {
            return Ok(());
        }
        let kid = Ulid::new().to_string();
        let text = SecretString::from(format!("generated-key-{}-{number}", Ulid::new()));
        let key = ApiKey::parse(text).map_err(|error| failed(&error))?;
        let binding = Binding {
            user: user.id(),
            provider,
            kid: &kid,
        };
        let sealed = self.sealer.seal(&key, &binding).await;
        let hint = key.hint();
        let new = NewKey::unverified(
            provider,
            &kid,
            sealed.map_err(|error| failed(&error))?,
            &hint,
        );
        let now = OffsetDateTime::now_utc();
        self.keys.save(&user, before, &new, now).await?;
        Ok(())
    }
}
