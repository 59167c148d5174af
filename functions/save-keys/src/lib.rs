//! Writes a key, deletes a key. Can encrypt and can never decrypt.

use lambda_http::{
    Body, Request, Response,
    http::{Method, StatusCode},
};
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use time::{Duration, OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};
use tokio::sync::MutexGuard;
use user_api_keys::{
    api_key::ApiKey,
    audit::{self, AuditWriter, Event, Outcome},
    auth::AuthSetupError,
    aws::Aws,
    config::{CheckOnSave, Config},
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, empty, json},
    https::HttpsError,
    key_table::{Change, KeyWriter, NewKey, ShownRecord, Status, TableError},
    problem::{Code, Problem},
    provider::Provider,
    provider_check::{Checker, Verdict},
    rate_limit::{Class, LimitError},
    sealing::{Binding, Sealer},
    user::User,
    user_api_keys::KeyError,
};
use utoipa::{OpenApi, ToSchema};

const BODY_MAX_BYTES: usize = 16 * 1024;
const DESCRIPTION_MAX_CHARS: usize = 200;
/// Ten years.
const EXPIRES_IN_DAYS_MAX: u16 = 3_650;

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Seals and stores one key.
    Save,
    /// Pauses a key, words it, or lets it expire.
    Change,
    /// Deletes one key.
    Delete,
    /// Deletes all keys.
    DeleteAll,
    /// Writes CopilotKit's public key to the front end's `.env`; Local mode only.
    FrontendEnv,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    route(Method::POST, "/api/onboarding/api-keys", Action::Save),
    route(
        Method::DELETE,
        "/api/onboarding/api-keys",
        Action::DeleteAll,
    ),
    route(
        Method::PATCH,
        "/api/onboarding/api-keys/{provider}",
        Action::Change,
    ),
    route(
        Method::DELETE,
        "/api/onboarding/api-keys/{provider}",
        Action::Delete,
    ),
    route(
        Method::POST,
        "/api/frontend-env/update",
        Action::FrontendEnv,
    ),
];

const fn route(method: Method, path: &'static str, action: Action) -> Route<Action> {
    Route {
        method,
        path,
        action,
        class: Class::Save,
        effect: Effect::Acts,
    }
}

/// Its name on Lambda and in the audit trail.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Why the function did not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Callers could not be identified.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// No client for the providers.
    #[error(transparent)]
    Https(#[from] HttpsError),
}

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(save, change, delete, delete_all, frontend_env))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    checker: Checker,
    check_on_save: CheckOnSave,
    sealer: Sealer,
    keys: KeyWriter,
    audit: AuditWriter,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, SetupError> {
        let table = || config.table_name.clone();
        Ok(Self {
            endpoint: Endpoint::new(config, aws, NAME)?,
            checker: Checker::new(config)?,
            check_on_save: config.check_on_save,
            sealer: Sealer::new(aws.kms.clone(), config),
            keys: KeyWriter::new(aws.dynamodb.clone(), table()),
            audit: AuditWriter::new(aws.dynamodb.clone(), table(), NAME),
            developer: DeveloperKeys::new(config),
        })
    }

    /// Does `work` once it is on the record; what then fails is recorded too.
    async fn audited<T>(
        &self,
        user: &User,
        event: &Event<'_>,
        work: impl Future<Output = Result<T, TableError>>,
    ) -> Result<T, TableError> {
        self.audit.write(user, event, Outcome::Ok).await?;
        let done = work.await;
        if done.is_err() {
            self.audit.note(user, event, Outcome::Failed).await;
        }
        done
    }

    /// Held over a change of the table and of the `.env` files.
    async fn in_order(&self) -> Option<MutexGuard<'_, ()>> {
        match &self.developer {
            Some(developer) => Some(developer.in_order().await),
            None => None,
        }
    }
}

fn fits(description: Option<&str>) -> bool {
    description.is_none_or(|text| text.chars().count() <= DESCRIPTION_MAX_CHARS)
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::Save => save(deps, &call).await,
        Action::Change => change(deps, &call).await,
        Action::Delete => delete(deps, &call).await,
        Action::DeleteAll => delete_all(deps, &call).await,
        Action::FrontendEnv => frontend_env(deps, &call),
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

/// A key to save.
// No `Debug`: the key is in it, as a secret from its first byte.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"provider": "gemini", "api_key": "AQ.my-own-gemini-key-0001",
    "description": "mine", "expires_in_days": 90}))]
struct SaveRequest {
    #[schema(value_type = Provider)]
    provider: String,
    /// As the provider gave it; never a mask or a placeholder.
    #[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[!-~]+$")]
    api_key: SecretString,
    /// The person's own words.
    #[schema(max_length = 200)]
    description: Option<String>,
    /// The key is not opened any more after so many days; never, if left out.
    #[schema(minimum = 1, maximum = 3650)]
    expires_in_days: Option<u16>,
}

const SAVE_SHAPE: &str = "provider and api_key (texts), and if you like description (text of at \
                          most 200 characters) and expires_in_days (1 to 3650)";

/// A saved key, named and not shown.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "Google Gemini API key saved", "provider": "gemini",
    "status": "saved", "key": {"provider": "gemini", "hint": "0001",
    "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "version": 1, "check": "valid"}}))]
struct SaveAnswer<'a> {
    message: String,
    #[schema(value_type = Provider)]
    provider: &'a str,
    /// `saved`.
    status: &'a str,
    key: SavedKey<'a>,
    /// Local mode: files that hold the key now.
    #[serde(skip_serializing_if = "Option::is_none")]
    env_files: Option<Vec<String>>,
    /// What did not go as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

#[derive(Serialize, ToSchema)]
struct SavedKey<'a> {
    #[schema(value_type = Provider)]
    provider: &'a str,
    /// Last four characters, or empty.
    #[schema(max_length = 4)]
    hint: &'a str,
    /// The key's own id, new with every save.
    kid: &'a str,
    /// Number of saves, for `If-Match`.
    version: u64,
    /// What the provider said: `valid`, `unknown`, or `skipped` when it was not asked.
    #[schema(pattern = "^(valid|unknown|skipped)$")]
    check: &'a str,
}

/// Save or replace a key.
///
/// `Encrypt` beside the provider's check, then the audit record, then one `UpdateItem`; in Local mode
/// also the `.env` files.
#[utoipa::path(
    post,
    path = "/api/onboarding/api-keys",
    params(
        ("check" = Option<String>, Query, pattern = "^(live|format)$",
            description = "`live` asks the provider where that is free, `format` looks at the key alone"),
        ("If-Match" = Option<String>, Header, pattern = "^\"[0-9]{1,19}\"$",
            description = "the version to replace, in double quotes"),
    ),
    request_body = SaveRequest,
    responses(
        (status = 200, description = "the key is saved", body = SaveAnswer<'_>),
        (status = 400, description = "invalid_request, unknown_provider, invalid_api_key"),
        (status = 412, description = "version_conflict"),
        (status = 422, description = "provider_rejected_key"),
    )
)]
async fn save(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let request: SaveRequest = call.json(BODY_MAX_BYTES, SAVE_SHAPE)?;
    let provider: Provider = request.provider.parse()?;
    let key = ApiKey::parse(request.api_key)?;
    let description = request.description.filter(|text| !text.is_empty());
    let days_fit = |days| (1..=EXPIRES_IN_DAYS_MAX).contains(&days);
    if !fits(description.as_deref()) || !request.expires_in_days.is_none_or(days_fit) {
        return Err(Problem::invalid_request(format!("Send {SAVE_SHAPE}.")));
    }
    let replaces = call.if_match()?;
    let how = check_on_save(deps, call)?;
    let kid = ulid::Ulid::new().to_string();
    let hint = key.hint();
    let binding = Binding {
        user: call.user.id(),
        provider,
        kid: &kid,
    };
    let seal = async { Ok(deps.sealer.seal(&key, &binding).await?) };
    let (sealed, checked) = tokio::try_join!(seal, check(deps, call, how, provider, &key, &kid))?;
    let new = NewKey {
        provider,
        kid: &kid,
        sealed,
        hint: &hint,
        description: description.as_deref(),
        expires_at: request
            .expires_in_days
            .map(|days| call.now + Duration::days(days.into())),
        status: checked.status(),
        replaces,
    };
    let _order = deps.in_order().await;
    let event = call.event(audit::Action::Save, Some(provider), Some(&kid));
    let work = deps.keys.save(&call.user, new, call.now);
    let version = deps.audited(&call.user, &event, work).await?;
    let written = deps.developer.as_ref().map(|dev| dev.save(provider, &key));
    let (env_files, mut warnings) = written.map_or((None, Vec::new()), |written| {
        (Some(written.files), written.warnings)
    });
    warnings.extend(checked.warning(provider));
    json(&SaveAnswer {
        message: format!("{} API key saved", provider.facts().title),
        provider: provider.name(),
        status: "saved",
        key: SavedKey {
            provider: provider.name(),
            hint: &hint,
            kid: &kid,
            version,
            check: checked.as_str(),
        },
        env_files,
        warnings,
    })
}

/// `?check=live|format`, else as configured.
fn check_on_save(deps: &Deps, call: &Call<Action>) -> Result<CheckOnSave, Problem> {
    let Some(asked) = call.query("check") else {
        return Ok(deps.check_on_save);
    };
    CheckOnSave::parse(&asked).ok_or_else(|| Problem::invalid_request("check is live or format."))
}

/// What was heard of a key before it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    Valid,
    Unknown,
    /// Nobody was asked.
    Skipped,
    /// Nobody was asked, since this person asked too often.
    TooOften,
}

impl Checked {
    const fn status(self) -> Status {
        match self {
            Self::Valid => Status::Active,
            Self::Unknown | Self::Skipped | Self::TooOften => Status::Unverified,
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Unknown => "unknown",
            Self::Skipped | Self::TooOften => "skipped",
        }
    }

    fn warning(self, provider: Provider) -> Option<String> {
        let title = provider.facts().title;
        match self {
            Self::Valid | Self::Skipped => None,
            Self::Unknown => Some(format!(
                "{title} did not say whether this key works; it was saved unchecked"
            )),
            Self::TooOften => Some(format!(
                "{title} was not asked whether this key works: too many checks in the last hour"
            )),
        }
    }
}

/// Asks the provider whether the key works, if that is free, wanted and not too often; on the record
/// before it is asked.
///
/// # Errors
/// 422 when the provider refuses the key.
async fn check(
    deps: &Deps,
    call: &Call<Action>,
    how: CheckOnSave,
    provider: Provider,
    key: &ApiKey,
    kid: &str,
) -> Result<Checked, Problem> {
    if how == CheckOnSave::Format || provider.facts().check.is_none() {
        return Ok(Checked::Skipped);
    }
    match deps.endpoint.count(call, Class::Check).await {
        Ok(()) => {}
        Err(LimitError::Limited(_)) => return Ok(Checked::TooOften),
        Err(error) => return Err(error.into()),
    }
    let event = call.event(audit::Action::Check, Some(provider), Some(kid));
    deps.audit.write(&call.user, &event, Outcome::Ok).await?;
    match deps.checker.check(provider, key).await {
        Some(Verdict::Valid) => Ok(Checked::Valid),
        Some(Verdict::Unknown) => Ok(Checked::Unknown),
        None => Ok(Checked::Skipped),
        Some(Verdict::Invalid) => {
            deps.audit.note(&call.user, &event, Outcome::Refused).await;
            Err(Problem::new(
                Code::ProviderRejectedKey,
                format!(
                    "{} refuses this key, so it was not saved; copy it again from {}.",
                    provider.facts().title,
                    provider.facts().get_key_at
                ),
            ))
        }
    }
}

/// A field that may be there, null or absent.
fn maybe_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// What to change about a key; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1, example = json!({"enabled": false}))]
struct ChangeRequest {
    /// `false` pauses it.
    #[schema(nullable = false)]
    enabled: Option<bool>,
    /// The person's own words; null takes them away.
    #[serde(default, deserialize_with = "maybe_null")]
    #[schema(value_type = Option<String>, required = false, max_length = 200)]
    description: Option<Option<String>>,
    /// The key is not opened from then on: a time to come, or null for never.
    #[serde(default, deserialize_with = "maybe_null")]
    #[schema(value_type = Option<String>, required = false, format = DateTime)]
    expires_at: Option<Option<String>>,
}

const CHANGE_SHAPE: &str = "one or more of enabled (true or false), description (text of at most \
                            200 characters, or null) and expires_at (a time to come such as \
                            2030-01-31T00:00:00Z, or null for never)";

/// Pause a key, word it, or let it expire.
///
/// One `UpdateItem`.
#[utoipa::path(
    patch,
    path = "/api/onboarding/api-keys/{provider}",
    params(("provider" = Provider, Path)),
    request_body = ChangeRequest,
    responses(
        (status = 200, description = "the key's record as it is now", body = ShownRecord),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "no_api_key"),
    )
)]
async fn change(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let request: ChangeRequest = call.json(BODY_MAX_BYTES, CHANGE_SHAPE)?;
    let wrong = || Problem::invalid_request(format!("Send {CHANGE_SHAPE}."));
    let expires_at = match request.expires_at {
        Some(Some(text)) => {
            let at = OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| wrong())?;
            Some(Some(at.to_offset(UtcOffset::UTC)))
        }
        other => other.map(|_| None),
    };
    let to_come = expires_at.flatten().is_none_or(|at| at > call.now);
    let description = request.description;
    let nothing = request.enabled.is_none() && description.is_none() && expires_at.is_none();
    if nothing || !to_come || !fits(description.as_ref().and_then(Option::as_deref)) {
        return Err(wrong());
    }
    let change = Change {
        enabled: request.enabled,
        description: description.map(|text| text.filter(|text| !text.is_empty())),
        expires_at,
    };
    let event = call.event(audit::Action::Change, Some(provider), None);
    let work = deps.keys.change(&call.user, provider, change, call.now);
    let record = deps
        .audited(&call.user, &event, work)
        .await
        .map_err(|error| match error {
            TableError::Condition => KeyError::Missing(provider).into(),
            error => Problem::from(error),
        })?;
    json(&record.shown())
}

/// Delete a key.
///
/// The files first: a row that is left over is deleted by the next try, a line that is left over
/// would still be used.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys/{provider}",
    params(("provider" = Provider, Path)),
    responses(
        (status = 204, description = "there is no such key any more"),
        (status = 400, description = "unknown_provider"),
    )
)]
async fn delete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let _order = deps.in_order().await;
    remove_lines(deps, &[provider])?;
    let event = call.event(audit::Action::Delete, Some(provider), None);
    let work = deps.keys.delete(&call.user, provider);
    deps.audited(&call.user, &event, work).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// Delete every key.
///
/// As [`delete`], for every provider.
#[utoipa::path(
    delete,
    path = "/api/onboarding/api-keys",
    responses((status = 204, description = "there is no key any more"))
)]
async fn delete_all(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let _order = deps.in_order().await;
    remove_lines(deps, Provider::ALL)?;
    let event = call.event(audit::Action::Delete, None, None);
    let work = deps.keys.delete_all(&call.user);
    deps.audited(&call.user, &event, work).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn remove_lines(deps: &Deps, providers: &[Provider]) -> Result<(), Problem> {
    let Some(developer) = &deps.developer else {
        return Ok(());
    };
    let mut providers = providers.iter();
    providers
        .try_for_each(|&provider| developer.remove(provider))
        .map_err(|error| {
            Problem::internal(format!("a line of an .env file was not removed: {error}"))
        })
}

/// One line of the front end's `.env`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"key": "REACT_APP_COPILOTKIT_API_KEY", "value": "ck_pub_0123456789abcdef"}))]
struct FrontendEnvRequest {
    #[schema(pattern = "^REACT_APP_COPILOTKIT_API_KEY$")]
    key: String,
    #[schema(value_type = String, min_length = 1, max_length = 1024, pattern = "^[!-~]+$")]
    value: SecretString,
    /// Not kept.
    #[serde(rename = "description")]
    _description: Option<String>,
}

const FRONTEND_ENV_SHAPE: &str = "key (REACT_APP_COPILOTKIT_API_KEY) and value (texts)";

#[derive(Serialize, ToSchema)]
#[schema(example = json!({"message": "front end environment updated",
    "key": "REACT_APP_COPILOTKIT_API_KEY", "env_files": ["frontend/.env"]}))]
struct FrontendEnvAnswer {
    message: &'static str,
    key: &'static str,
    /// Files that hold the key now.
    env_files: Vec<String>,
    /// What did not go as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// Write CopilotKit's public key to the front end's `.env`; Local mode only.
///
/// Only the variables of browser-safe keys; never another line, never a file in Production.
#[utoipa::path(
    post,
    path = "/api/frontend-env/update",
    request_body = FrontendEnvRequest,
    responses(
        (status = 200, description = "the line is written", body = FrontendEnvAnswer),
        (status = 400, description = "invalid_request, invalid_api_key"),
        (status = 404, description = "not_found"),
    )
)]
fn frontend_env(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let developer = deps.developer.as_ref().ok_or_else(Problem::not_found)?;
    let request: FrontendEnvRequest = call.json(BODY_MAX_BYTES, FRONTEND_ENV_SHAPE)?;
    let mut names = Provider::ALL.iter().filter_map(|p| p.facts().frontend_env);
    let name = names.find(|name| *name == request.key);
    let name =
        name.ok_or_else(|| Problem::invalid_request(format!("Send {FRONTEND_ENV_SHAPE}.")))?;
    let written = developer.save_for_browser(name, &ApiKey::parse(request.value)?);
    json(&FrontendEnvAnswer {
        message: "front end environment updated",
        key: name,
        env_files: written.files,
        warnings: written.warnings,
    })
}
