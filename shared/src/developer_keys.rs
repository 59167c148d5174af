//! The developer's own keys (Local mode only): the process environment and two `.env` files.
//!
//! Made from a Local configuration and from nothing else, so in Production no file and no
//! environment key can be reached.

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, MutexGuard};

use crate::{
    api_key::ApiKey,
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

impl DeveloperKeys {
    /// `None` in Production.
    #[must_use]
    pub fn new(config: &Config) -> Option<Self> {
        (config.mode == Mode::Local).then(|| Self {
            environment: config.environment_keys.clone(),
            files: (!config.under_sam_local).then(|| Files {
                backend: DotenvFile::creating_folder(config.backend_env_file.clone()),
                frontend: DotenvFile::in_existing_folder(config.frontend_env_file.clone()),
            }),
            order: Mutex::new(()),
        })
    }

    /// Held over a write to the table and the files, so that both end up with the same key.
    pub async fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().await
    }

    /// The key of the process environment, else of `backend/.env`. A text that cannot be a key,
    /// such as a template's `your_api_key`, counts as none.
    #[must_use]
    pub fn find(&self, provider: Provider) -> Option<ApiKey> {
        self.of_environment(provider)
            .or_else(|| self.of_file(provider))
    }

    fn of_environment(&self, provider: Provider) -> Option<ApiKey> {
        let (_, text) = self.environment.iter().find(|(p, _)| *p == provider)?;
        ApiKey::parse(text.clone()).ok()
    }

    fn of_file(&self, provider: Provider) -> Option<ApiKey> {
        let backend = &self.files.as_ref()?.backend;
        match backend.get(provider.facts().env) {
            Ok(text) => ApiKey::parse(SecretString::from(text?)).ok(),
            Err(error) => {
                tracing::warn!(file = %backend.path().display(), %error, "cannot be read");
                None
            }
        }
    }

    /// Writes the key to `backend/.env`, and a browser-safe one to `frontend/.env` too. What cannot
    /// be written becomes a warning: the table already has the key.
    ///
    /// Files are written here and now; Local mode has one developer and no thread pool to spare.
    #[must_use]
    pub fn save(&self, provider: Provider, key: &ApiKey) -> Written {
        let mut written = self.nothing_written();
        for (file, name) in self.places(provider) {
            // EXPOSE: for the developer's own file, the one place Local mode keeps a key in clear.
            written.note(file, file.set(name, key.expose()));
        }
        if self.of_environment(provider).is_some() {
            written.warnings.push(format!(
                "{} in the server's environment wins over the saved key; unset it and restart",
                provider.facts().env
            ));
        }
        written
    }

    /// Writes a browser-safe key to `frontend/.env` alone.
    #[must_use]
    pub fn save_for_browser(&self, name: &'static str, key: &ApiKey) -> Written {
        let mut written = self.nothing_written();
        if let Some(Files { frontend, .. }) = &self.files {
            // EXPOSE: a public key, for the developer's own file.
            written.note(frontend, frontend.set(name, key.expose()));
        }
        written
    }

    fn nothing_written(&self) -> Written {
        let skipped = self.files.is_none().then(|| SKIPPED.to_owned());
        Written {
            files: Vec::new(),
            warnings: Vec::from_iter(skipped),
        }
    }

    /// Takes the provider's lines out of both files.
    ///
    /// # Errors
    /// The first file that could not be edited.
    pub fn remove(&self, provider: Provider) -> Result<(), DotenvError> {
        self.places(provider)
            .try_for_each(|(file, name)| file.remove(name))
    }

    fn places(&self, provider: Provider) -> impl Iterator<Item = (&DotenvFile, &'static str)> {
        let facts = provider.facts();
        self.files.iter().flat_map(move |files| {
            let frontend = facts.frontend_env.map(|name| (&files.frontend, name));
            std::iter::once((&files.backend, facts.env)).chain(frontend)
        })
    }
}

impl Written {
    fn note(&mut self, file: &DotenvFile, outcome: Result<(), DotenvError>) {
        let path = file.path().display().to_string();
        match outcome {
            Ok(()) => self.files.push(path),
            Err(error) => self
                .warnings
                .push(format!("{path} was not written: {error}")),
        }
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
