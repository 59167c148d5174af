//! Text from a provider, paid by the caller's own key and by no other.

mod gemini;

use lambda_http::{Body, Request, Response, http::Method};
use serde::{Deserialize, Serialize};
use user_api_keys::{
    audit,
    aws::Aws,
    config::{Config, is_model_name},
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, SetupError, json, whole},
    problem::Problem,
    provider::Provider,
    rate_limit::Class,
    user_api_keys::{Credential, KeyAccess, UserApiKeys},
};
use utoipa::{OpenApi, ToSchema};

use crate::gemini::{Gemini, Generated, Prompt, Usage};

const BODY_MAX_BYTES: usize = 256 * 1024;
const PROMPT_MAX_CHARS: usize = 200_000;
const OUTPUT_TOKENS_MAX: u32 = 1_000_000;
const TEMPERATURE_MAX: f32 = 2.0;
/// The only keys this function may open.
const OPENS: &[Provider] = &[Provider::Gemini];

/// What this function does.
#[derive(Debug, Clone, Copy)]
pub enum Action {
    /// One prompt, one text.
    Generate,
}

/// Where it does it.
pub const ROUTES: &[Route<Action>] = &[Route {
    method: Method::POST,
    path: "/api/generate",
    action: Action::Generate,
    class: Class::Generate,
    effect: Effect::ReadsThenActs,
}];

/// Its name on Lambda and in the audit trail.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(generate))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    access: KeyAccess,
    developer: Option<DeveloperKeys>,
    gemini: Gemini,
}

impl Deps {
    /// Exactly this function's capabilities.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, SetupError> {
        Ok(Self {
            endpoint: Endpoint::new(config, aws, NAME)?,
            access: KeyAccess::new(config, aws, NAME, OPENS),
            developer: DeveloperKeys::new(config),
            gemini: Gemini::new(config)?,
        })
    }
}

/// Answers one request.
pub async fn handle(deps: &Deps, request: Request) -> Response<Body> {
    let act = async |call: Call<Action>| match call.action {
        Action::Generate => generate(deps, &call).await,
    };
    deps.endpoint.answer(ROUTES, request, act).await
}

/// What to write.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"prompt": "Say hello", "temperature": 0.5}))]
struct GenerateRequest {
    #[schema(min_length = 1, max_length = 200_000, pattern = "\\S")]
    prompt: String,
    /// `gemini`, also if left out.
    #[schema(pattern = "^gemini$")]
    provider: Option<String>,
    #[schema(pattern = "^[a-z0-9][a-z0-9.-]{0,63}$")]
    model: Option<String>,
    /// How to write it.
    system: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    #[schema(required = false, minimum = 1, maximum = 1_000_000)]
    max_output_tokens: Option<u32>,
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f32>,
}

const SHAPE: &str = "prompt (text of 1 to 200,000 characters), and if you like provider, model, \
                     system (texts), max_output_tokens (1 to 1,000,000) and temperature (0 to 2)";

/// A text and what paid for it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"content": "Hello", "provider": "gemini", "model": "gemini-3.8-flash",
    "finish_reason": "stop", "usage": {"prompt_tokens": 2, "output_tokens": 1, "total_tokens": 3},
    "sources": [], "credential": {"provider": "gemini", "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "hint": "0001"}}))]
struct GenerateAnswer {
    content: String,
    #[schema(value_type = Provider)]
    provider: &'static str,
    model: String,
    /// `stop`, `length` or `other`.
    finish_reason: &'static str,
    usage: Usage,
    #[schema(value_type = Vec<Object>, max_items = 0)]
    sources: [(); 0],
    credential: Credential,
}

/// Write a text, paid by the caller's own key.
///
/// `GetItem` beside the count, then `Decrypt` beside the audit record, then the provider.
#[utoipa::path(
    post,
    path = "/api/generate",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "the whole text", body = GenerateAnswer),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "no_api_key, api_key_expired, api_key_paused"),
        (status = 422, description = "provider_rejected_key, content_blocked"),
        (status = 429, description = "provider_rate_limited"),
        (status = 502, description = "provider_unavailable"),
    )
)]
async fn generate(deps: &Deps, call: &Call<Action>) -> Result<Response<Body>, Problem> {
    let request: GenerateRequest = call.json(BODY_MAX_BYTES, SHAPE)?;
    let provider = request
        .provider
        .as_deref()
        .map_or(Ok(Provider::Gemini), str::parse)?;
    let prompt = checked(&request, provider)?;
    let mine = UserApiKeys::of(&call.user, &deps.access, deps.developer.as_ref());
    let find = async { Ok(mine.find(provider).await?) };
    let (found, ()) = tokio::try_join!(find, call.let_through())?;
    let event = call.event(audit::Action::Open, Some(provider), None);
    let opened = found.open(&event).await?;
    let Generated {
        content,
        model,
        finish_reason,
        usage,
    } = deps.gemini.generate(&opened.key, &prompt).await?;
    json(&GenerateAnswer {
        content,
        provider: provider.name(),
        model,
        finish_reason,
        usage,
        sources: [],
        credential: opened.credential,
    })
}

/// What the shape alone cannot say.
fn checked(request: &GenerateRequest, provider: Provider) -> Result<Prompt<'_>, Problem> {
    if !OPENS.contains(&provider) {
        let detail = "Text comes from gemini only; leave provider out or set it to gemini.";
        return Err(Problem::invalid_request(detail));
    }
    if !request.model.as_deref().is_none_or(is_model_name) {
        let detail = "A model's name has small letters, digits, dots and dashes, at most 64.";
        return Err(Problem::invalid_request(detail));
    }
    let prompt_fits = (1..=PROMPT_MAX_CHARS).contains(&request.prompt.chars().count())
        && !request.prompt.trim().is_empty();
    let warm = |temperature| (0.0..=TEMPERATURE_MAX).contains(&temperature);
    let tokens_fit = |tokens| (1..=OUTPUT_TOKENS_MAX).contains(&tokens);
    if !prompt_fits
        || !request.max_output_tokens.is_none_or(tokens_fit)
        || !request.temperature.is_none_or(warm)
    {
        return Err(Problem::invalid_request(format!("Send {SHAPE}.")));
    }
    Ok(Prompt {
        text: &request.prompt,
        model: request.model.as_deref(),
        system: request.system.as_deref(),
        max_output_tokens: request.max_output_tokens,
        temperature: request.temperature,
    })
}
