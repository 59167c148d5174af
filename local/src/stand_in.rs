//! A stand-in for the providers on loopback: answers every prompt in Gemini's place and remembers
//! which key it came with, and says of every provider's key whether it works.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// One call that reached the provider.
#[derive(Clone)]
pub struct Seen {
    /// `x-goog-api-key`.
    pub key: String,
    /// The prompt's text.
    pub prompt: String,
}

/// A running stand-in; it ends with the process.
#[derive(Clone)]
pub struct StandIn {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl StandIn {
    /// Starts on a free loopback port.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let stand_in = Self {
            address: listener.local_addr()?,
            seen: Arc::default(),
        };
        let router = axum::Router::new()
            .route("/v1beta/models/{call}", post(generate))
            .route("/v1beta/models", get(gemini_models))
            .route("/v1/models", get(refuses_bad))
            .route("/usage", get(refuses_bad))
            .route("/v2/team/credit-usage", get(refuses_bad))
            .with_state(stand_in.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Ok(stand_in)
    }

    /// `GEMINI_BASE_URL` for it, and every other provider's.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

/// Gemini's free check of a key.
async fn gemini_models(headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let key = headers.get("x-goog-api-key").and_then(|v| v.to_str().ok());
    match key {
        Some(key) if !key.contains("bad") => (StatusCode::OK, Json(json!({"models": []}))),
        key => refused_by_gemini(key.unwrap_or_default()),
    }
}

/// The other providers' free checks: 401 for a key that says `bad`, in OpenAI's words.
async fn refuses_bad(headers: HeaderMap) -> (StatusCode, Json<Value>) {
    let key = ["authorization", "x-api-key"]
        .iter()
        .find_map(|name| headers.get(*name));
    let key = key.and_then(|value| value.to_str().ok()).unwrap_or("bad");
    match key.contains("bad") {
        false => (StatusCode::OK, Json(json!({"data": []}))),
        true => {
            let error =
                json!({"code": "invalid_api_key", "message": format!("Incorrect key: {key}")});
            (StatusCode::UNAUTHORIZED, Json(json!({ "error": error })))
        }
    }
}

/// As the real one may, this repeats the key.
fn refused_by_gemini(key: &str) -> (StatusCode, Json<Value>) {
    let message = format!("API key not valid: {key}");
    let reason =
        json!({"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"});
    let error =
        json!({"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": [reason]});
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error })))
}

/// Shaped as Gemini's `generateContent`; a key that says `bad` is refused in its way.
async fn generate(
    State(stand_in): State<StandIn>,
    Path(call): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let key = headers.get("x-goog-api-key").and_then(|v| v.to_str().ok());
    let key = key.unwrap_or_default().to_owned();
    let text = &request["contents"][0]["parts"][0]["text"];
    let prompt = text.as_str().unwrap_or_default().to_owned();
    let words = prompt.split_whitespace().count();
    let content = format!("You said: {prompt}");
    let refused = key.is_empty() || key.contains("bad") || !call.ends_with(":generateContent");
    let refusal = refused_by_gemini(&key);
    let mut seen = stand_in.seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.push(Seen { key, prompt });
    if refused {
        return refusal;
    }
    let candidate = json!({
        "content": {"role": "model", "parts": [{"text": content}]}, "finishReason": "STOP", "index": 0,
    });
    let usage = json!({
        "promptTokenCount": words, "candidatesTokenCount": words + 2, "totalTokenCount": 2 * words + 2,
    });
    let answer =
        json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "stand-in"});
    (StatusCode::OK, Json(answer))
}
