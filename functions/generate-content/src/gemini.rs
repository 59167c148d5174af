//! Text from Gemini with the person's own key.
//!
//! Source: <https://ai.google.dev/api/generate-content>. The key travels in `x-goog-api-key`, never
//! in the URL. Gemini's own words never leave this room: they can repeat the key.

use std::time::Duration;

use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use user_api_keys::{
    api_key::ApiKey,
    config::Config,
    https::{Answer as HttpsAnswer, Https, HttpsError, answer, secret_header},
    problem::{Code, Problem},
    provider::Provider,
};
use utoipa::ToSchema;

/// The whole answer, since it is buffered.
const ANSWER: Duration = Duration::from_secs(60);
const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;
const RETRY_AFTER_MAX_S: u64 = 3_600;
/// When Gemini names no time.
const RETRY_AFTER_S: u64 = 30;

/// Reaches Gemini.
pub(crate) struct Gemini {
    https: Https,
    base_url: String,
    model: String,
}

/// What is asked of Gemini.
pub(crate) struct Prompt<'a> {
    pub(crate) text: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) system: Option<&'a str>,
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) temperature: Option<f32>,
}

/// What came back.
pub(crate) struct Generated {
    pub(crate) content: String,
    pub(crate) model: String,
    pub(crate) finish_reason: &'static str,
    pub(crate) usage: Usage,
}

/// Tokens, as the provider counted them.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) total_tokens: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    contents: [Content<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Content<'a>>,
    generation_config: GenerationConfig,
}

#[derive(Serialize)]
struct Content<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    parts: [TextPart<'a>; 1],
}

#[derive(Serialize)]
struct TextPart<'a> {
    text: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GenerationConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Answer {
    candidates: Vec<Candidate>,
    usage_metadata: UsageMetadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Candidate {
    content: AnswerContent,
    finish_reason: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AnswerContent {
    parts: Vec<AnswerPart>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AnswerPart {
    text: String,
    /// The model's thinking, which is not part of the answer.
    thought: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct UsageMetadata {
    prompt_token_count: u64,
    candidates_token_count: u64,
    thoughts_token_count: u64,
    total_token_count: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Failure {
    error: FailureBody,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct FailureBody {
    details: Vec<FailureDetail>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct FailureDetail {
    reason: String,
    retry_delay: String,
}

impl Gemini {
    /// One client for the life of the process.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(crate) fn new(config: &Config) -> Result<Self, HttpsError> {
        Ok(Self {
            https: Https::new(ANSWER)?,
            base_url: config.base_url(Provider::Gemini).to_owned(),
            model: config.gemini_model.clone(),
        })
    }

    /// One `generateContent` call, paid by `key`.
    pub(crate) async fn generate(
        &self,
        key: &ApiKey,
        prompt: &Prompt<'_>,
    ) -> Result<Generated, Problem> {
        let model = prompt.model.unwrap_or(&self.model);
        let url = format!("{}/v1beta/models/{model}:generateContent", self.base_url);
        // EXPOSE: the header Gemini reads it from; marked sensitive, so no Debug shows it.
        let credential = secret_header(key.expose()).map_err(Problem::internal)?;
        let request = self.https.post(&url).header("x-goog-api-key", credential);
        let HttpsAnswer { status, body } =
            answer(request.json(&request_of(prompt)), ANSWER_MAX_BYTES)
                .await
                .map_err(unavailable)?;
        if status != StatusCode::OK {
            return Err(failure(
                status,
                &serde_json::from_slice(&body).unwrap_or_default(),
            ));
        }
        let answer = serde_json::from_slice(&body).map_err(|_| unavailable("not its JSON"))?;
        generated(answer, model)
    }
}

fn request_of<'a>(prompt: &Prompt<'a>) -> Request<'a> {
    let content = |role, text| Content {
        role,
        parts: [TextPart { text }],
    };
    Request {
        contents: [content(Some("user"), prompt.text)],
        system_instruction: prompt.system.map(|text| content(None, text)),
        generation_config: GenerationConfig {
            max_output_tokens: prompt.max_output_tokens,
            temperature: prompt.temperature,
        },
    }
}

fn generated(answer: Answer, model: &str) -> Result<Generated, Problem> {
    let usage = answer.usage_metadata;
    let candidate = answer.candidates.into_iter().next().ok_or_else(blocked)?;
    let finish_reason = match candidate.finish_reason.as_str() {
        "STOP" => "stop",
        "MAX_TOKENS" => "length",
        "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE" => {
            return Err(blocked());
        }
        "" => return Err(unavailable("answer without an end")),
        _ => "other",
    };
    let parts = candidate.content.parts.into_iter();
    Ok(Generated {
        content: parts
            .filter(|part| !part.thought)
            .map(|part| part.text)
            .collect(),
        model: model.to_owned(),
        finish_reason,
        usage: Usage {
            prompt_tokens: usage.prompt_token_count,
            output_tokens: usage.candidates_token_count + usage.thoughts_token_count,
            total_tokens: usage.total_token_count,
        },
    })
}

fn blocked() -> Problem {
    let detail = "Gemini refused this prompt or its answer; word it differently.";
    Problem::new(Code::ContentBlocked, detail)
}

fn unavailable(cause: impl std::fmt::Display) -> Problem {
    let detail = "Gemini did not give a usable answer; try again in a moment.";
    Problem::new(Code::ProviderUnavailable, detail).because(cause)
}

/// Sorts Gemini's failures by status and reason; its message is dropped.
fn failure(status: StatusCode, failure: &Failure) -> Problem {
    let details = &failure.error.details;
    let bad_key = details
        .iter()
        .any(|detail| detail.reason == "API_KEY_INVALID");
    match status.as_u16() {
        400 if !bad_key => Problem::invalid_request(
            "Gemini does not accept this request; check model, max_output_tokens and temperature.",
        ),
        400 | 401 | 403 => Problem::new(
            Code::ProviderRejectedKey,
            "Gemini refuses your key; save a new one under API keys.",
        ),
        404 => Problem::invalid_request("Gemini does not know this model; choose another."),
        429 => Problem::new(
            Code::ProviderRateLimited,
            "Your Gemini quota is used up for now; wait, or raise it with Google.",
        )
        .retry_after(
            details
                .iter()
                .find_map(retry_after)
                .unwrap_or(RETRY_AFTER_S),
        ),
        500..=599 => unavailable("failed"),
        _ => unavailable("unexpected status"),
    }
}

/// Whole seconds of `"7.5s"`, rounded up and capped; `None` for anything else.
fn retry_after(detail: &FailureDetail) -> Option<u64> {
    let seconds: f64 = detail.retry_delay.strip_suffix('s')?.parse().ok()?;
    let whole = (0.0..=RETRY_AFTER_MAX_S as f64).contains(&seconds);
    Some(if whole {
        seconds.ceil() as u64
    } else {
        RETRY_AFTER_MAX_S
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(status: u16, body: &str) -> (Code, Problem) {
        let status = StatusCode::from_u16(status).unwrap();
        let problem = failure(status, &serde_json::from_str(body).unwrap());
        (problem.code(), problem)
    }

    #[test]
    fn every_failure_of_gemini_has_a_code_and_none_of_its_words() {
        let bad_key =
            r#"{"error":{"message":"key AIzaSECRET","details":[{"reason":"API_KEY_INVALID"}]}}"#;
        for (status, body, code) in [
            (400, bad_key, Code::ProviderRejectedKey),
            (400, "{}", Code::InvalidRequest),
            (401, "{}", Code::ProviderRejectedKey),
            (
                403,
                r#"{"error":{"message":"AIzaSECRET was leaked"}}"#,
                Code::ProviderRejectedKey,
            ),
            (404, "{}", Code::InvalidRequest),
            (429, "{}", Code::ProviderRateLimited),
            (500, "{}", Code::ProviderUnavailable),
            (503, "{}", Code::ProviderUnavailable),
            (302, "{}", Code::ProviderUnavailable),
        ] {
            let (found, problem) = sorted(status, body);
            assert_eq!(found, code, "{status} {body}");
            assert!(!format!("{problem:?}").contains("AIza"));
        }
    }

    #[test]
    fn a_retry_time_is_rounded_up_and_an_absurd_one_capped() {
        for (delay, seconds) in [
            ("7.2s", Some(8)),
            ("0s", Some(0)),
            ("-3s", Some(3_600)),
            ("1e300s", Some(3_600)),
            ("soon", None),
            ("", None),
        ] {
            let detail = FailureDetail {
                retry_delay: delay.to_owned(),
                ..FailureDetail::default()
            };
            assert_eq!(retry_after(&detail), seconds, "{delay}");
        }
    }

    fn answered(body: &str) -> Result<Generated, Code> {
        generated(serde_json::from_str(body).unwrap(), "m").map_err(|problem| problem.code())
    }

    #[test]
    fn thinking_is_counted_and_not_shown() {
        let body = r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true},
            {"text":"Hello"},{"text":", you"}]},"finishReason":"STOP"}],
            "usageMetadata":{"promptTokenCount":2,"candidatesTokenCount":3,"thoughtsTokenCount":4,"totalTokenCount":9}}"#;
        let generated = answered(body).unwrap();
        assert_eq!(
            (generated.content.as_str(), generated.finish_reason),
            ("Hello, you", "stop")
        );
        assert_eq!(
            (generated.usage.output_tokens, generated.usage.total_tokens),
            (7, 9)
        );
    }

    #[test]
    fn a_blocked_prompt_a_blocked_output_and_a_truncation_are_told_apart() {
        let blocked = r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#;
        assert_eq!(answered(blocked).err(), Some(Code::ContentBlocked));
        let output = r#"{"candidates":[{"finishReason":"SAFETY"}]}"#;
        assert_eq!(answered(output).err(), Some(Code::ContentBlocked));
        let cut = r#"{"candidates":[{"content":{"parts":[{"text":"Hel"}]}}]}"#;
        assert_eq!(answered(cut).err(), Some(Code::ProviderUnavailable));
    }
}
