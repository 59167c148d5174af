//! Writes a key, brings back the one before, deletes a key. Can encrypt and can never decrypt.

mod change;
mod delete;
mod elsewhere;
mod frontend_env;
mod restore;
mod save;

use lambda_http::{Body, Request, Response, http::Method};
use tokio::sync::MutexGuard;
use user_api_keys::{
    audit::{AuditWriter, Event, Outcome},
    aws::Aws,
    config::{CheckOnSave, Config},
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, SetupError},
    key_table::{KeyWriter, TableError},
    plain_text::is_plain_text,
    provider_check::Checker,
    rate_limit::Class,
    sealing::Sealer,
    user::User,
};
use utoipa::OpenApi;

const BODY_MAX_BYTES: usize = 16 * 1024;
const DESCRIPTION_MAX_CHARS: usize = 200;

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Seals and stores one key.
    Save,
    /// Pauses a key, words it, or lets it expire.
    Change,
    /// Brings back the key that was replaced.
    Restore,
    /// Deletes one key.
    Delete,
    /// Deletes all keys.
    DeleteAll,
    /// Writes CopilotKit's public key to the front end's `.env`; Local mode only.
    FrontendEnv,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    // Reads beside the count, seals and writes after it.
    Route {
        method: Method::POST,
        path: "/api/onboarding/api-keys",
        action: Action::Save,
        class: Class::Save,
        effect: Effect::ReadsThenActs,
    },
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
        Method::POST,
        "/api/onboarding/api-keys/{provider}/restore",
        Action::Restore,
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

/// Its name on Lambda and in the audit log.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(
    save::save,
    change::change,
    restore::restore,
    delete::delete,
    delete::delete_all,
    frontend_env::frontend_env
))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    checker: Checker,
    check_on_save: CheckOnSave,
    rotate_after_days: u16,
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
            rotate_after_days: config.rotate_after_days,
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
        self.recorded(user, event, work.await).await
    }

    /// `done`; what failed is on the record as that, too.
    async fn recorded<T>(
        &self,
        user: &User,
        event: &Event<'_>,
        done: Result<T, TableError>,
    ) -> Result<T, TableError> {
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

/// Whether a description can be kept and shown.
fn fits(description: Option<&str>) -> bool {
    description
        .is_none_or(|text| text.chars().count() <= DESCRIPTION_MAX_CHARS && is_plain_text(text))
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::Save => save::save(deps, &call).await,
        Action::Change => change::change(deps, &call).await,
        Action::Restore => restore::restore(deps, &call).await,
        Action::Delete => delete::delete(deps, &call).await,
        Action::DeleteAll => delete::delete_all(deps, &call).await,
        Action::FrontendEnv => frontend_env::frontend_env(deps, &call).await,
    };
    deps.endpoint.answer(ROUTES, request, act).await
}
