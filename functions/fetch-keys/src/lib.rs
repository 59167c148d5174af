//! Lists keys masked, and returns the browser-safe one. Opens CopilotKit's key and no other.

use std::collections::BTreeMap;

use lambda_http::{Body, Request, Response, http::Method};
use serde::Serialize;
use user_api_keys::{
    api_key::ApiKey,
    auth::AuthSetupError,
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Endpoint, Route, json},
    key_table::{KeyLister, KeyReader, Record},
    problem::Problem,
    provider::Provider,
    sealing::Opener,
    user_api_keys::{KeyError, UserApiKeys},
};

/// The only keys this function may open in Production.
const OPENS: &[Provider] = &[Provider::CopilotKit];
/// Of fixed length, so that it says nothing about the key's.
const MASK: &str = "************";

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// Every provider, masked or null.
    List,
    /// Browser-safe keys in clear; in Local mode all of them.
    Onboarding,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[
    Route {
        method: Method::GET,
        path: "/api/onboarding/api-keys",
        action: Action::List,
        in_person: false,
    },
    Route {
        method: Method::GET,
        path: "/api/onboarding/api-keys/onboarding",
        action: Action::Onboarding,
        in_person: true,
    },
];

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    lister: KeyLister,
    reader: KeyReader,
    opener: Opener,
    developer: Option<DeveloperKeys>,
}

impl Deps {
    /// Exactly this function's capabilities. In Local mode the one developer may see every key of
    /// their own, so there the opener has no list.
    ///
    /// # Errors
    /// When callers could not be identified.
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, AuthSetupError> {
        let developer = DeveloperKeys::new(config);
        let opens = match developer {
            Some(_) => Provider::ALL,
            None => OPENS,
        };
        Ok(Self {
            endpoint: Endpoint::new(config)?,
            lister: KeyLister::new(aws.dynamodb.clone(), config.table_name.clone()),
            reader: KeyReader::new(aws.dynamodb.clone(), config.table_name.clone()),
            opener: Opener::new(aws.kms.clone(), config, opens),
            developer,
        })
    }

    fn in_clear(&self) -> &'static [Provider] {
        match self.developer {
            Some(_) => Provider::ALL,
            None => OPENS,
        }
    }
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::List => list(deps, &call).await,
        Action::Onboarding => onboarding(deps, &call).await,
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

#[derive(Serialize)]
struct KeysAnswer {
    api_keys: BTreeMap<&'static str, Option<String>>,
    total_providers: usize,
    configured_providers: Vec<&'static str>,
    keys: Vec<Shown>,
}

/// A key's record as a list shows it.
#[derive(Serialize)]
struct Shown {
    provider: &'static str,
    hint: String,
    kid: String,
    version: u64,
    status: &'static str,
    enabled: bool,
    expires_at: Option<String>,
    description: Option<String>,
    created_at: String,
    updated_at: String,
    checked_at: Option<String>,
    last_used_at: Option<String>,
}

impl Shown {
    /// `None` for a provider this version does not know.
    fn of(record: Record) -> Option<Self> {
        Some(Self {
            provider: record.provider()?.name(),
            hint: record.hint,
            kid: record.kid,
            version: record.ver,
            status: record.status.as_str(),
            enabled: record.enabled,
            expires_at: record.expires_at,
            description: record.description,
            created_at: record.created_at,
            updated_at: record.updated_at,
            checked_at: record.checked_at,
            last_used_at: record.last_used_at,
        })
    }
}

/// The person's records: one `Query`.
async fn records(deps: &Deps, call: &Call<Action>) -> Result<Vec<Shown>, Problem> {
    let records = deps.lister.list(&call.user).await?;
    Ok(records.into_iter().filter_map(Shown::of).collect())
}

/// The hint of the key that would be used: the developer's own place first, then the table.
fn hint(deps: &Deps, keys: &[Shown], provider: Provider) -> Option<String> {
    let developer = deps.developer.as_ref().and_then(|dev| dev.find(provider));
    let of_table = || keys.iter().find(|key| key.provider == provider.name());
    developer
        .map(|key| key.hint())
        .or_else(|| of_table().map(|key| key.hint.clone()))
}

async fn list(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let keys = records(deps, call).await?;
    let masked = |provider: &Provider| {
        let mask = hint(deps, &keys, *provider).map(|hint| format!("{MASK}{hint}"));
        (provider.name(), mask)
    };
    let api_keys = Provider::ALL.iter().map(masked).collect();
    answer(api_keys, keys)
}

/// One `Query`, and for each key shown in clear one `GetItem` and one `Decrypt`.
async fn onboarding(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let keys = records(deps, call).await?;
    let mine = UserApiKeys::of(
        &call.user,
        &deps.reader,
        &deps.opener,
        deps.developer.as_ref(),
    );
    let mut api_keys = BTreeMap::new();
    for &provider in deps.in_clear() {
        match mine.get(provider, call.now).await {
            Ok(opened) => {
                api_keys.insert(provider.name(), Some(in_clear(&opened.key)));
            }
            Err(KeyError::Missing(_) | KeyError::Expired(_) | KeyError::Paused(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    answer(api_keys, keys)
}

fn in_clear(key: &ApiKey) -> String {
    // EXPOSE: a public key the browser needs, or the developer's own; it goes into the answer only.
    key.expose().to_owned()
}

fn answer(
    api_keys: BTreeMap<&'static str, Option<String>>,
    mut keys: Vec<Shown>,
) -> Result<Response<Body>, Problem> {
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
