//! Anthropic's messages. Source: <https://docs.anthropic.com/en/api/messages-streaming>.

use serde::Deserialize;
use serde_json::{Value, json};
use user_api_keys::usage::Usage;

use super::{Count, Part, Prompt, Refused, by_status};
use crate::failure::Failure;

/// The API wants a bound.
const MAX_TOKENS: u32 = 4_096;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Event {
    r#type: String,
    /// In `message_start`.
    message: Message,
    /// In `content_block_delta` and `message_delta`.
    delta: Delta,
    /// In `message_delta`, and in an answer that is no stream.
    #[serde(deserialize_with = "super::counts")]
    usage: Option<Tokens>,
    error: Error,
    /// In an answer that is no stream.
    content: Vec<Block>,
    stop_reason: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    #[serde(deserialize_with = "super::counts")]
    usage: Option<Tokens>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Delta {
    text: String,
    stop_reason: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Block {
    text: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tokens {
    input_tokens: Count,
    output_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Error {
    r#type: String,
}

pub(super) fn body(model: &str, prompt: &Prompt) -> Value {
    let mut body = json!({
        "model": model, "stream": true,
        "max_tokens": prompt.max_output_tokens.unwrap_or(MAX_TOKENS),
        "messages": [{"role": "user", "content": prompt.text}],
    });
    if let Some(system) = &prompt.system {
        body["system"] = json!(system);
    }
    if let Some(temperature) = prompt.temperature {
        // Theirs ends at 1.
        body["temperature"] = json!(temperature.min(1.0));
    }
    body
}

pub(super) fn parts(title: &str, data: &str) -> Option<Vec<Part>> {
    let event: Event = serde_json::from_str(data).ok()?;
    let mut parts = Vec::new();
    match event.r#type.as_str() {
        "error" => {
            let failure = match event.error.r#type.as_str() {
                "overloaded_error" | "api_error" => {
                    Failure::unavailable(title, "error in the stream")
                }
                "rate_limit_error" => Failure::too_fast(title, None, "error in the stream"),
                _ => Failure::cut(title, "error in the stream"),
            };
            parts.push(Part::Failed(failure));
        }
        "content_block_delta" => parts.push(Part::Text(event.delta.text)),
        "message" => {
            parts.extend(
                event
                    .content
                    .into_iter()
                    .map(|block| Part::Text(block.text)),
            );
        }
        _ => {}
    }
    if let Some(tokens) = event.usage.or(event.message.usage) {
        parts.push(Part::Usage(Usage {
            prompt_tokens: tokens.input_tokens.0,
            output_tokens: tokens.output_tokens.0,
            total_tokens: 0,
        }));
    }
    match event.stop_reason.or(event.delta.stop_reason).as_deref() {
        None => {}
        Some("end_turn" | "stop_sequence") => parts.push(Part::Finish("stop")),
        Some("max_tokens") => parts.push(Part::Finish("length")),
        Some("refusal") => parts.push(Part::Failed(Failure::blocked(title, "refusal"))),
        Some(_) => parts.push(Part::Finish("other")),
    }
    Some(parts)
}

/// By Anthropic's error types; the message is dropped.
pub(super) fn failure(refused: &Refused<'_>) -> Failure {
    let error: Error = refused.error();
    let title = refused.title;
    match error.r#type.as_str() {
        "authentication_error" => Failure::bad_key(title, refused.cause("authentication_error")),
        "permission_error" => Failure::not_permitted(title, refused.cause("permission_error")),
        "billing_error" => Failure::used_up(title, refused.cause("billing_error")),
        "overloaded_error" => Failure::unavailable(title, refused.cause("overloaded_error")),
        _ => by_status(refused, &refused.cause("")),
    }
}
