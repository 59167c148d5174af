//! What providers say and how they are asked, one family of APIs each.
//!
//! A dialect turns a prompt into a request, an event into parts, and a failure into one of ours. It
//! does no calls.

mod chat;
mod gemini;
mod messages;

use lambda_http::http::{HeaderMap, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use user_api_keys::{provider::Dialect, usage::Usage};

use crate::failure::Failure;

/// What a provider is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) system: Option<String>,
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) temperature: Option<f32>,
}

/// A piece of what a provider answers.
#[derive(Debug)]
pub(crate) enum Part {
    /// Text, in order.
    Text(String),
    /// Tokens so far; fields that are not known yet are 0.
    Usage(Usage),
    /// Why it ended: `stop`, `length` or `other`.
    Finish(&'static str),
    /// It ended with a failure.
    Failed(Failure),
}

/// A failed answer, before anybody has looked at it.
pub(crate) struct Refused<'a> {
    /// For people.
    pub(crate) title: &'a str,
    pub(crate) status: StatusCode,
    pub(crate) headers: &'a HeaderMap,
    /// The provider's own words; they go no further.
    pub(crate) body: &'a [u8],
}

impl Refused<'_> {
    /// What all of them put under `error`, or nothing known.
    fn error<E: DeserializeOwned + Default>(&self) -> E {
        #[derive(Deserialize)]
        struct Body<E> {
            error: E,
        }
        let body = serde_json::from_slice(self.body);
        body.map_or_else(|_| E::default(), |body: Body<E>| body.error)
    }

    fn cause(&self, reason: &str) -> String {
        match reason {
            "" => format!("status {}", self.status.as_u16()),
            reason => format!("status {}, {reason}", self.status.as_u16()),
        }
    }
}

/// Where a streamed answer is asked for.
pub(crate) fn path(dialect: Dialect, model: &str) -> String {
    match dialect {
        Dialect::Gemini => format!("/v1beta/models/{model}:streamGenerateContent?alt=sse"),
        Dialect::Chat { .. } => "/v1/chat/completions".to_owned(),
        Dialect::Messages => "/v1/messages".to_owned(),
    }
}

/// The request's body.
pub(crate) fn body(dialect: Dialect, model: &str, prompt: &Prompt) -> Value {
    match dialect {
        Dialect::Gemini => gemini::body(prompt),
        Dialect::Chat {
            max_tokens,
            asks_for_usage,
        } => chat::body(model, prompt, max_tokens, asks_for_usage),
        Dialect::Messages => messages::body(model, prompt),
    }
}

/// The parts of one event, or of a whole answer; `None` when it makes no sense.
pub(crate) fn parts(dialect: Dialect, title: &str, data: &str) -> Option<Vec<Part>> {
    match dialect {
        Dialect::Gemini => gemini::parts(title, data),
        Dialect::Chat { .. } => chat::parts(title, data),
        Dialect::Messages => messages::parts(title, data),
    }
}

/// A failed answer in our words.
pub(crate) fn failure(dialect: Dialect, refused: &Refused<'_>) -> Failure {
    match dialect {
        Dialect::Gemini => gemini::failure(refused),
        Dialect::Chat { .. } => chat::failure(refused),
        Dialect::Messages => messages::failure(refused),
    }
}

/// What a status alone says, where the body said nothing.
fn by_status(refused: &Refused<'_>, cause: &str) -> Failure {
    let title = refused.title;
    match refused.status.as_u16() {
        400 | 422 => Failure::invalid(
            format!(
                "{title} does not accept this request; check model, max_output_tokens and temperature."
            ),
            cause,
        ),
        401 => Failure::bad_key(title, cause),
        402 => Failure::used_up(title, cause),
        403 => Failure::not_permitted(title, cause),
        404 => Failure::invalid(
            format!("{title} does not know this model; choose another."),
            cause,
        ),
        413 => Failure::invalid(format!("{title} does not take a prompt this long."), cause),
        429 => Failure::too_fast(title, crate::failure::retry_after(refused.headers), cause),
        _ => Failure::unavailable(title, cause),
    }
}
