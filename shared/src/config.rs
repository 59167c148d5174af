//! Everything read from the environment, once, at start.
//!
//! Owns names and defaults of variables; nothing else in the code base reads the environment.

use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

use reqwest::Url;
use secrecy::SecretString;
use tracing::Level;

use crate::{
    developer_keys,
    mode::{LocalModeOnLambda, Mode, Place},
    open_streams,
    provider::Provider,
    rate_limit::{Class, Limit, Window},
    user::UserId,
};

/// Where the front end's development servers listen.
const LOCAL_ORIGINS: &str = "http://localhost:3000,http://localhost:5173";
/// Answers that one user may have streaming at once, where the environment says nothing.
const STREAMS_PER_USER: u16 = 5;
/// What would send a function's requests, or its trust, elsewhere; the providers' `*_BASE_URL` besides.
///
/// `SSL_CERT_FILE` names whom TLS trusts. A proxy sees no key, since all that is sent is encrypted for
/// its receiver, but to whom and when, and can hold it up; nothing in the stack needs one. The SDK's
/// profile files can hold an `endpoint_url`; functions do not read them at all (`aws::environment`), and
/// what would point there is refused so that nobody believes it has an effect.
const REDIRECTS: &[&str] = &[
    "AWS_SAM_LOCAL",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_KMS",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_PROFILE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// How the SDK's variables begin that name a service's address.
const ENDPOINTS: &str = "AWS_ENDPOINT_URL";
/// Longest model name, in bytes.
const MODEL_MAX_BYTES: usize = 64;

/// Settings of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DEBUG` and `DEPLOY_ENV`.
    pub mode: Mode,
    /// `DEPLOY_ENV`, or `local`: names the stack for life, bound into every ciphertext.
    pub deploy_env: String,
    /// `TABLE_NAME`.
    pub table_name: String,
    /// `KMS_KEY_ARN`: seals.
    pub kms_key_arn: KeyArn,
    /// `KMS_DECRYPT_KEY_ARNS`, comma-separated: may open, besides `KMS_KEY_ARN`.
    pub kms_decrypt_key_arns: Vec<KeyArn>,
    /// How callers are identified; always there in Production.
    pub clerk: Option<Clerk>,
    /// `CLERK_PUBLISHABLE_KEY`: with it the page signs people in. It is public.
    pub clerk_publishable_key: Option<String>,
    /// `BACKEND_ENV_FILE`.
    pub backend_env_file: PathBuf,
    /// `FRONTEND_ENV_FILE`.
    pub frontend_env_file: PathBuf,
    /// Keys in the process environment; read in Local mode only.
    pub environment_keys: Vec<(Provider, SecretString)>,
    /// `ALLOWED_ORIGINS`, comma-separated: front ends that may call.
    pub allowed_origins: Vec<String>,
    /// `GEMINI_MODEL`, …: used when a request names none.
    models: Vec<(Provider, String)>,
    /// `ALLOWED_MODELS`, comma-separated: what a request may name; empty is anything.
    pub allowed_models: Vec<String>,
    /// `AWS_SAM_LOCAL`: a container without the developer's files, behind a gateway that cannot pass on an
    /// answer in pieces.
    pub under_sam_local: bool,
    /// `GEMINI_BASE_URL`, …: providers that are somewhere else, outside a real Lambda only.
    pub base_urls: Vec<(Provider, String)>,
    /// `OPEN_KEYS_TRUST_CALLER`: whether open-keys takes a bare user id.
    pub open_keys_trust_caller: bool,
    /// `RATE_LIMIT_<class>_PER_<window>`.
    pub rate_limits: Vec<Limit>,
    /// `STREAMS_PER_USER`: answers that one user may have streaming at once.
    pub streams_per_user: u8,
    /// `CHECK_ON_SAVE`.
    pub check_on_save: CheckOnSave,
    /// `ROTATE_AFTER_DAYS`: a key of this age is shown as stale.
    pub rotate_after_days: u16,
    /// `ROTATE_CONCURRENCY` and `ROTATE_PER_SECOND`: rows of one invocation of rotate-keys.
    pub rotate_pace: Pace,
    /// `CHECK_PER_SECOND`: keys of one provider in one invocation of check-keys.
    pub check_per_second: u16,
    /// `LOG_LEVEL`.
    pub log_level: Level,
}

/// How hard a job may work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Rows under way at once.
    pub concurrency: u16,
    /// Rows begun in a second; `None` for as many as there is time for.
    pub per_second: Option<u16>,
}

/// How a key is checked when it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckOnSave {
    /// The provider is asked, where that is free.
    Live,
    /// Its form alone.
    Format,
}

impl CheckOnSave {
    /// `live` or `format`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "live" => Some(Self::Live),
            "format" => Some(Self::Format),
            _ => None,
        }
    }
}

/// What a session token must match.
#[derive(Debug, Clone)]
pub struct Clerk {
    /// Whose signatures count.
    pub keys: ClerkKeys,
    /// `CLERK_ISSUER`.
    pub issuer: String,
    /// `CLERK_AUTHORIZED_PARTIES`, comma-separated origins.
    pub authorized_parties: Vec<String>,
    /// `CLERK_AUDIENCE`: what `aud` must hold, where it is set.
    pub audience: Option<String>,
    /// `LOCAL_USER_ID`: in Local mode, which is one user, the only one who may call.
    pub only_user: Option<UserId>,
}

/// Where the Clerk instance's public keys come from.
#[derive(Debug, Clone)]
pub enum ClerkKeys {
    /// `CLERK_JWT_KEY`: one or several PEM public keys; a literal `\n` counts as a line break.
    Pem(String),
    /// `CLERK_JWKS_URL`: an https address that answers with a JWK set.
    Jwks(String),
}

/// ARN of a KMS key, never an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArn(String);

impl KeyArn {
    /// Accepts `arn:<partition>:kms:<region>:<account>:key/<id>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", _, "kms", region, account, key]
                if !region.is_empty()
                    && account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && key.strip_prefix("key/").is_some_and(|id| !id.is_empty()) =>
            {
                Some(Self(text.to_owned()))
            }
            _ => None,
        }
    }

    /// The ARN as KMS writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a process did not start. Its `Debug` is its message, since that is what `main` prints.
#[derive(thiserror::Error)]
pub enum ConfigError {
    /// Everything that is missing or wrong, one line each. Values are shown where they are no secret.
    #[error("configuration is incomplete:\n  {}", .0.join("\n  "))]
    Incomplete(Vec<String>),
    /// Local mode where it must not be.
    #[error(transparent)]
    Mode(#[from] LocalModeOnLambda),
}

impl std::fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// One variable of the process environment, for those who decide what [`Config`] is read from.
#[must_use]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// `SSL_CERT_FILE`: certificates to trust in place of those that are compiled in. Whoever may set it may
/// set everything else, too.
pub(crate) fn certificate_file() -> Option<PathBuf> {
    std::env::var_os("SSL_CERT_FILE").map(PathBuf::from)
}

impl Config {
    /// Reads the process environment.
    ///
    /// # Errors
    /// All that is missing or wrong, in one message.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_env_with(|_, value| value)
    }

    /// Reads the process environment through `change(name, value)`, which may set or hide variables:
    /// a local server knows its table and KMS key better than the environment does.
    ///
    /// # Errors
    /// All that is missing or wrong, in one message.
    pub fn from_env_with(
        change: impl Fn(&str, Option<String>) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        Self::read(&names.collect::<Vec<_>>(), |name| {
            change(name, std::env::var(name).ok())
        })
    }

    /// Reads settings from `lookup`, which tests fill without touching the process.
    ///
    /// # Errors
    /// All that is missing or wrong, in one message.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::read(&[], lookup)
    }

    /// `names` are all that there are, where that is known: some are recognised by how they begin.
    fn read(
        names: &[String],
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let place = Place::of(&lookup);
        let local_runner = lookup("AWS_SAM_LOCAL").as_deref() == Some("true");
        let mode = Mode::decide(lookup("DEBUG").as_deref(), lookup("DEPLOY_ENV").as_deref())
            .allowed_in(place)?;
        let environment_keys = match mode {
            Mode::Local => developer_keys::from_environment(&lookup),
            Mode::Production => Vec::new(),
        };
        let mut reader = Reader {
            lookup,
            wrong: Vec::new(),
        };
        if place == Place::Lambda {
            reader.redirects(names);
        }
        let table_name = reader.required("TABLE_NAME", "the DynamoDB table");
        let kms_key_arn = reader.key_arn("KMS_KEY_ARN");
        let kms_decrypt_key_arns = reader.key_arns("KMS_DECRYPT_KEY_ARNS");
        let clerk = reader.clerk(mode);
        let clerk_publishable_key = reader.optional("CLERK_PUBLISHABLE_KEY");
        let path = |value: Option<String>, default: &str| {
            PathBuf::from(value.unwrap_or_else(|| default.to_owned()))
        };
        let backend_env_file = path(reader.optional("BACKEND_ENV_FILE"), "backend/.env");
        let frontend_env_file = path(reader.optional("FRONTEND_ENV_FILE"), "frontend/.env");
        let origins = match mode {
            Mode::Local => LOCAL_ORIGINS,
            Mode::Production => "",
        };
        let allowed_origins = comma_list(
            &reader
                .optional("ALLOWED_ORIGINS")
                .unwrap_or_else(|| origins.to_owned()),
        );
        reader.origins("ALLOWED_ORIGINS", &allowed_origins);
        let models = reader.models();
        let allowed_models = comma_list(&reader.optional("ALLOWED_MODELS").unwrap_or_default());
        let base_urls = reader.base_urls(place == Place::PerhapsLambda);
        let rate_limits = reader.rate_limits();
        let streams_per_user = reader.streams_per_user();
        let check_on_save = reader.check_on_save();
        let trust = reader.optional("OPEN_KEYS_TRUST_CALLER");
        let open_keys_trust_caller = trust.as_deref() == Some("true");
        let rotate_after_days = reader.number("ROTATE_AFTER_DAYS", 90);
        let rotate_pace = Pace {
            concurrency: reader.number("ROTATE_CONCURRENCY", 16),
            per_second: Some(reader.number("ROTATE_PER_SECOND", 200)),
        };
        let check_per_second = reader.number("CHECK_PER_SECOND", 2);
        let log_level = reader.log_level();
        let deploy_env = reader.deploy_env();
        match (table_name, kms_key_arn, reader.wrong) {
            (Some(table_name), Some(kms_key_arn), wrong) if wrong.is_empty() => Ok(Self {
                mode,
                deploy_env,
                table_name,
                kms_key_arn,
                kms_decrypt_key_arns,
                clerk,
                clerk_publishable_key,
                backend_env_file,
                frontend_env_file,
                environment_keys,
                allowed_origins,
                models,
                allowed_models,
                under_sam_local: local_runner,
                base_urls,
                open_keys_trust_caller,
                rate_limits,
                streams_per_user,
                check_on_save,
                rotate_after_days,
                rotate_pace,
                check_per_second,
                log_level,
            }),
            (_, _, wrong) => Err(ConfigError::Incomplete(wrong)),
        }
    }
}

impl Config {
    /// Where a provider's API is, without a slash at the end.
    #[must_use]
    pub fn base_url(&self, provider: Provider) -> &str {
        base_url(&self.base_urls, provider)
    }

    /// The model of a provider where a request names none; empty for one that writes no text.
    #[must_use]
    pub fn model(&self, provider: Provider) -> &str {
        let mut models = self.models.iter();
        let found = models.find(|(p, _)| *p == provider);
        found.map_or("", |(_, model)| model)
    }
}

struct Reader<F> {
    lookup: F,
    wrong: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str, what: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.wrong.push(format!("{name} is missing: {what}"));
        }
        value
    }

    fn key_arn(&mut self, name: &str) -> Option<KeyArn> {
        let text = self.required(name, "the ARN of the KMS key that seals")?;
        self.checked_arn(name, &text)
    }

    fn key_arns(&mut self, name: &str) -> Vec<KeyArn> {
        let list = self.optional(name).unwrap_or_default();
        comma_list(&list)
            .iter()
            .filter_map(|text| self.checked_arn(name, text))
            .collect()
    }

    fn checked_arn(&mut self, name: &str, text: &str) -> Option<KeyArn> {
        let arn = KeyArn::parse(text);
        if arn.is_none() {
            self.wrong.push(format!(
                "{name} is not the ARN of a KMS key (an alias or a bare id will not do)"
            ));
        }
        arn
    }

    fn models(&mut self) -> Vec<(Provider, String)> {
        let mut models = Vec::new();
        for &provider in Provider::ALL {
            let Some(writes) = &provider.facts().writes else {
                continue;
            };
            let name = writes.model_env;
            let model = self.optional(name);
            let model = model.unwrap_or_else(|| writes.model.to_owned());
            if !is_model_name(&model) {
                self.wrong.push(format!(
                    "{name} is not a model's name: small letters, digits, dots and dashes"
                ));
            }
            models.push((provider, model));
        }
        models
    }

    /// Whoever sets these receives users' keys. A real Lambda refuses them in [`Self::redirects`]; here they
    /// are refused to what may be one.
    fn base_urls(&mut self, perhaps_lambda: bool) -> Vec<(Provider, String)> {
        let mut base_urls = Vec::new();
        for &provider in Provider::ALL {
            let name = provider.facts().base_url_env;
            match self.optional(name) {
                Some(_) if perhaps_lambda => self.wrong.push(format!(
                    "{name} is set: a provider cannot be redirected on a real Lambda"
                )),
                Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                    base_urls.push((provider, url.trim_end_matches('/').to_owned()));
                }
                Some(_) => self
                    .wrong
                    .push(format!("{name} is not an http or https URL")),
                None => {}
            }
        }
        base_urls
    }

    /// On Lambda nothing is sent elsewhere than where the stack sends it, whoever may set variables.
    fn redirects(&mut self, names: &[String]) {
        let fixed = REDIRECTS.iter().map(|name| (*name).to_owned());
        let endpoints = names.iter().filter(|name| name.starts_with(ENDPOINTS));
        let providers = Provider::ALL
            .iter()
            .map(|p| p.facts().base_url_env.to_owned());
        let all: BTreeSet<String> = fixed.chain(endpoints.cloned()).chain(providers).collect();
        let set: Vec<_> = all
            .into_iter()
            .filter(|name| self.optional(name).is_some())
            .collect();
        if !set.is_empty() {
            self.wrong.push(format!(
                "remove {}: on a real Lambda nothing may send keys, requests or trust elsewhere",
                set.join(", ")
            ));
        }
    }

    /// Names the stack for life. A stack's name has at most 128 characters.
    fn deploy_env(&mut self) -> String {
        let name = self.optional("DEPLOY_ENV");
        let name = name.unwrap_or_else(|| "local".to_owned());
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.len() > 128 || !name.bytes().all(fits) {
            self.wrong.push(format!(
                "DEPLOY_ENV is {}: write letters, digits, dashes, dots and underscores, at most 128",
                shown(&name)
            ));
        }
        name
    }

    /// Origins as browsers and tokens write them, so that a comparison byte by byte can succeed.
    fn origins(&mut self, name: &str, origins: &[String]) {
        for origin in origins.iter().filter(|origin| !is_origin(origin)) {
            self.wrong.push(format!(
                "{name} has {}: write exact origins such as https://app.example.com, \
                 comma-separated: http or https, lower case, no quotes, no *, no path, no slash at \
                 the end and no port that is the default",
                shown(origin)
            ));
        }
    }

    fn issuer(&mut self) -> Option<String> {
        let issuer = self.required("CLERK_ISSUER", "the Clerk Frontend API URL")?;
        if !is_origin(&issuer) || !issuer.starts_with("https://") {
            self.wrong.push(format!(
                "CLERK_ISSUER is {}: write it as tokens do, such as https://clerk.example.com: \
                 https, lower case, no quotes, no path and no slash at the end",
                shown(&issuer)
            ));
        }
        Some(issuer)
    }

    fn rate_limits(&mut self) -> Vec<Limit> {
        let mut limits = Vec::new();
        for class in Class::ALL {
            for window in Window::ALL {
                let name = format!("RATE_LIMIT_{}_PER_{}", class.name(), window.name());
                let name = name.to_uppercase();
                let calls = match self.optional(&name) {
                    None => default_limit(class, window),
                    Some(text) => self.positive(&name, &text),
                };
                limits.extend(calls.map(|calls| Limit {
                    class,
                    window,
                    calls,
                }));
            }
        }
        limits
    }

    fn streams_per_user(&mut self) -> u8 {
        let streams = self.number("STREAMS_PER_USER", STREAMS_PER_USER);
        let fits = u8::try_from(streams)
            .ok()
            .filter(|n| *n <= open_streams::MAX);
        fits.unwrap_or_else(|| {
            let max = open_streams::MAX;
            self.wrong.push(format!(
                "STREAMS_PER_USER is {streams}, and can be 1 to {max}"
            ));
            max
        })
    }

    fn number(&mut self, name: &str, default: u16) -> u16 {
        let Some(text) = self.optional(name) else {
            return default;
        };
        self.positive(name, &text).unwrap_or(default)
    }

    fn positive<T: FromStr + PartialOrd + From<u8>>(
        &mut self,
        name: &str,
        text: &str,
    ) -> Option<T> {
        let number = text.parse().ok().filter(|number| *number > T::from(0));
        if number.is_none() {
            self.wrong.push(format!(
                "{name} is {}: write a whole number of 1 or more",
                shown(text)
            ));
        }
        number
    }

    fn check_on_save(&mut self) -> CheckOnSave {
        let Some(text) = self.optional("CHECK_ON_SAVE") else {
            return CheckOnSave::Live;
        };
        CheckOnSave::parse(&text).unwrap_or_else(|| {
            self.wrong
                .push("CHECK_ON_SAVE is not live or format".to_owned());
            CheckOnSave::Live
        })
    }

    fn log_level(&mut self) -> Level {
        let Some(level) = self.optional("LOG_LEVEL") else {
            return Level::INFO;
        };
        level.parse().unwrap_or_else(|_| {
            self.wrong
                .push("LOG_LEVEL is not one of error, warn, info, debug, trace".to_owned());
            Level::INFO
        })
    }

    fn clerk(&mut self, mode: Mode) -> Option<Clerk> {
        let pem = self.optional("CLERK_JWT_KEY");
        let url = self.optional("CLERK_JWKS_URL");
        if mode == Mode::Local && pem.is_none() && url.is_none() {
            return None;
        }
        let keys = match (pem, url) {
            (Some(pem), None) => Some(ClerkKeys::Pem(pem.replace("\\n", "\n"))),
            (None, Some(url)) if url.starts_with("https://") => Some(ClerkKeys::Jwks(url)),
            (None, Some(_)) => {
                self.wrong
                    .push("CLERK_JWKS_URL is not an https address".to_owned());
                None
            }
            (Some(_), Some(_)) => {
                self.wrong
                    .push("CLERK_JWT_KEY and CLERK_JWKS_URL are both set: keep one".to_owned());
                None
            }
            (None, None) => {
                self.wrong.push(
                    "CLERK_JWT_KEY is missing: the PEM public key of the Clerk instance \
                     (or CLERK_JWKS_URL, the address of its keys)"
                        .to_owned(),
                );
                None
            }
        };
        let issuer = self.issuer();
        let parties = self.required(
            "CLERK_AUTHORIZED_PARTIES",
            "origins that may hold tokens, comma-separated",
        );
        let only_user = self.only_user(mode);
        let authorized_parties = comma_list(&parties.unwrap_or_default());
        self.origins("CLERK_AUTHORIZED_PARTIES", &authorized_parties);
        Some(Clerk {
            keys: keys?,
            issuer: issuer?,
            authorized_parties,
            audience: self.optional("CLERK_AUDIENCE"),
            only_user,
        })
    }

    /// Keys in `.env` belong to one developer; without this, everybody who signs in would use them.
    fn only_user(&mut self, mode: Mode) -> Option<UserId> {
        if mode == Mode::Production {
            return None;
        }
        let what = "with Clerk in Local mode, the Clerk user id of the one user whose keys these are \
                    (or set DEPLOY_ENV so that every user has their own)";
        let text = self.required("LOCAL_USER_ID", what)?;
        let id = UserId::clerk(&text).ok();
        if id.is_none() {
            self.wrong.push(format!(
                "LOCAL_USER_ID is {text:?}, which is no Clerk user id (user_ and 8 to 64 letters or \
                 digits)"
            ));
        }
        id
    }
}

/// Calls of one person where the environment says nothing; `None` is no limit.
fn default_limit(class: Class, window: Window) -> Option<u32> {
    match (class, window) {
        (Class::Generate, Window::Minute) => Some(30),
        (Class::Generate, Window::Day) => Some(1_000),
        (Class::Save, Window::Minute) => Some(60),
        (Class::Read, Window::Minute) => Some(300),
        (Class::Check, Window::Hour) => Some(10),
        (Class::Open, Window::Minute) => Some(60),
        (Class::Open, Window::Day) => Some(2_000),
        _ => None,
    }
}

/// Where a provider's API is, given the ones that are somewhere else ([`Config::base_urls`]).
#[must_use]
pub fn base_url(redirected: &[(Provider, String)], provider: Provider) -> &str {
    let mut redirected = redirected.iter();
    redirected
        .find(|(p, _)| *p == provider)
        .map_or(provider.facts().base_url, |(_, url)| url)
}

/// Whether `name` can be a provider's model: `^[a-z0-9][a-z0-9.-]{0,63}$`. It becomes part of a URL.
#[must_use]
pub fn is_model_name(name: &str) -> bool {
    name.len() <= MODEL_MAX_BYTES
        && !name.starts_with(['.', '-'])
        && !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}

/// Whether `text` is an origin in the one form in which browsers write it (RFC 6454, section 6.2).
fn is_origin(text: &str) -> bool {
    let url = Url::parse(text).ok();
    url.is_some_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.origin().ascii_serialization() == text
            && !text.contains('*')
    })
}

/// A received value in quotes, with its beginning only where it is long.
fn shown(value: &str) -> String {
    const SHOWN_CHARS: usize = 80;
    let start: String = value.chars().take(SHOWN_CHARS).collect();
    match start.len() < value.len() {
        true => format!("{start:?}…"),
        false => format!("{start:?}"),
    }
}

fn comma_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/0b1c";

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            pairs
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn a_production_start_names_everything_that_is_missing_or_wrong_at_once() {
        let error = read(&[("DEPLOY_ENV", "prod"), ("KMS_KEY_ARN", "alias/mine")])
            .err()
            .map(|e| e.to_string());
        let message = error.unwrap_or_default();
        for name in [
            "TABLE_NAME",
            "KMS_KEY_ARN",
            "CLERK_JWT_KEY",
            "CLERK_ISSUER",
            "CLERK_AUTHORIZED_PARTIES",
        ] {
            assert!(message.contains(name), "{name} not in {message}");
        }
        assert!(!message.contains("alias/mine"), "a value was shown");
    }

    #[test]
    fn local_mode_needs_no_clerk() {
        let config = read(&[("TABLE_NAME", "t"), ("KMS_KEY_ARN", ARN)]);
        assert!(
            config.is_ok_and(|c| c.mode == Mode::Local
                && c.clerk.is_none()
                && c.deploy_env == "local")
        );
    }

    #[test]
    fn local_mode_on_a_real_lambda_is_a_start_up_error_but_not_under_sam_local() {
        let real = [
            ("AWS_LAMBDA_FUNCTION_NAME", "save-keys"),
            ("TABLE_NAME", "t"),
            ("KMS_KEY_ARN", ARN),
        ];
        assert!(matches!(read(&real), Err(ConfigError::Mode(_))));
        let mut sam = real.to_vec();
        sam.push(("AWS_SAM_LOCAL", "true"));
        assert!(read(&sam).is_ok());
    }

    #[test]
    fn a_provider_cannot_be_redirected_on_a_real_lambda() {
        let mut settings = vec![
            ("TABLE_NAME", "t"),
            ("KMS_KEY_ARN", ARN),
            ("GEMINI_BASE_URL", "http://127.0.0.1:1/"),
        ];
        let redirected = read(&settings).unwrap().base_urls;
        assert_eq!(
            redirected,
            [(Provider::Gemini, "http://127.0.0.1:1".to_owned())]
        );
        settings.extend([
            ("AWS_LAMBDA_FUNCTION_NAME", "generate-content"),
            ("DEPLOY_ENV", "prod"),
            ("CLERK_JWT_KEY", "x"),
            ("CLERK_ISSUER", "https://clerk.test"),
            ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
        ]);
        let message = read(&settings).unwrap_err().to_string();
        assert!(message.contains("GEMINI_BASE_URL"), "{message}");
    }

    #[test]
    fn production_reads_no_provider_key_from_the_environment() {
        let mut settings = vec![
            ("TABLE_NAME", "t"),
            ("KMS_KEY_ARN", ARN),
            ("GEMINI_API_KEY", "AQ.of-the-operator"),
        ];
        assert_eq!(read(&settings).unwrap().environment_keys.len(), 1);
        settings.extend([
            ("DEPLOY_ENV", "prod"),
            ("CLERK_JWT_KEY", "x"),
            ("CLERK_ISSUER", "https://clerk.test"),
            ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
        ]);
        assert!(read(&settings).unwrap().environment_keys.is_empty());
    }

    #[test]
    fn every_class_can_be_limited_in_every_window_and_has_its_defaults() {
        let limit = |class, window, calls| Limit {
            class,
            window,
            calls,
        };
        let mut settings = vec![("TABLE_NAME", "t"), ("KMS_KEY_ARN", ARN)];
        assert_eq!(
            read(&settings).unwrap().rate_limits,
            [
                limit(Class::Generate, Window::Minute, 30),
                limit(Class::Generate, Window::Day, 1_000),
                limit(Class::Save, Window::Minute, 60),
                limit(Class::Read, Window::Minute, 300),
                limit(Class::Check, Window::Hour, 10),
                limit(Class::Open, Window::Minute, 60),
                limit(Class::Open, Window::Day, 2_000),
            ]
        );
        settings.push(("RATE_LIMIT_SAVE_PER_DAY", "7"));
        let limits = read(&settings).unwrap().rate_limits;
        assert!(limits.contains(&limit(Class::Save, Window::Day, 7)));
        settings.push(("RATE_LIMIT_CHECK_PER_HOUR", "0"));
        let message = read(&settings).unwrap_err().to_string();
        assert!(message.contains("RATE_LIMIT_CHECK_PER_HOUR"), "{message}");
    }

    #[test]
    fn clerks_keys_come_from_one_place_and_an_address_is_https() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let mut settings = vec![
                ("TABLE_NAME", "t"),
                ("KMS_KEY_ARN", ARN),
                ("CLERK_ISSUER", "https://clerk.test"),
                ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
                ("LOCAL_USER_ID", "user_aaaaaaaa1"),
            ];
            settings.extend_from_slice(pairs);
            read(&settings).is_ok()
        };
        assert!(with(&[("CLERK_JWKS_URL", "https://clerk.test/jwks")]));
        assert!(with(&[("CLERK_JWT_KEY", "x")]));
        for url in ["http://clerk.test/jwks", "file:///jwks", "clerk.test"] {
            assert!(!with(&[("CLERK_JWKS_URL", url)]), "{url}");
        }
        let both = [
            ("CLERK_JWKS_URL", "https://clerk.test/jwks"),
            ("CLERK_JWT_KEY", "x"),
        ];
        assert!(!with(&both));
    }

    #[test]
    fn an_allowed_origin_is_exact_and_never_a_wildcard() {
        let with = |origins| {
            let settings = [
                ("TABLE_NAME", "t"),
                ("KMS_KEY_ARN", ARN),
                ("ALLOWED_ORIGINS", origins),
            ];
            read(&settings).is_ok()
        };
        assert!(with("https://app.test, http://localhost:3000"));
        for origins in [
            "*",
            "https://*.app.test",
            "https://app.test/",
            "app.test",
            "null",
            "https://app.test,*",
        ] {
            assert!(!with(origins), "{origins}");
        }
    }

    /// What browsers and tokens never write, so that it could never match.
    const NO_ORIGINS: &[&str] = &[
        "https://clerk.test/",
        "clerk.test",
        "//clerk.test",
        "https://Clerk.test",
        "HTTPS://clerk.test",
        "\"https://clerk.test\"",
        "'https://clerk.test'",
        "[\"https://clerk.test\"]",
        "https://clerk.test/path",
        "https://clerk.test?x",
        "https://clerk.test#x",
        "https://clerk.test:443",
        "http://clerk.test:80",
        "https://user@clerk.test",
        "https://cl erk.test",
        "https://clerk.test\n",
        "https://*.clerk.test",
        "https://",
        "https://bücher.test",
        "ftp://clerk.test",
        "null",
    ];

    fn with_clerk(name: &str, value: &str) -> Result<Config, ConfigError> {
        let settings = [
            ("TABLE_NAME", "t"),
            ("KMS_KEY_ARN", ARN),
            ("DEPLOY_ENV", "prod"),
            ("CLERK_JWT_KEY", "x"),
            ("CLERK_ISSUER", "https://clerk.test"),
            ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
        ];
        let changed = settings.map(|(n, v)| (n, if n == name { value } else { v }));
        read(&changed)
    }

    #[test]
    fn an_issuer_that_no_token_can_name_is_refused_with_what_was_received() {
        assert!(with_clerk("CLERK_ISSUER", "https://clerk.app.test:8443").is_ok());
        for issuer in NO_ORIGINS.iter().chain(&["http://clerk.test"]) {
            let message = with_clerk("CLERK_ISSUER", issuer).unwrap_err().to_string();
            let said = format!("CLERK_ISSUER is {issuer:?}: write it as tokens do");
            assert!(message.contains(&said), "{message}");
        }
    }

    #[test]
    fn a_party_that_no_token_can_name_is_refused_with_what_was_received() {
        let parties = "https://app.test, http://localhost:3000";
        let config = with_clerk("CLERK_AUTHORIZED_PARTIES", parties).unwrap();
        assert_eq!(config.clerk.unwrap().authorized_parties.len(), 2);
        for party in NO_ORIGINS.iter().filter(|party| !party.ends_with('\n')) {
            let list = format!("https://app.test,{party}");
            let message = with_clerk("CLERK_AUTHORIZED_PARTIES", &list);
            let message = message.unwrap_err().to_string();
            let said = format!("CLERK_AUTHORIZED_PARTIES has {party:?}: write exact origins");
            assert!(message.contains(&said), "{message}");
        }
    }

    #[test]
    fn a_stack_is_named_so_that_its_name_fits_into_what_is_sealed() {
        for name in ["prod", "user-api-keys-prod", "a_b.c", &"s".repeat(128)] {
            assert!(with_clerk("DEPLOY_ENV", name).is_ok(), "{name}");
        }
        for name in ["pro d", "prod\n", "prodé", &"s".repeat(129)] {
            let message = with_clerk("DEPLOY_ENV", name).unwrap_err().to_string();
            assert!(message.contains("DEPLOY_ENV is \""), "{message}");
        }
    }

    /// As AWS starts one; the log stream is that of a function with a log group of its own.
    const REAL: &[(&str, &str)] = &[
        ("AWS_LAMBDA_FUNCTION_NAME", "generate-content"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        (
            "AWS_LAMBDA_LOG_STREAM_NAME",
            "2026/11/25/generate-content[$LATEST]0123456789abcdef",
        ),
        ("TABLE_NAME", "t"),
        ("KMS_KEY_ARN", ARN),
        ("DEPLOY_ENV", "prod"),
        ("CLERK_JWT_KEY", "x"),
        ("CLERK_ISSUER", "https://clerk.test"),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
    ];

    #[test]
    fn on_a_real_lambda_everything_that_redirects_is_refused_by_name_alone() {
        assert!(read(REAL).is_ok());
        let of_others = [
            "AWS_ENDPOINT_URL_STS",
            "AWS_ENDPOINT_URL_ANYTHING",
            "EXA_BASE_URL",
        ];
        for name in REDIRECTS.iter().chain(&of_others) {
            for value in ["true", "https://elsewhere.test"] {
                let settings = [REAL, &[(*name, value)]].concat();
                let names: Vec<_> = settings
                    .iter()
                    .map(|(name, _)| (*name).to_owned())
                    .collect();
                let found = |wanted: &str| {
                    let mut settings = settings.iter();
                    let found = settings.find(|(name, _)| *name == wanted);
                    found.map(|(_, value)| (*value).to_owned())
                };
                let message = Config::read(&names, found).unwrap_err().to_string();
                assert!(
                    message.contains(&format!("remove {name}: on a real")),
                    "{message}"
                );
                assert!(!message.contains(value), "{message}");
            }
        }
        let empty = [REAL, &[("AWS_ENDPOINT_URL", ""), ("AWS_SAM_LOCAL", "")]].concat();
        assert!(read(&empty).is_ok());
    }

    #[test]
    fn everything_that_redirects_a_real_lambda_is_named_in_one_message() {
        let more = [
            ("AWS_SAM_LOCAL", "true"),
            ("GEMINI_BASE_URL", "https://elsewhere.test"),
            ("HTTPS_PROXY", "https://elsewhere.test"),
        ];
        let message = read(&[REAL, &more].concat()).unwrap_err().to_string();
        let said = "remove AWS_SAM_LOCAL, GEMINI_BASE_URL, HTTPS_PROXY: on a real Lambda";
        assert!(message.contains(said), "{message}");
    }

    #[test]
    fn an_emulator_may_send_requests_elsewhere() {
        let more = [
            ("AWS_SAM_LOCAL", "true"),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "$LATEST"),
            ("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1"),
            ("GEMINI_BASE_URL", "http://127.0.0.1:1"),
        ];
        // The first of a name is found.
        let config = read(&[&more, REAL].concat()).unwrap();
        assert!(config.under_sam_local);
        assert_eq!(config.base_url(Provider::Gemini), "http://127.0.0.1:1");
    }

    #[test]
    fn a_model_name_cannot_leave_its_place_in_a_url() {
        for name in ["gemini-3.8-flash", "a", "0"] {
            assert!(is_model_name(name), "{name}");
        }
        for name in [
            "", ".a", "-a", "A", "a/b", "a:b", "a?b", "a b", "models/a", "é",
        ] {
            assert!(!is_model_name(name), "{name}");
        }
        assert!(!is_model_name(&"a".repeat(65)));
    }

    #[test]
    fn only_key_arns_are_key_arns() {
        assert!(KeyArn::parse(ARN).is_some());
        for text in [
            "",
            "0b1c",
            "alias/x",
            "arn:aws:kms:us-east-1:000000000000:alias/x",
            "arn:aws:kms::000000000000:key/x",
            "arn:aws:kms:us-east-1:1:key/x",
            "arn:aws:kms:us-east-1:000000000000:key/",
        ] {
            assert!(KeyArn::parse(text).is_none(), "{text}");
        }
    }
}
