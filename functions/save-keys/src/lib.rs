//! Writes a key, deletes a key. Can encrypt and can never decrypt.

use lambda_http::{
    Body, Request, Response,
    http::{Method, StatusCode},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use time::Duration;
use user_api_keys::{
    api_key::ApiKey,
    auth::AuthSetupError,
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Endpoint, Route, empty, json},
    key_table::{KeyWriter, NewKey, Status},
    problem::Problem,
    provider::Provider,
    sealing::{Binding, Sealer},
};

const BODY_MAX_BYTES: usize = 16 * 1024;
const DESCRIPTION_MAX_CHARS: usize = 200;
/// Ten years.
const EXPIRES_IN_DAYS_MAX: u16 = 3_650;

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Seals and stores one key.
    Save,
    /// Deletes one key.
    Delete,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    Route {
        method: Method::POST,
        path: "/api/onboarding/api-keys",
        action: Action::Save,
        in_person: true,
    },
    Route {
        method: Method::DELETE,
        path: "/api/onboarding/api-keys/{provider}",
        action: Action::Delete,
        in_person: true,
    },
];

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    sealer: Sealer,
    keys: KeyWriter,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// When callers could not be identified.
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, AuthSetupError> {
        Ok(Self {
            endpoint: Endpoint::new(config)?,
            sealer: Sealer::new(aws.kms.clone(), config),
            keys: KeyWriter::new(aws.dynamodb.clone(), config.table_name.clone()),
            developer: DeveloperKeys::new(config),
        })
    }
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::Save => save(deps, &call).await,
        Action::Delete => delete(deps, &call).await,
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

/// No `Debug`: the key is in it, as a secret from its first byte.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SaveRequest {
    provider: String,
    api_key: SecretString,
    description: Option<String>,
    expires_in_days: Option<u16>,
}

const SAVE_SHAPE: &str = "provider and api_key (texts), and if you like description (text of at \
                          most 200 characters) and expires_in_days (1 to 3650)";

#[derive(Serialize)]
struct SaveAnswer<'a> {
    message: String,
    provider: &'a str,
    status: &'a str,
    key: SavedKey<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    env_files: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct SavedKey<'a> {
    provider: &'a str,
    hint: &'a str,
    kid: &'a str,
    version: u64,
    check: &'a str,
}

/// One `Encrypt`, one `UpdateItem`; in Local mode then the `.env` files.
async fn save(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let request: SaveRequest = call.json(BODY_MAX_BYTES, SAVE_SHAPE)?;
    let provider: Provider = request.provider.parse()?;
    let key = ApiKey::parse(request.api_key)?;
    let description = request.description.filter(|text| !text.is_empty());
    let fits = |text: &String| text.chars().count() <= DESCRIPTION_MAX_CHARS;
    let days_fit = |days| (1..=EXPIRES_IN_DAYS_MAX).contains(&days);
    if !description.as_ref().is_none_or(fits) || !request.expires_in_days.is_none_or(days_fit) {
        return Err(Problem::invalid_request(format!("Send {SAVE_SHAPE}.")));
    }
    let kid = ulid::Ulid::new().to_string();
    let hint = key.hint();
    let binding = Binding {
        user: call.user.id(),
        provider,
        kid: &kid,
    };
    let new = NewKey {
        provider,
        kid: &kid,
        sealed: deps.sealer.seal(&key, &binding).await?,
        hint: &hint,
        description: description.as_deref(),
        expires_at: request
            .expires_in_days
            .map(|days| call.now + Duration::days(days.into())),
        status: Status::Unverified,
    };
    let _order = match &deps.developer {
        Some(developer) => Some(developer.in_order().await),
        None => None,
    };
    let version = deps.keys.save(&call.user, new, call.now).await?;
    let written = deps.developer.as_ref().map(|dev| dev.save(provider, &key));
    let (env_files, warnings) = written.map_or((None, Vec::new()), |written| {
        (Some(written.files), written.warnings)
    });
    json(&SaveAnswer {
        message: format!("{} API key saved", provider.facts().title),
        provider: provider.name(),
        status: "saved",
        key: SavedKey {
            provider: provider.name(),
            hint: &hint,
            kid: &kid,
            version,
            check: "skipped",
        },
        env_files,
        warnings,
    })
}

/// The files first: a row that is left over is deleted by the next try, a line that is left over
/// would still be used.
async fn delete(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let _order = match &deps.developer {
        Some(developer) => Some(developer.in_order().await),
        None => None,
    };
    if let Some(developer) = &deps.developer {
        developer.remove(provider).map_err(|error| {
            Problem::internal(format!("a line of an .env file was not removed: {error}"))
        })?;
    }
    deps.keys.delete(&call.user, provider).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}
