//! Text from a provider, paid by the caller's own key and by no other.

mod dialect;
mod exa;
mod failure;
mod generate;
mod request;
mod writer;

use std::sync::Arc;

use futures_util::FutureExt as _;
use lambda_http::{Body, Request, Response, http::Method};
use user_api_keys::{
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    endpoint::{Call, Effect, Endpoint, Route, SetupError},
    events::{AnyBody, buffered},
    https::Https,
    open_streams::StreamLimiter,
    provider::Provider,
    rate_limit::Class,
    usage::UsageWriter,
    user_api_keys::KeyAccess,
};
use utoipa::OpenApi;

#[cfg(feature = "fuzzing")]
pub use crate::writer::read_answer;
use crate::{exa::Exa, request::Models, writer::Writer};

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

/// Its name on Lambda and in the audit log.
pub const NAME: &str = env!("CARGO_PKG_NAME");

/// Its part of the OpenAPI description.
#[derive(Debug, OpenApi)]
#[openapi(paths(generate::generate), components(schemas(exa::Research)))]
pub struct Api;

/// All this function can reach.
pub struct Deps {
    endpoint: Endpoint,
    access: KeyAccess,
    usage: UsageWriter,
    streams: StreamLimiter,
    developer: Option<DeveloperKeys>,
    models: Models,
    writer: Writer,
    exa: Exa,
}

impl Deps {
    /// Exactly this function's capabilities: it opens keys of those who write, and Exa's.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Arc<Self>, SetupError> {
        let models = Models::new(config);
        let https = Https::new()?;
        let mut opens: Vec<_> = models.writers().collect();
        opens.push(Provider::Exa);
        Ok(Arc::new(Self {
            endpoint: Endpoint::new(config, aws, NAME)?,
            access: KeyAccess::new(config, aws, NAME, &opens),
            usage: UsageWriter::new(aws.dynamodb.clone(), config.table_name.clone()),
            streams: StreamLimiter::new(
                aws.dynamodb.clone(),
                config.table_name.clone(),
                config.streams_per_user,
            ),
            developer: DeveloperKeys::new(config),
            models,
            writer: Writer::new(https.clone(), config),
            exa: Exa::new(https, config),
        }))
    }
}

/// Answers one request, in pieces where it asks for them.
pub async fn handle(deps: &Arc<Deps>, request: Request) -> Response<AnyBody> {
    let act = async |call: Call<Action>| match call.action {
        // Its type is too deep for the compiler to see through.
        Action::Generate => generate::generate(Arc::clone(deps), call).boxed().await,
    };
    deps.endpoint.answer_or_stream(ROUTES, request, act).await
}

/// As [`handle`], for a gateway that cannot pass on pieces.
pub async fn handle_buffered(deps: &Arc<Deps>, request: Request) -> Response<Body> {
    buffered(handle(deps, request).await).await
}
