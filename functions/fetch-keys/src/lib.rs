//! Lists keys masked, and returns the browser-safe one. Opens CopilotKit's key and no other.

use std::collections::BTreeMap;

use lambda_http::{Body, Request, Response, http::Method};
use serde::Serialize;
use user_api_keys::{
    api_key::ApiKey,
    audit::{self, AuditReader, Outcome},
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, SetupError, json},
    key_table::{KeyLister, Record, ShownRecord, Status},
    problem::Problem,
    provider::Provider,
    rate_limit::Class,
    usage::{self, UsageReader},
    user_api_keys::{Credential, KeyAccess, UserApiKeys},
};
use utoipa::{OpenApi, ToSchema};

/// The only keys this function may open in Production.
const OPENS: &[Provider] = &[Provider::CopilotKit];
/// Of fixed length, so that it says nothing about the key's.
const MASK: &str = "************";

/// Audit records on a page.
const TRAIL_PAGE: u8 = 50;
const TRAIL_PAGE_MAX: u8 = 100;
/// Days of usage, where nobody says how many.
const USAGE_DAYS: u16 = 30;
const USAGE_DAYS_MAX: u16 = 400;

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Every provider, masked or null.
    List,
    /// Browser-safe keys in clear; in Local mode all of them.
    Onboarding,
    /// Whether the required keys are there and not known to be bad.
    Validate,
    /// The person's own audit log.
    Audit,
    /// What the person's keys were spent on.
    Usage,
    /// What a person needs to know to get a provider's key.
    Setup,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    looks(Method::GET, "/api/onboarding/api-keys", Action::List),
    Route {
        method: Method::GET,
        path: "/api/onboarding/api-keys/onboarding",
        action: Action::Onboarding,
        class: Class::Read,
        effect: Effect::Acts,
    },
    looks(
        Method::GET,
        "/api/onboarding/api-keys/validate",
        Action::Validate,
    ),
    looks(
        Method::POST,
        "/api/onboarding/api-keys/validate",
        Action::Validate,
    ),
    looks(Method::GET, "/api/onboarding/api-keys/audit", Action::Audit),
    looks(Method::GET, "/api/onboarding/api-keys/usage", Action::Usage),
    looks(
        Method::GET,
        "/api/onboarding/providers/{provider}/setup",
        Action::Setup,
    ),
];

const fn looks(method: Method, path: &'static str, action: Action) -> Route<Action> {
    Route {
        method,
        path,
        action,
        class: Class::Read,
        effect: Effect::Looks,
    }
}

/// Its name on Lambda and in the audit log.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(list, onboarding, validate, trail, used, setup))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    lister: KeyLister,
    access: KeyAccess,
    trail: AuditReader,
    usage: UsageReader,
    in_clear: &'static [Provider],
    rotate_after_days: u16,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities. In Local mode the one developer may see every key of
    /// their own, so there the opener has no list.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, SetupError> {
        let developer = DeveloperKeys::new(config);
        let in_clear = match developer {
            Some(_) => Provider::ALL,
            None => OPENS,
        };
        let table = || config.table_name.clone();
        Ok(Self {
            endpoint: Endpoint::new(config, aws, NAME)?,
            lister: KeyLister::new(aws.dynamodb.clone(), table()),
            access: KeyAccess::new(config, aws, NAME, in_clear),
            trail: AuditReader::new(aws.dynamodb.clone(), table()),
            usage: UsageReader::new(aws.dynamodb.clone(), table()),
            in_clear,
            rotate_after_days: config.rotate_after_days,
            developer,
        })
    }
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::List => list(deps, &call).await,
        Action::Onboarding => onboarding(deps, &call).await,
        Action::Validate => validate(deps, &call).await,
        Action::Audit => trail(deps, &call).await,
        Action::Usage => used(deps, &call).await,
        Action::Setup => setup(&call),
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

/// A person's keys.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"api_keys": {"gemini": "************abcd", "exa": null},
    "total_providers": 11, "configured_providers": ["gemini"], "keys": []}))]
struct KeysAnswer {
    /// By provider: masked, at one length, or null; in clear where the address says so.
    #[schema(value_type = BTreeMap<String, Option<String>>)]
    api_keys: BTreeMap<&'static str, Option<String>>,
    total_providers: usize,
    #[schema(value_type = Vec<Provider>)]
    configured_providers: Vec<&'static str>,
    keys: Vec<ShownRecord>,
}

/// The hint of the key that would be used: the developer's own place first, then the table.
fn hint(deps: &Deps, keys: &[Record], provider: Provider) -> Option<String> {
    let developer = deps.developer.as_ref().and_then(|dev| dev.find(provider));
    let of_table = || keys.iter().find(|key| key.provider() == Some(provider));
    developer
        .map(|key| key.hint())
        .or_else(|| of_table().map(|key| key.hint.clone()))
}

/// List the keys, masked.
#[utoipa::path(
    get,
    path = "/api/onboarding/api-keys",
    responses((status = 200, description = "every provider, masked or null", body = KeysAnswer))
)]
async fn list(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let keys = deps.lister.list(&call.user).await?;
    let masked = |provider: &Provider| {
        let mask = hint(deps, &keys, *provider).map(|hint| format!("{MASK}{hint}"));
        (provider.name(), mask)
    };
    let api_keys = Provider::ALL.iter().map(masked).collect();
    answer(deps, call, api_keys, keys)
}

/// Read the browser-safe keys in clear; in Local mode all of them.
///
/// One `Query`, and for each key shown in clear one `GetItem` and one `Decrypt`. A browser-safe key
/// that is not public, from before only public ones were taken, is absent in Production.
#[utoipa::path(
    get,
    path = "/api/onboarding/api-keys/onboarding",
    params(("provider" = Option<Provider>, Query, description = "this one alone; all, if left out")),
    responses(
        (status = 200, description = "in clear, the others absent", body = KeysAnswer),
        (status = 400, description = "unknown_provider"),
    )
)]
async fn onboarding(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let one: Option<Provider> = call.query("provider").map(|p| p.parse()).transpose()?;
    let keys = deps.lister.list(&call.user).await?;
    let mine = UserApiKeys::of(&call.user, &deps.access, deps.developer.as_ref());
    let mut api_keys = BTreeMap::new();
    let wanted = |provider: &&Provider| one.is_none_or(|one| one == **provider);
    for &provider in deps.in_clear.iter().filter(wanted) {
        let event = call.event(audit::Action::Export, Some(provider), None);
        match mine.get(provider, &event).await {
            Ok(opened) if deps.developer.is_none() && !opened.key.is_public(provider) => {
                withhold(deps, call, &opened.credential).await;
            }
            Ok(opened) => {
                api_keys.insert(provider.name(), Some(in_clear(&opened.key)));
            }
            Err(error) if error.is_the_persons() => {}
            Err(error) => return Err(error.into()),
        }
    }
    answer(deps, call, api_keys, keys)
}

/// A secret was saved in a public key's place: it is not published, and the record says so.
async fn withhold(deps: &Deps, call: &Call<Action>, credential: &Credential) {
    let Credential { provider, kid, .. } = credential;
    tracing::warn!(
        provider = provider.name(),
        request_id = %call.request_id,
        "not public, so it was not handed out"
    );
    let event = call.event(audit::Action::Export, Some(*provider), Some(kid));
    let audit = &deps.access.audit;
    audit.note(&call.user, &event, Outcome::Refused).await;
}

fn in_clear(key: &ApiKey) -> String {
    // EXPOSE: a public key the browser needs, or the developer's own; it goes into the answer only.
    key.expose().to_owned()
}

fn answer(
    deps: &Deps,
    call: &Call<Action>,
    api_keys: BTreeMap<&'static str, Option<String>>,
    keys: Vec<Record>,
) -> Result<Response<Body>, Problem> {
    let shown = |key: Record| key.shown(call.now, deps.rotate_after_days);
    let mut keys: Vec<_> = keys.into_iter().filter_map(shown).collect();
    let known = |name| Provider::ALL.iter().position(|p| p.name() == name);
    keys.sort_by_key(|key| known(key.provider));
    let configured = |provider: &Provider| {
        let saved = keys.iter().any(|key| key.provider == provider.name());
        let shown = api_keys.get(provider.name()).is_some_and(Option::is_some);
        (saved || shown).then_some(provider.name())
    };
    json(&KeysAnswer {
        configured_providers: Provider::ALL.iter().filter_map(configured).collect(),
        total_providers: Provider::ALL.len(),
        api_keys,
        keys,
    })
}

/// Whether the keys are there and not known to be bad.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"validation_results": {"gemini": {"valid": true, "status": "configured",
    "checked_at": "2026-11-24T06:00:00Z"}}, "all_valid": false, "total_providers": 11,
    "configured_providers": ["gemini"], "missing_keys": ["exa", "copilotkit"]}))]
struct ValidateAnswer {
    #[schema(value_type = BTreeMap<String, Validated>)]
    validation_results: BTreeMap<&'static str, Validated>,
    /// Of the required three.
    all_valid: bool,
    total_providers: usize,
    #[schema(value_type = Vec<Provider>)]
    configured_providers: Vec<&'static str>,
    /// Of the required three.
    #[schema(value_type = Vec<Provider>)]
    missing_keys: Vec<&'static str>,
}

#[derive(Serialize, ToSchema)]
struct Validated {
    valid: bool,
    /// `configured`, `missing`, `invalid` or `unverified`.
    #[schema(pattern = "^(configured|missing|invalid|unverified)$")]
    status: &'static str,
    /// Last answer of the provider.
    #[schema(required)]
    checked_at: Option<String>,
}

/// Say whether the required keys are there and not known to be bad.
///
/// One `Query`; no key is opened. A key nobody could check counts as valid, since for some providers
/// there is no check; one that is refused, paused or expired does not.
#[utoipa::path(
    method(get, post),
    path = "/api/onboarding/api-keys/validate",
    responses((status = 200, description = "never a key", body = ValidateAnswer))
)]
async fn validate(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let keys = deps.lister.list(&call.user).await?;
    let one = |provider: Provider| {
        let developer = deps.developer.as_ref().and_then(|dev| dev.find(provider));
        let record = keys.iter().find(|key| key.provider() == Some(provider));
        let (valid, status) = match (developer, record) {
            (_, Some(record)) if !record.enabled || record.expired(call.now) => (false, "invalid"),
            (Some(_), _) => (true, "unverified"),
            (None, None) => (false, "missing"),
            (None, Some(record)) => match record.status {
                Status::Active => (true, "configured"),
                Status::Unverified => (true, "unverified"),
                Status::Invalid => (false, "invalid"),
            },
        };
        Validated {
            valid,
            status,
            checked_at: record.and_then(|record| record.checked_at.clone()),
        }
    };
    let validation_results: BTreeMap<_, _> = Provider::ALL
        .iter()
        .map(|&provider| (provider.name(), one(provider)))
        .collect();
    let required = || {
        Provider::ALL
            .iter()
            .filter(|p| p.facts().required)
            .map(|p| p.name())
    };
    let is = |name: &&'static str, status| validation_results[name].status == status;
    let configured = Provider::ALL.iter().map(|p| p.name());
    json(&ValidateAnswer {
        all_valid: required().all(|name| validation_results[name].valid),
        total_providers: Provider::ALL.len(),
        configured_providers: configured.filter(|name| !is(name, "missing")).collect(),
        missing_keys: required().filter(|name| is(name, "missing")).collect(),
        validation_results,
    })
}

/// Read one's own audit log.
///
/// One `Query`.
#[utoipa::path(
    get,
    path = "/api/onboarding/api-keys/audit",
    params(
        ("limit" = Option<u8>, Query, minimum = 1, maximum = 100, description = "50 if left out"),
        ("cursor" = Option<String>, Query, pattern = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$",
            description = "the `next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "newest first, 90 days", body = audit::Page),
        (status = 400, description = "invalid_request"),
    )
)]
async fn trail(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let wrong = || {
        let detail = "limit is 1 to 100, and cursor is what next_cursor said.";
        Problem::invalid_request(detail)
    };
    let limit = call
        .query("limit")
        .map_or(Ok(TRAIL_PAGE), |text| text.parse());
    let limit = limit
        .ok()
        .filter(|limit| (1..=TRAIL_PAGE_MAX).contains(limit));
    let cursor = call.query("cursor").map(|text| text.parse()).transpose();
    let page = deps.trail.page(
        &call.user,
        limit.ok_or_else(wrong)?,
        cursor.map_err(|_| wrong())?,
        call.now,
    );
    json(&page.await?)
}

/// What the person's keys were spent on.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"days": [{"day": "2026-11-24", "provider": "gemini", "calls": 2,
    "prompt_tokens": 20, "output_tokens": 90}]}))]
struct UsageAnswer {
    /// Oldest first; days without use are left out.
    days: Vec<usage::Day>,
}

/// Read what one's own keys were spent on.
///
/// One `Query`.
#[utoipa::path(
    get,
    path = "/api/onboarding/api-keys/usage",
    params(("days" = Option<u16>, Query, minimum = 1, maximum = 400,
        description = "today and the days before it; 30 if left out")),
    responses(
        (status = 200, description = "by day and provider", body = UsageAnswer),
        (status = 400, description = "invalid_request"),
    )
)]
async fn used(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let days = call
        .query("days")
        .map_or(Ok(USAGE_DAYS), |text| text.parse());
    let days = days.ok().filter(|days| (1..=USAGE_DAYS_MAX).contains(days));
    let days = days.ok_or_else(|| Problem::invalid_request("days is 1 to 400."))?;
    json(&UsageAnswer {
        days: deps.usage.days(&call.user, days, call.now).await?,
    })
}

/// What a person needs to know to get a provider's key.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"provider": "gemini", "name": "Google Gemini",
    "get_key_at": "https://aistudio.google.com/apikey", "env_var": "GEMINI_API_KEY",
    "required": true, "browser_safe": false}))]
struct SetupAnswer {
    #[schema(value_type = Provider)]
    provider: &'static str,
    /// For people.
    name: &'static str,
    get_key_at: &'static str,
    /// Its line in `backend/.env`.
    env_var: &'static str,
    /// Onboarding is not complete without it.
    required: bool,
    /// Public, and meant for the browser.
    browser_safe: bool,
}

/// Say where to get a provider's key.
#[utoipa::path(
    get,
    path = "/api/onboarding/providers/{provider}/setup",
    params(("provider" = Provider, Path)),
    responses(
        (status = 200, description = "the same for everybody", body = SetupAnswer),
        (status = 400, description = "unknown_provider"),
    )
)]
fn setup(call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let provider: Provider = call.segment.parse()?;
    let facts = provider.facts();
    json(&SetupAnswer {
        provider: facts.name,
        name: facts.title,
        get_key_at: facts.get_key_at,
        env_var: facts.env,
        required: facts.required,
        browser_safe: provider.browser_safe(),
    })
}
