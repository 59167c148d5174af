//! All handlers behind one listener, as the gateway would put them behind one address.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{Router, extract::State};
use embedded::connections::BODY;
use lambda_http::{
    Body, Request, Response,
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
};
use serde::Serialize;
use tokio::time::timeout;
use user_api_keys::{
    aws::Aws,
    config::Config,
    endpoint::{Endpoint, Route, SetupError, find, guard, is_plain_json, json, path},
    events::{AnyBody, in_one_piece},
    mode::Mode,
    origin::Origins,
    problem::{Code, Problem},
};

use crate::{
    page::Page,
    server::{self, Callers},
};

/// No route takes more than this; each has its own, smaller limit.
const BODY_MAX_BYTES: usize = 512 * 1024;

const TOO_SLOW: &str = "The request's body did not arrive within 10 seconds; send it again.";

/// Where Lambda's invoke API has a function: between these two, its name.
const INVOKE: (&str, &str) = ("/2015-03-31/functions/", "/invocations");

/// Which function answers.
#[derive(Debug, Clone, Copy)]
pub enum Function {
    /// save-keys.
    Save,
    /// fetch-keys.
    Fetch,
    /// generate-content.
    Generate,
    /// onboarding.
    Onboarding,
}

/// The functions, made from one configuration.
pub struct App {
    routes: Vec<Route<Function>>,
    callers: Callers,
    endpoint: Endpoint,
    origins: Origins,
    page: Page,
    save: save_keys::Deps,
    fetch: fetch_keys::Deps,
    generate: Arc<generate_content::Deps>,
    onboarding: onboarding::Deps,
    open: open_keys::Deps,
    rotate: rotate_keys::Deps,
    check: check_keys::Deps,
}

/// Every HTTP route, with the function it belongs to.
#[must_use]
pub fn routes() -> Vec<Route<Function>> {
    routes_of(save_keys::ROUTES, Function::Save)
        .chain(routes_of(fetch_keys::ROUTES, Function::Fetch))
        .chain(routes_of(generate_content::ROUTES, Function::Generate))
        .chain(routes_of(onboarding::ROUTES, Function::Onboarding))
        .collect()
}

fn routes_of<A>(of: &[Route<A>], function: Function) -> impl Iterator<Item = Route<Function>> {
    of.iter().map(move |route| Route {
        method: route.method.clone(),
        path: route.path,
        action: function,
        class: route.class,
        effect: route.effect,
    })
}

impl App {
    /// Gives each function what its own `main` would.
    ///
    /// # Errors
    /// [`SetupError`]
    pub fn new(config: &Config, aws: &Aws) -> Result<Self, SetupError> {
        Ok(Self {
            routes: routes(),
            callers: match config.mode {
                Mode::Local => Callers::ThisUser,
                // A token says who calls.
                Mode::Production => Callers::Anybody,
            },
            endpoint: Endpoint::new(config, aws, "local")?,
            origins: Origins::new(config),
            page: Page::new(config),
            save: save_keys::Deps::new(config, aws)?,
            fetch: fetch_keys::Deps::new(config, aws)?,
            generate: generate_content::Deps::new(config, aws)?,
            onboarding: onboarding::Deps::new(config, aws)?,
            open: open_keys::Deps::new(config, aws)?,
            rotate: rotate_keys::Deps::new(config, aws),
            check: check_keys::Deps::new(config, aws)?,
        })
    }

    /// Answers one request with the function it belongs to.
    pub async fn answer(&self, request: Request) -> Response<AnyBody> {
        let found = find(
            &self.routes,
            request.method(),
            path(request.uri(), &request),
        );
        let whole = match found.map(|(route, _)| route.action) {
            Ok(Function::Generate) => {
                return generate_content::handle(&self.generate, request).await;
            }
            Ok(Function::Save) => save_keys::handle(&self.save, request).await,
            Ok(Function::Fetch) => fetch_keys::handle(&self.fetch, request).await,
            Ok(Function::Onboarding) => onboarding::handle(&self.onboarding, request).await,
            Err(_) => self.answer_elsewhere(request).await,
        };
        in_one_piece(whole)
    }

    /// What is no function's route: the page, open-keys, and everything that is not there.
    async fn answer_elsewhere(&self, request: Request) -> Response<Body> {
        let path = path(request.uri(), &request);
        if request.method() == Method::GET
            && let Some(page) = self.page.at(path)
        {
            return match self.origins.admit(request.headers()) {
                Ok(()) => page,
                Err(problem) => problem.response("-"),
            };
        }
        let invoked = path
            .strip_prefix(INVOKE.0)
            .and_then(|rest| rest.strip_suffix(INVOKE.1));
        if let (&Method::POST, Some(function)) = (request.method(), invoked)
            && let Some(answer) = self.invoke(function, &request).await
        {
            return answer;
        }
        // The endpoint fails, or answers a browser's OPTIONS, before it acts.
        let act = async |_| Err(Problem::not_found());
        self.endpoint.answer(&self.routes, request, act).await
    }

    /// A function that is no HTTP, as Lambda's own invoke API answers: a failure is 200 with a header.
    /// IAM is not there to keep web pages out, so whatever a browser sends is refused.
    async fn invoke(&self, function: &str, request: &Request) -> Option<Response<Body>> {
        let headers = request.headers();
        if Origins::from_a_browser(headers) || self.origins.admit(headers).is_err() {
            let detail = "This function is invoked with an AWS SDK, never by a web page.";
            return Some(Problem::new(Code::Forbidden, detail).response("-"));
        }
        if !is_plain_json(headers) && !from_an_aws_sdk(headers) {
            return Some(Problem::not_json().response("-"));
        }
        let event = serde_json::from_slice(request.body().as_ref()).unwrap_or_default();
        let answer = match function {
            open_keys::NAME => invoked(open_keys::handle(&self.open, None, event).await),
            rotate_keys::NAME => invoked(rotate_keys::handle(&self.rotate, None, event).await),
            check_keys::NAME => invoked(check_keys::handle(&self.check, None, event).await),
            _ => return None,
        };
        Some(answer)
    }

    /// Who may connect, unless somebody else is let in.
    #[must_use]
    pub fn callers(&self) -> Callers {
        self.callers
    }

    /// The functions as one service.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new().fallback(relay).with_state(self)
    }

    /// Serves on a free loopback port for as long as the runtime lives.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn spawn(self: Arc<Self>) -> std::io::Result<SocketAddr> {
        let callers = self.callers;
        server::spawn((Ipv4Addr::LOCALHOST, 0).into(), callers, self.router()).await
    }
}

/// AWS SDKs sign an invocation and call its payload bytes, or nothing. A web page cannot sign: a browser
/// asks first before it sends this header, and is refused.
fn from_an_aws_sdk(headers: &HeaderMap) -> bool {
    let starts = |name: HeaderName, with: &str| {
        let value = headers.get(name).map(HeaderValue::as_bytes);
        value.map(|value| value.starts_with(with.as_bytes()))
    };
    starts(AUTHORIZATION, "AWS4-HMAC-SHA256 ") == Some(true)
        && starts(CONTENT_TYPE, "application/octet-stream") != Some(false)
}

fn invoked<T: Serialize>(answer: Result<T, Problem>) -> Response<Body> {
    match answer {
        Ok(answer) => json(&answer).unwrap_or_else(|problem| problem.response("-")),
        Err(problem) => {
            let (kind, message) = (problem.code().as_str(), problem.detail());
            let body = serde_json::json!({"errorType": kind, "errorMessage": message});
            let mut response = Response::new(Body::from(body.to_string()));
            let unhandled = HeaderValue::from_static("Unhandled");
            response
                .headers_mut()
                .insert("x-amz-function-error", unhandled);
            response
        }
    }
}

/// Between the server's body type and Lambda's.
async fn relay(State(app): State<Arc<App>>, request: axum::extract::Request) -> Response<AnyBody> {
    let (parts, body) = request.into_parts();
    let mut response = match timeout(BODY, axum::body::to_bytes(body, BODY_MAX_BYTES)).await {
        Ok(Ok(bytes)) => {
            let body = Body::from(bytes.to_vec());
            app.answer(Request::from_parts(parts, body)).await
        }
        Ok(Err(_)) => in_one_piece(Problem::too_large(BODY_MAX_BYTES).response("-")),
        Err(_) => in_one_piece(Problem::invalid_request(TOO_SLOW).response("-")),
    };
    guard(response.headers_mut());
    response
}
