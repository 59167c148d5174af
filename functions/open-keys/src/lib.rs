//! Plaintext keys for the app's other back ends. Invoked with IAM, never over HTTP.
//!
//! The person's own session token proves that they are there. Every key that is handed out is on
//! their audit log first, with the purpose.

use std::collections::BTreeMap;

use futures_util::{FutureExt as _, future::join_all};
use lambda_runtime::Context;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use user_api_keys::{
    audit::{self, Outcome},
    auth::{Auth, AuthSetupError, TrustedCaller},
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    invocation::read,
    plain_text::is_plain_text,
    problem::{Code, Problem},
    provider::Provider,
    rate_limit::{Class, Limiter},
    telemetry::{Line, hashed, hashed_text},
    user::User,
    user_api_keys::{KeyAccess, UserApiKeys},
};

/// Its name on Lambda and in the audit log.
pub const NAME: &str = env!("CARGO_PKG_NAME");
const PURPOSE_MAX_CHARS: usize = 100;
/// All this function can reach.
pub struct Deps {
    deploy_env: String,
    auth: Auth,
    limiter: Limiter,
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
            limiter: Limiter::new(
                aws.dynamodb.clone(),
                config.table_name.clone(),
                &config.rate_limits,
            ),
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

const SHAPE: &str = "token, providers (a list of names) and purpose (1 to 100 characters that can be \
                     seen, on one line)";

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
    // Of IAM's principals Lambda passes on one kind, Cognito's; CloudTrail has the others.
    let identity = context.and_then(|context| context.identity.as_ref());
    let identity = identity.map(|identity| identity.identity_id.as_str());
    let mut user = None;
    // Its type is too deep for the compiler to see through.
    let work = open(deps, &request_id, identity, event, &mut user).boxed();
    let answer = line.counting(work).await;
    line.user = user.map(|user: User| hashed(&deps.deploy_env, user.id()));
    let problem = answer.as_ref().err();
    line.end(
        problem.map_or(200, |problem| problem.status().as_u16()),
        problem,
    );
    answer
}

/// What is asked for.
struct Wanted {
    providers: Vec<Provider>,
    purpose: String,
}

/// What to open, if the request says so properly.
fn wanted(request: &OpenRequest) -> Result<Wanted, Problem> {
    let purpose = request.purpose.clone();
    let fits = (1..=PURPOSE_MAX_CHARS).contains(&purpose.chars().count());
    if !fits || !is_plain_text(&purpose) {
        return Err(Problem::invalid_request(format!("Send {SHAPE}.")));
    }
    let providers = request.providers.iter().map(|name| name.parse());
    let mut providers = providers.collect::<Result<Vec<Provider>, _>>()?;
    providers.sort();
    providers.dedup();
    Ok(Wanted { providers, purpose })
}

/// Leaves in `caller` whoever is known to have asked. The rows are read beside the count, and nothing is
/// opened before it lets the call through.
async fn open(
    deps: &Deps,
    request_id: &str,
    identity: Option<&str>,
    event: Value,
    caller: &mut Option<User>,
) -> Result<OpenAnswer, Problem> {
    let request: OpenRequest = read(event, SHAPE)?;
    let Wanted { providers, purpose } = wanted(&request)?;
    let event = audit::Event {
        action: audit::Action::Export,
        provider: None,
        kid: None,
        purpose: Some(&purpose),
        request_id,
        now: OffsetDateTime::now_utc(),
    };
    let user = user(deps, &request, event.now).await?.called_by(identity);
    let user = &*caller.insert(user);
    for_themselves(deps, user, &event).await?;
    let mine = UserApiKeys::of(user, &deps.access, deps.developer.as_ref());
    let rows = join_all(providers.iter().map(|&provider| mine.find(provider)));
    let (counted, rows) = tokio::join!(deps.limiter.count(user, Class::Open, event.now), rows);
    counted?;
    let opened = rows.into_iter().map(async |row| row?.open(&event).await);
    let mut answer = OpenAnswer {
        keys: BTreeMap::new(),
        missing: Vec::new(),
    };
    for (provider, opened) in providers.iter().zip(join_all(opened).await) {
        match opened {
            Ok(opened) => {
                let key = OpenedKey {
                    // EXPOSE: handing the key to the user's own back end is this function's work.
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

/// The user the token names; a bare `user_id` only where the caller is trusted.
async fn user(deps: &Deps, request: &OpenRequest, now: OffsetDateTime) -> Result<User, Problem> {
    match (&request.token, &request.user_id, &deps.trusted) {
        // EXPOSE: the token, to verify it.
        (Some(token), None, _) => Ok(deps.auth.user_of_token(token.expose_secret(), now).await?),
        (None, Some(user_id), Some(trusted)) => Ok(trusted.user(user_id)?),
        (None, Some(_), None) => {
            let detail = "A user_id alone is not accepted; send the user's session token.";
            Err(Problem::new(Code::Unauthorized, detail).named("user id without a token"))
        }
        _ => Err(Problem::invalid_request(format!("Send {SHAPE}."))),
    }
}

/// Whoever is signed in on a user's behalf opens nothing, and that they tried is on the user's audit log.
async fn for_themselves(deps: &Deps, user: &User, event: &audit::Event<'_>) -> Result<(), Problem> {
    let Some(actor) = user.actor() else {
        return Ok(());
    };
    let actor = hashed_text(&deps.deploy_env, actor.as_str());
    tracing::warn!(
        actor,
        function = NAME,
        request_id = event.request_id,
        "impersonation"
    );
    deps.access.audit.note(user, event, Outcome::Refused).await;
    let detail = "Who is signed in on somebody's behalf cannot open keys.";
    Err(Problem::new(Code::Forbidden, detail))
}
