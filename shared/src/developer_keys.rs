//! The developer's own keys (Local mode only): the process environment and two `.env` files.
//!
//! Made from a Local configuration and from nothing else, so in Production no file and no
//! environment key can be reached.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex as Lock, PoisonError},
};

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    api_key::{ApiKey, InvalidApiKey},
    config::Config,
    dotenv::{DotenvError, DotenvFile},
    mode::Mode,
    provider::Provider,
};

/// Where the developer's keys are besides the table.
#[derive(Debug)]
pub struct DeveloperKeys {
    environment: Vec<(Provider, SecretString)>,
    /// `None` under `sam local`: a container does not see the developer's folder.
    files: Option<Files>,
    order: Mutex<()>,
}

#[derive(Debug)]
struct Files {
    backend: DotenvFile,
    frontend: DotenvFile,
}

const SKIPPED: &str =
    "skipped .env: a function under sam local cannot reach your files; the table has the key";

/// What a save did to the files.
#[derive(Debug)]
pub struct Written {
    /// Files that hold the key now.
    pub files: Vec<String>,
    /// What did not go as usual, for the developer to read.
    pub warnings: Vec<String>,
}

/// A key that is read before the table's and cannot be changed from here.
#[derive(Debug, thiserror::Error)]
pub enum StillInForce {
    /// Of the process.
    #[error(
        "{0} is set in the server's environment, which is read before .env and the table; unset it and start the server again"
    )]
    Environment(&'static str),
    /// Of a file that takes no change.
    #[error("{variable} cannot be taken out of {}, which is read before the table ({error}); mend the file, or take the line out", file.display())]
    File {
        /// Its name there.
        variable: &'static str,
        /// Which file.
        file: PathBuf,
        /// Why it takes none.
        error: DotenvError,
    },
}

/// What was last logged about each file and variable, so that it is logged once until it changes.
static LOGGED: Lock<BTreeMap<String, String>> = Lock::new(BTreeMap::new());

/// Whether `state` is news about `subject`.
fn is_news(subject: String, state: String) -> bool {
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    logged.insert(subject, state.clone()).as_ref() != Some(&state)
}

/// Says so once for each state of the file.
fn complain(path: &Path, what: &str) {
    let changed = std::fs::symlink_metadata(path).and_then(|file| file.modified());
    let file = path.display();
    if is_news(format!("{file}: {what}"), format!("{:?}", changed.ok())) {
        tracing::warn!(%file, "{what}");
    }
}

/// A key as it was meant: without the white space and the pair of quotes that `kubectl create secret` and
/// `docker --env-file` leave around one.
#[must_use]
pub fn tidied(text: &str) -> &str {
    let text = text.trim();
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(text).trim()
}

fn parsed(text: &str) -> Result<ApiKey, InvalidApiKey> {
    ApiKey::parse(SecretString::from(tidied(text)))
}

impl DeveloperKeys {
    /// `None` in Production. Logs what is odd about variables and files, and takes away what saves that
    /// were killed left beside the files.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        (config.mode == Mode::Local).then(|| {
            let keys = Self {
                environment: config.environment_keys.clone(),
                files: (!config.under_sam_local).then(|| Files {
                    backend: DotenvFile::creating_folder(config.backend_env_file.clone()),
                    frontend: DotenvFile::in_existing_folder(config.frontend_env_file.clone()),
                }),
                order: Mutex::new(()),
            };
            keys.look();
            keys.clean();
            keys
        })
    }

    fn look(&self) {
        for (provider, text) in &self.environment {
            let variable = provider.facts().env;
            // EXPOSE: to see what is around it; nothing of it is logged.
            let text = text.expose_secret();
            let odd = match parsed(text) {
                Err(rule) => format!("is no key and is not used: {rule}"),
                Ok(_) if tidied(text) != text => {
                    "has white space or quotes around it and is used without them".to_owned()
                }
                Ok(_) => continue,
            };
            if is_news(variable.to_owned(), odd.clone()) {
                tracing::warn!("{variable} in the environment {odd}");
            }
        }
        for provider in Provider::ALL {
            self.of_file(*provider);
        }
    }

    fn clean(&self) {
        let ours: Vec<_> = names().collect();
        for file in self.files.iter().flat_map(|f| [&f.backend, &f.frontend]) {
            let left = file.left_behind(&ours).unwrap_or_default();
            match file.clean(&ours) {
                Ok(()) => {}
                Err(error) => complain(
                    file.path(),
                    &format!("what a killed save left beside it stays: {error}"),
                ),
            }
            for gone in left.iter().filter(|gone| !gone.exists()) {
                tracing::warn!(file = %gone.display(), "removed: a killed save had left it");
            }
        }
    }

    /// Held over a write to the table and the files, so that both end up with the same key.
    pub async fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().await
    }

    /// The key of the process environment, else of `backend/.env`. A text that cannot be a key,
    /// such as a template's `your_api_key`, counts as none, and the log says so.
    #[must_use]
    pub fn find(&self, provider: Provider) -> Option<ApiKey> {
        self.of_environment(provider)
            .or_else(|| self.of_file(provider))
    }

    fn of_environment(&self, provider: Provider) -> Option<ApiKey> {
        let (_, text) = self.environment.iter().find(|(p, _)| *p == provider)?;
        // EXPOSE: to take what is around it off.
        parsed(text.expose_secret()).ok()
    }

    fn of_file(&self, provider: Provider) -> Option<ApiKey> {
        let backend = &self.files.as_ref()?.backend;
        let path = backend.path();
        let contents = backend.contents();
        let contents = contents.inspect_err(|error| complain(path, &format!("{error}")));
        let contents = contents.ok()?;
        for complaint in &contents.complaints {
            complain(path, complaint);
        }
        let variable = provider.facts().env;
        let text = contents.get(variable).filter(|text| !text.is_empty())?;
        let key = parsed(text);
        key.inspect_err(|rule| complain(path, &format!("{variable} is no key: {rule}")))
            .ok()
    }

    /// Whether `new`, once it is saved, is the key that is used; `None` stands for one whose text is not known
    /// here, as in a restore.
    ///
    /// # Errors
    /// The key that would be used in its place.
    pub fn gives_way(&self, provider: Provider, new: Option<&ApiKey>) -> Result<(), StillInForce> {
        let another = |key: &ApiKey| {
            // EXPOSE: to compare the two in this process.
            new.is_none_or(|new| new.expose() != key.expose())
        };
        if self.of_environment(provider).as_ref().is_some_and(another) {
            return Err(StillInForce::Environment(provider.facts().env));
        }
        let Some(Files { backend, .. }) = &self.files else {
            return Ok(());
        };
        let variable = provider.facts().env;
        match backend.could_remove(variable) {
            Err(error) if self.of_file(provider).as_ref().is_some_and(another) => {
                Err(stays(backend, variable, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the key to `backend/.env`, and a browser-safe one to `frontend/.env` too. Where it cannot be
    /// written, which becomes a warning, the old line is taken out: the table has the key.
    ///
    /// Files are written here and now; Local mode has one developer and no thread pool to spare.
    ///
    /// # Errors
    /// [`StillInForce::File`], when the line cannot be taken out either.
    pub fn save(&self, provider: Provider, key: &ApiKey) -> Result<Written, StillInForce> {
        let mut written = self.nothing_written();
        for (file, name) in self.places(provider) {
            written.put(file, name, key)?;
        }
        Ok(written)
    }

    /// Writes a browser-safe key to `frontend/.env` alone.
    ///
    /// # Errors
    /// As [`Self::save`].
    pub fn save_for_browser(
        &self,
        name: &'static str,
        key: &ApiKey,
    ) -> Result<Written, StillInForce> {
        let mut written = self.nothing_written();
        if let Some(Files { frontend, .. }) = &self.files {
            written.put(frontend, name, key)?;
        }
        Ok(written)
    }

    fn nothing_written(&self) -> Written {
        let skipped = self.files.is_none().then(|| SKIPPED.to_owned());
        Written {
            files: Vec::new(),
            warnings: Vec::from_iter(skipped),
        }
    }

    /// Takes the provider's lines out of both files, and away what killed saves left beside them.
    ///
    /// # Errors
    /// The first key that stays; every other line is out.
    pub fn remove(&self, provider: Provider) -> Result<(), StillInForce> {
        self.clean();
        let mut stays = Ok(());
        for (file, name) in self.places(provider) {
            stays = stays.and(take_out(file, name));
        }
        match self.of_environment(provider) {
            Some(_) => stays.and(Err(StillInForce::Environment(provider.facts().env))),
            None => stays,
        }
    }

    fn places(&self, provider: Provider) -> impl Iterator<Item = (&DotenvFile, &'static str)> {
        let facts = provider.facts();
        self.files.iter().flat_map(move |files| {
            let frontend = facts.frontend_env.map(|name| (&files.frontend, name));
            std::iter::once((&files.backend, facts.env)).chain(frontend)
        })
    }
}

/// Every variable that we write to a file.
pub fn names() -> impl Iterator<Item = &'static str> {
    let facts = Provider::ALL.iter().map(|provider| provider.facts());
    facts.flat_map(|facts| std::iter::once(facts.env).chain(facts.frontend_env))
}

fn stays(file: &DotenvFile, variable: &'static str, error: DotenvError) -> StillInForce {
    StillInForce::File {
        variable,
        file: file.path().to_owned(),
        error,
    }
}

/// No error where the file holds no usable key of that name, or is not a regular file. One that cannot be
/// read is an error: its key would be used as soon as it can.
fn take_out(file: &DotenvFile, name: &'static str) -> Result<(), StillInForce> {
    let Err(error) = file.remove(name) else {
        return Ok(());
    };
    match file.get(name) {
        Ok(text) if text.as_deref().is_none_or(|text| parsed(text).is_err()) => Ok(()),
        Err(DotenvError::NotAFile) => Ok(()),
        _ => Err(stays(file, name, error)),
    }
}

impl Written {
    fn put(
        &mut self,
        file: &DotenvFile,
        name: &'static str,
        key: &ApiKey,
    ) -> Result<(), StillInForce> {
        let path = file.path().display().to_string();
        // EXPOSE: for the developer's own file, the one place Local mode keeps a key in clear.
        if let Err(error) = file.set(name, key.expose()) {
            let text = file.get(name).ok().flatten();
            let there = text.is_some_and(|text| parsed(&text).is_ok());
            match take_out(file, name) {
                Err(still) if there => return Err(still),
                _ => {}
            }
            let then = match there {
                true => format!("; {name} was taken out of it, and the table's key is used"),
                false => String::new(),
            };
            self.warnings
                .push(format!("{path} was not written: {error}{then}"));
            return Ok(());
        }
        if file.others_read() {
            self.warnings.push(format!(
                "{path} can be read by other users of this machine: chmod 600 {path}"
            ));
        }
        self.files.push(path);
        Ok(())
    }
}

/// Never empty: an empty variable is an unset one.
pub(crate) fn from_environment(
    lookup: impl Fn(&str) -> Option<String>,
) -> Vec<(Provider, SecretString)> {
    let set = |provider: &Provider| {
        let text = SecretString::from(lookup(provider.facts().env)?);
        // EXPOSE: to see whether it is empty.
        (!text.expose_secret().is_empty()).then_some((*provider, text))
    };
    Provider::ALL.iter().filter_map(set).collect()
}
