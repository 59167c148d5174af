//! Google's `generateContent`. Source: <https://ai.google.dev/api/generate-content>.

use serde::Deserialize;
use serde_json::{Value, json};
use user_api_keys::usage::Usage;

use super::{Count, Part, Prompt, Refused, by_status};
use crate::failure::Failure;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    candidates: Vec<Candidate>,
    prompt_feedback: PromptFeedback,
    #[serde(deserialize_with = "super::counts")]
    usage_metadata: Option<UsageMetadata>,
    error: Option<Error>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Candidate {
    content: Content,
    finish_reason: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Content {
    parts: Vec<TextPart>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TextPart {
    text: String,
    /// The model's thinking, which is not part of the answer.
    thought: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PromptFeedback {
    block_reason: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct UsageMetadata {
    prompt_token_count: Count,
    candidates_token_count: Count,
    thoughts_token_count: Count,
    total_token_count: Count,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Error {
    code: u16,
    details: Vec<Detail>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Detail {
    reason: String,
    retry_delay: String,
    violations: Vec<Violation>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Violation {
    quota_id: String,
}

pub(super) fn body(prompt: &Prompt) -> Value {
    let mut body = json!({
        "contents": [{"role": "user", "parts": [{"text": prompt.text}]}],
        "generationConfig": {},
    });
    if let Some(system) = &prompt.system {
        body["systemInstruction"] = json!({"parts": [{"text": system}]});
    }
    if let Some(tokens) = prompt.max_output_tokens {
        body["generationConfig"]["maxOutputTokens"] = json!(tokens);
    }
    if let Some(temperature) = prompt.temperature {
        body["generationConfig"]["temperature"] = json!(temperature);
    }
    body
}

pub(super) fn parts(title: &str, data: &str) -> Option<Vec<Part>> {
    let answer: Answer = serde_json::from_str(data).ok()?;
    let mut parts = Vec::new();
    if let Some(usage) = answer.usage_metadata {
        parts.push(Part::Usage(Usage {
            prompt_tokens: usage.prompt_token_count.0,
            output_tokens: usage.candidates_token_count.and(usage.thoughts_token_count),
            total_tokens: usage.total_token_count.0,
        }));
    }
    if let Some(error) = answer.error {
        parts.push(Part::Failed(Failure::cut(
            title,
            format!("error {} in the stream", error.code),
        )));
    }
    let reason = answer.prompt_feedback.block_reason;
    if !reason.is_empty() && reason != "BLOCK_REASON_UNSPECIFIED" {
        parts.push(Part::Failed(Failure::blocked(title, "prompt blocked")));
    }
    let Some(candidate) = answer.candidates.into_iter().next() else {
        return Some(parts);
    };
    let shown = candidate
        .content
        .parts
        .into_iter()
        .filter(|part| !part.thought);
    parts.extend(shown.map(|part| Part::Text(part.text)));
    match candidate.finish_reason.as_str() {
        "" => {}
        "STOP" => parts.push(Part::Finish("stop")),
        "MAX_TOKENS" => parts.push(Part::Finish("length")),
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE" => {
            parts.push(Part::Failed(Failure::blocked(title, "output blocked")));
        }
        _ => parts.push(Part::Finish("other")),
    }
    Some(parts)
}

/// By the reasons Google lists; its message is dropped.
pub(super) fn failure(refused: &Refused<'_>) -> Failure {
    let error: Error = refused.error();
    let has = |reason: &str| error.details.iter().any(|detail| detail.reason == reason);
    let title = refused.title;
    match refused.status.as_u16() {
        400 if has("API_KEY_INVALID") => Failure::bad_key(title, refused.cause("API_KEY_INVALID")),
        403 if has("SERVICE_DISABLED") => {
            Failure::not_permitted(title, refused.cause("SERVICE_DISABLED"))
        }
        // Leaked, suspended, or restricted to other callers.
        403 => Failure::bad_key(title, refused.cause("")),
        429 => {
            let mut violations = error.details.iter().flat_map(|detail| &detail.violations);
            if violations.any(|violation| violation.quota_id.contains("PerDay")) {
                return Failure::used_up(title, refused.cause("per day"));
            }
            let delay = error.details.iter().find_map(|detail| {
                let seconds = detail.retry_delay.strip_suffix('s')?;
                seconds.parse().ok()
            });
            Failure::too_fast(title, delay, refused.cause(""))
        }
        _ => by_status(refused, &refused.cause("")),
    }
}
