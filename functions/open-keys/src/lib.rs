//! Plaintext keys for the app's other back ends. Invoked with IAM, never over HTTP.
//!
//! The person's own session token proves that they are there. Every key that is handed out is on
//! their audit trail first, with the purpose.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use lambda_runtime::Context;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    audit,
    auth::{Auth, AuthSetupError, TrustedCaller},
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    invocation::read,
    problem::{Code, Problem},
    provider::Provider,
    telemetry::{Line, hashed},
    user::User,
    user_api_keys::{KeyAccess, UserApiKeys},
};

/// Its name on Lambda and in the audit trail.
pub const NAME: &str = env!("CARGO_PKG_NAME");
const PURPOSE_MAX_CHARS: usize = 100;
/// All this function can reach.
pub struct Deps {
    deploy_env: String,
    auth: Auth,
    trusted: Option<TrustedCaller>,
    access: KeyAccess,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// When callers could not be identified.
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, AuthSetupError> {
        Ok(Self {
            deploy_env: config.deploy_env.clone(),
            auth: Auth::new(config.mode, config.clerk.as_ref())?,
            trusted: TrustedCaller::new(config),
            access: KeyAccess::new(config, aws, NAME, Provider::ALL),
            developer: DeveloperKeys::new(config),
        })
    }
}

/// No `Debug`: the token is in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenRequest {
    token: Option<SecretString>,
    user_id: Option<String>,
    providers: Vec<String>,
    purpose: String,
}

const SHAPE: &str = "token, providers (a list of names) and purpose (1 to 100 characters)";

/// The keys. No `Debug`: they are in clear.
#[derive(Serialize)]
pub struct OpenAnswer {
    keys: BTreeMap<&'static str, OpenedKey>,
    missing: Vec<&'static str>,
}

#[derive(Serialize)]
struct OpenedKey {
    api_key: String,
    kid: String,
}

/// Answers one invocation and writes its one log line; `context` is there on Lambda.
///
/// # Errors
/// The failure, for the caller; nothing was opened, or nothing is handed out.
pub async fn handle(
    deps: &Deps,
    context: Option<&Context>,
    event: Value,
) -> Result<OpenAnswer, Problem> {
    let mut line = Line::start(NAME, context);
    let request_id = line.request_id().to_owned();
    let mut user = None;
    let answer = line
        .counting(open(deps, &request_id, event, &mut user))
        .await;
    line.user = user.map(|user: User| hashed(&deps.deploy_env, user.id()));
    let problem = answer.as_ref().err();
    line.end(
        problem.map_or(200, |problem| problem.status().as_u16()),
        problem,
    );
    answer
}

/// Leaves in `caller` whoever is known to have asked.
async fn open(
    deps: &Deps,
    request_id: &str,
    event: Value,
    caller: &mut Option<User>,
) -> Result<OpenAnswer, Problem> {
    let request: OpenRequest = read(event, SHAPE)?;
    let wrong = || Problem::invalid_request(format!("Send {SHAPE}."));
    let purpose = request.purpose.as_str();
    let printable = purpose.chars().all(|c| !c.is_control());
    if !(1..=PURPOSE_MAX_CHARS).contains(&purpose.chars().count()) || !printable {
        return Err(wrong());
    }
    let providers: Result<Vec<Provider>, _> = request.providers.iter().map(|p| p.parse()).collect();
    let mut providers = providers?;
    providers.sort();
    providers.dedup();
    let now = OffsetDateTime::now_utc();
    let user = person(deps, &request, now).await?;
    let user = &*caller.insert(user);
    let event = audit::Event {
        action: audit::Action::Export,
        provider: None,
        kid: None,
        purpose: Some(purpose),
        request_id,
        now,
    };
    let developer = deps.developer.as_ref();
    let mine = UserApiKeys::of(user, &deps.access, developer);
    let mut answer = OpenAnswer {
        keys: BTreeMap::new(),
        missing: Vec::new(),
    };
    let all = providers.iter().map(|&provider| mine.get(provider, &event));
    for (provider, opened) in providers.iter().zip(join_all(all).await) {
        match opened {
            Ok(opened) => {
                let key = OpenedKey {
                    // EXPOSE: handing the key to the person's own back end is this function's work.
                    api_key: opened.key.expose().to_owned(),
                    kid: opened.credential.kid,
                };
                answer.keys.insert(provider.name(), key);
            }
            Err(error) if error.is_the_persons() => {
                answer.missing.push(provider.name());
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

/// The person the token names; a bare `user_id` only where the caller is trusted.
async fn person(deps: &Deps, request: &OpenRequest, now: OffsetDateTime) -> Result<User, Problem> {
    let user = match (&request.token, &request.user_id, &deps.trusted) {
        // EXPOSE: the token, to verify it.
        (Some(token), None, _) => deps.auth.user_of_token(token.expose_secret(), now).await?,
        (None, Some(user_id), Some(trusted)) => trusted.user(user_id)?,
        (None, Some(_), None) => {
            let detail = "A user_id alone is not accepted; send the person's session token.";
            return Err(Problem::new(Code::Unauthorized, detail).named("user id without a token"));
        }
        _ => return Err(Problem::invalid_request(format!("Send {SHAPE}."))),
    };
    match user.actor() {
        Some(actor) => {
            tracing::warn!(%actor, function = NAME, "impersonation");
            let detail = "Who is signed in on somebody's behalf cannot open keys.";
            Err(Problem::new(Code::Forbidden, detail))
        }
        None => Ok(user),
    }
}
