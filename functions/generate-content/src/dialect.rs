//! What providers say and how they are asked, one family of APIs each.
//!
//! A dialect turns a prompt into a request, an event into parts, and a failure into one of ours. It
//! does no calls.

#![deny(
    clippy::arithmetic_side_effects,
    reason = "what a provider counts can be any number"
)]

mod chat;
mod gemini;
mod messages;

use lambda_http::http::{HeaderMap, StatusCode};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use user_api_keys::{
    provider::Dialect,
    usage::{TOKENS_MAX, Usage},
};

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

/// Tokens, as far as a provider can be believed: at most [`TOKENS_MAX`], and 0 where it sends no number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count(u64);

impl Count {
    fn and(self, other: Self) -> u64 {
        self.0.saturating_add(other.0).min(TOKENS_MAX)
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(sent: D) -> Result<Self, D::Error> {
        // As text: a number beyond a float's would fail the whole event, and Google's JSON may quote numbers.
        let text = Box::<RawValue>::deserialize(sent)?;
        let text = text.get().trim_matches('"');
        let is_number = text.starts_with(|first: char| first.is_ascii_digit());
        let number = is_number.then(|| text.parse::<f64>().ok()).flatten();
        Ok(Self(number.map_or(0, |n| n.min(TOKENS_MAX as f64) as u64)))
    }
}

/// All counts of an answer, or none where they have another shape: the text beside them counts, too.
fn counts<'de, T: DeserializeOwned, D: Deserializer<'de>>(sent: D) -> Result<Option<T>, D::Error> {
    let text = Box::<RawValue>::deserialize(sent)?;
    Ok(serde_json::from_str(text.get()).ok().flatten())
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

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};
    use serde_json::json;

    use super::*;

    const CHAT: Dialect = Dialect::Chat {
        max_tokens: "max_tokens",
        asks_for_usage: true,
    };

    /// An event with text and with `counts` in the place of every count, and the same with `counts` for all.
    fn events(dialect: Dialect, counts: &str) -> [String; 2] {
        let (start, names, around): (_, &[&str], _) = match dialect {
            Dialect::Gemini => (
                json!({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}]}),
                &[
                    "promptTokenCount",
                    "candidatesTokenCount",
                    "thoughtsTokenCount",
                    "totalTokenCount",
                ],
                "usageMetadata",
            ),
            Dialect::Chat { .. } => (
                json!({"choices": [{"delta": {"content": "Hi"}}]}),
                &["prompt_tokens", "completion_tokens", "total_tokens"],
                "usage",
            ),
            Dialect::Messages => (
                json!({"type": "content_block_delta", "delta": {"text": "Hi"}}),
                &["input_tokens", "output_tokens"],
                "usage",
            ),
        };
        let start = start.to_string();
        let start = start.strip_suffix('}').unwrap();
        let fields: Vec<_> = names
            .iter()
            .map(|name| format!("\"{name}\":{counts}"))
            .collect();
        let fields = fields.join(",");
        [
            format!("{start},\"{around}\":{{{fields}}}}}"),
            format!("{start},\"{around}\":{counts}}}"),
        ]
    }

    fn text_and_usage(dialect: Dialect, event: &str) -> (String, Usage) {
        let (mut text, mut usage) = (String::new(), Usage::default());
        for part in parts(dialect, "Provider", event).unwrap_or_default() {
            match part {
                Part::Text(piece) => text.push_str(&piece),
                Part::Usage(counted) => usage = counted,
                Part::Finish(_) | Part::Failed(_) => {}
            }
        }
        (text, usage)
    }

    fn count(sent: &str) -> u64 {
        serde_json::from_str::<Count>(sent).unwrap().0
    }

    #[test]
    fn a_count_is_a_whole_number_up_to_the_most() {
        for (sent, counted) in [
            ("0", 0),
            ("7", 7),
            ("7.0", 7),
            ("7.9", 7),
            ("1e3", 1_000),
            ("\"12\"", 12),
            ("1000000001", TOKENS_MAX),
            ("9223372036854775807", TOKENS_MAX),
            ("18446744073709551615", TOKENS_MAX),
            ("340282366920938463463374607431768211456", TOKENS_MAX),
            ("1e400", TOKENS_MAX),
            ("-1", 0),
            ("-9223372036854775808", 0),
            ("-1e400", 0),
            ("null", 0),
            ("true", 0),
            ("\"\"", 0),
            ("\"inf\"", 0),
            ("\"NaN\"", 0),
            ("\"many\"", 0),
            ("[1]", 0),
            ("{\"a\":1}", 0),
        ] {
            assert_eq!(count(sent), counted, "{sent}");
        }
    }

    fn any_count() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<u128>().prop_map(|n| n.to_string()),
            any::<i128>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| format!("\"{n}\"")),
            any::<f64>().prop_map(|n| json!(n).to_string()),
            any::<String>().prop_map(|text| json!(text).to_string()),
            select(
                &[
                    "null",
                    "true",
                    "[]",
                    "{}",
                    "[null]",
                    "1e999",
                    "-1e999",
                    "0.1e1",
                    "{\"a\":[1]}"
                ][..]
            )
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_counted_the_text_is_read_and_every_count_is_within_bounds(counts in any_count()) {
            for dialect in [Dialect::Gemini, CHAT, Dialect::Messages] {
                for event in events(dialect, &counts) {
                    let (text, usage) = text_and_usage(dialect, &event);
                    prop_assert_eq!(text, "Hi", "{}", event);
                    for count in [usage.prompt_tokens, usage.output_tokens, usage.total_tokens] {
                        prop_assert!(count <= TOKENS_MAX, "{}", event);
                    }
                }
            }
        }
    }
}
