//! OpenAI's chat completions, and Mistral's, which are shaped like them.
//! Sources: <https://platform.openai.com/docs/api-reference/chat>,
//! <https://docs.mistral.ai/api/#tag/chat>.

use serde::Deserialize;
use serde_json::{Value, json};
use user_api_keys::usage::Usage;

use super::{Count, Part, Prompt, Refused, by_status};
use crate::failure::Failure;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Answer {
    choices: Vec<Choice>,
    #[serde(deserialize_with = "super::counts")]
    usage: Option<Tokens>,
    error: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Choice {
    delta: Message,
    message: Message,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    content: Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tokens {
    prompt_tokens: Count,
    completion_tokens: Count,
    total_tokens: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Error {
    code: Value,
    r#type: Value,
}

pub(super) fn body(model: &str, prompt: &Prompt, max_tokens: &str, asks_for_usage: bool) -> Value {
    let system = prompt.system.iter();
    let mut messages: Vec<_> = system
        .map(|text| json!({"role": "system", "content": text}))
        .collect();
    messages.push(json!({"role": "user", "content": prompt.text}));
    let mut body = json!({"model": model, "messages": messages, "stream": true});
    if asks_for_usage {
        body["stream_options"] = json!({"include_usage": true});
    }
    if let Some(tokens) = prompt.max_output_tokens {
        body[max_tokens] = json!(tokens);
    }
    if let Some(temperature) = prompt.temperature {
        body["temperature"] = json!(temperature);
    }
    body
}

/// A text, or Mistral's list of chunks of which some are text.
fn text(content: &Value) -> String {
    let chunks = content.as_array().into_iter().flatten();
    let texts = chunks.filter(|chunk| chunk["type"] == "text");
    let joined: String = texts.filter_map(|chunk| chunk["text"].as_str()).collect();
    content.as_str().map_or(joined, str::to_owned)
}

pub(super) fn parts(title: &str, data: &str) -> Option<Vec<Part>> {
    let answer: Answer = serde_json::from_str(data).ok()?;
    let mut parts = Vec::new();
    if answer.error.is_some_and(|error| !error.is_null()) {
        parts.push(Part::Failed(Failure::cut(title, "error in the stream")));
    }
    if let Some(tokens) = answer.usage {
        parts.push(Part::Usage(Usage {
            prompt_tokens: tokens.prompt_tokens.0,
            output_tokens: tokens.completion_tokens.0,
            total_tokens: tokens.total_tokens.0,
        }));
    }
    let Some(choice) = answer.choices.into_iter().next() else {
        return Some(parts);
    };
    for message in [&choice.delta, &choice.message] {
        parts.push(Part::Text(text(&message.content)));
    }
    match choice.finish_reason.as_deref() {
        None => {}
        Some("stop") => parts.push(Part::Finish("stop")),
        Some("length" | "model_length") => parts.push(Part::Finish("length")),
        Some("content_filter") => {
            parts.push(Part::Failed(Failure::blocked(title, "output blocked")));
        }
        Some("error") => parts.push(Part::Failed(Failure::cut(title, "finish reason error"))),
        Some(_) => parts.push(Part::Finish("other")),
    }
    Some(parts)
}

/// By OpenAI's codes; the message is dropped.
pub(super) fn failure(refused: &Refused<'_>) -> Failure {
    let error: Error = refused.error();
    let is = |name: &str| error.code == name || error.r#type == name;
    let title = refused.title;
    match refused.status.as_u16() {
        // OpenAI says 401 also to a good key that lacks a permission, then without a code.
        401 if error.code.is_null() && error.r#type == "invalid_request_error" => {
            Failure::not_permitted(title, refused.cause("no code"))
        }
        // A good key whose account is out of credit.
        429 if is("insufficient_quota") => {
            Failure::used_up(title, refused.cause("insufficient_quota"))
        }
        400 if is("content_policy_violation") || is("content_filter") => {
            Failure::blocked(title, refused.cause("content policy"))
        }
        _ => by_status(refused, &refused.cause("")),
    }
}
