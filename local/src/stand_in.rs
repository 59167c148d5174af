//! A stand-in for the providers on this machine: answers every prompt in each one's own form, streamed,
//! and remembers which key it came with; says of every provider's key whether it works; and finds two
//! pages in Exa's place.
//!
//! A key that says `bad` is refused in the provider's way, and every refusal repeats the key, as the
//! real ones may. Of one that says `busy` it does not say whether it works.
//!
//! It is handed keys, so its address cannot be guessed: all of it lies under a path of 122 random bits, and
//! what a browser sends is refused there, too.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    routing::{get, post},
};
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};

use user_api_keys::origin::Origins;

use crate::server::{self, Callers};

/// Between two words.
const WORD: Duration = Duration::from_millis(40);
const HEADERS: [&str; 3] = ["x-goog-api-key", "x-api-key", "authorization"];

/// One call that reached the provider.
#[derive(Clone)]
pub struct Seen {
    /// The key, without `Bearer`.
    pub key: String,
    /// The prompt's text, without what research put before it.
    pub prompt: String,
}

/// A stand-in; it answers wherever its router is served.
#[derive(Clone)]
pub struct StandIn {
    /// Where it is served: on the server's port, or on one of its own.
    pub address: SocketAddr,
    path: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    /// One that is served by somebody else, at `address`.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            path: format!("/stand-in-{}", uuid::Uuid::new_v4().simple()),
            seen: Arc::default(),
        }
    }

    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> std::io::Result<Self> {
        let mut stand_in = Self::at((Ipv4Addr::LOCALHOST, 0).into());
        stand_in.address =
            server::spawn(stand_in.address, Callers::Anybody, stand_in.router()).await?;
        Ok(stand_in)
    }

    /// What it answers, under its path alone.
    pub fn router(&self) -> Router {
        let router = Router::new()
            .route("/v1beta/models/{call}", post(gemini))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/messages", post(messages))
            .route("/search", post(search))
            .route("/v1beta/models", get(works))
            .route("/v1/models", get(works))
            .route("/usage", get(works))
            .route("/v2/team/credit-usage", get(works))
            .layer(from_fn(no_page))
            .with_state(self.clone());
        Router::new().nest(&self.path, router)
    }

    /// The path that all of it lies under.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `GEMINI_BASE_URL` for it, and every other provider's.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}{}", self.address, self.path)
    }

    /// Every prompt so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }

    /// Remembers the call; the words to answer with, or `None` for a bad key.
    fn take(&self, headers: &HeaderMap, text: &Value) -> Option<Vec<String>> {
        let key = key(headers);
        let text = text.as_str().unwrap_or_default();
        let prompt = text.rsplit("</sources>\n\n").next().unwrap_or_default();
        let cites = if prompt.len() < text.len() {
            " [1]"
        } else {
            ""
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(Seen {
            key: key.clone(),
            prompt: prompt.to_owned(),
        });
        if key.is_empty() || key.contains("bad") {
            return None;
        }
        let answer = format!("You said: {prompt}{cites}");
        Some(answer.split_inclusive(' ').map(str::to_owned).collect())
    }
}

async fn no_page(request: Request, next: Next) -> Response<Body> {
    match Origins::from_a_browser(request.headers()) {
        true => answer(StatusCode::FORBIDDEN, &json!({})),
        false => next.run(request).await,
    }
}

fn key(headers: &HeaderMap) -> String {
    let value = HEADERS.iter().find_map(|name| headers.get(*name));
    let value = value.and_then(|value| value.to_str().ok());
    let value = value.unwrap_or_default();
    value.strip_prefix("Bearer ").unwrap_or(value).to_owned()
}

fn answer(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// Google says 400 with a reason, the others 401 in OpenAI's words.
fn refused(headers: &HeaderMap) -> Response<Body> {
    let message = format!("API key not valid: {}", key(headers));
    if headers.contains_key("x-goog-api-key") {
        let reason = json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"});
        let error = json!({"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": [reason]});
        return answer(StatusCode::BAD_REQUEST, &json!({ "error": error }));
    }
    let error =
        json!({"code": "invalid_api_key", "type": "authentication_error", "message": message});
    answer(StatusCode::UNAUTHORIZED, &json!({ "error": error }))
}

/// A free check of a key.
async fn works(headers: HeaderMap) -> Response<Body> {
    match key(&headers) {
        key if key.contains("busy") => answer(StatusCode::SERVICE_UNAVAILABLE, &json!({})),
        key if key.is_empty() || key.contains("bad") => refused(&headers),
        _ => answer(StatusCode::OK, &json!({"models": [], "data": []})),
    }
}

/// Events one by one, a word's time apart.
fn events(events: Vec<String>) -> Response<Body> {
    let first = stream::iter(events.into_iter().enumerate());
    let paced = first.then(|(n, event)| async move {
        if n > 0 {
            tokio::time::sleep(WORD).await;
        }
        Ok::<_, Infallible>(Bytes::from(event))
    });
    let mut response = Response::new(Body::from_stream(paced));
    let events = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, events);
    response
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

async fn gemini(
    State(stand_in): State<StandIn>,
    Path(call): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response<Body> {
    let Some(words) = stand_in.take(&headers, &request["contents"][0]["parts"][0]["text"]) else {
        return refused(&headers);
    };
    if !call.ends_with(":streamGenerateContent") {
        return answer(StatusCode::NOT_FOUND, &json!({"error": {"code": 404}}));
    }
    let last = words.len() - 1;
    let chunk = |(n, word): (usize, &String)| {
        let mut candidate =
            json!({"content": {"role": "model", "parts": [{"text": word}]}, "index": 0});
        if n == last {
            candidate["finishReason"] = json!("STOP");
        }
        let (prompt, output) = (words.len() - 2, n + 1);
        let usage = json!({
            "promptTokenCount": prompt, "candidatesTokenCount": output, "totalTokenCount": prompt + output,
        });
        data(
            &json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"}),
        )
    };
    events(words.iter().enumerate().map(chunk).collect())
}

async fn chat(
    State(stand_in): State<StandIn>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response<Body> {
    let text = request["messages"].as_array().and_then(|all| all.last());
    let Some(words) = stand_in.take(&headers, &text.cloned().unwrap_or_default()["content"]) else {
        return refused(&headers);
    };
    let delta =
        |word: &String| data(&json!({"choices": [{"index": 0, "delta": {"content": word}}]}));
    let mut all: Vec<_> = words.iter().map(delta).collect();
    let (prompt, output) = (words.len() - 2, words.len());
    all.push(data(
        &json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
    ));
    let usage = json!({
        "prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output,
    });
    all.push(data(&json!({"choices": [], "usage": usage})));
    all.push("data: [DONE]\n\n".to_owned());
    events(all)
}

async fn messages(
    State(stand_in): State<StandIn>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response<Body> {
    let Some(words) = stand_in.take(&headers, &request["messages"][0]["content"]) else {
        return refused(&headers);
    };
    let event = |value: Value| {
        let name = value["type"].as_str().unwrap_or_default().to_owned();
        format!("event: {name}\n{}", data(&value))
    };
    let usage = json!({"input_tokens": words.len() - 2, "output_tokens": 1});
    let mut all = vec![
        event(json!({"type": "message_start", "message": {"usage": usage}})),
        event(json!({"type": "ping"})),
    ];
    for word in &words {
        let delta = json!({"type": "text_delta", "text": word});
        all.push(event(
            json!({"type": "content_block_delta", "index": 0, "delta": delta}),
        ));
    }
    let usage = json!({"output_tokens": words.len()});
    let delta = json!({"stop_reason": "end_turn"});
    all.push(event(
        json!({"type": "message_delta", "delta": delta, "usage": usage}),
    ));
    all.push(event(json!({"type": "message_stop"})));
    events(all)
}

async fn search(headers: HeaderMap, Json(request): Json<Value>) -> Response<Body> {
    if key(&headers).contains("bad") {
        return refused(&headers);
    }
    let query = request["query"].as_str().unwrap_or_default();
    let page = |n: usize| {
        json!({
            "title": format!("Page {n} about {query}"), "url": format!("https://page{n}.test/"),
            "publishedDate": "2026-01-31T00:00:00.000Z", "text": format!("What page {n} says."),
        })
    };
    answer(StatusCode::OK, &json!({"results": [page(1), page(2)]}))
}
