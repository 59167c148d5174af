//! Asks a provider whether a key works, with a call that costs nothing.
//!
//! Three outcomes: valid, invalid, unknown. Unknown is everything but a clear word about the key: a
//! provider that is down, slow, over quota or odd says nothing about it. What a provider says is
//! looked at here and goes no further: it can repeat the key.

use std::time::Duration;

use crate::{
    api_key::ApiKey,
    config::{Config, base_url},
    https::{Answer, Https, HttpsError, answer, with_key},
    provider::{FreeCheck, Provider},
};

/// For the whole of it, so that a save does not wait longer for a provider that is down.
const BUDGET: Duration = Duration::from_secs(3);
const ANSWER_MAX_BYTES: usize = 1024 * 1024;

/// What a provider says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It works.
    Valid,
    /// The provider refuses it.
    Invalid,
    /// Nobody can say.
    Unknown,
}

/// Asks providers.
#[derive(Debug)]
pub struct Checker {
    https: Https,
    base_urls: Vec<(Provider, String)>,
}

impl Checker {
    /// Asks where `config` says the providers are.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(config: &Config) -> Result<Self, HttpsError> {
        Ok(Self {
            https: Https::new()?,
            base_urls: config.base_urls.clone(),
        })
    }

    /// One `GET`, the provider's own `check`.
    pub async fn check(&self, provider: Provider, check: &FreeCheck, key: &ApiKey) -> Verdict {
        let url = format!("{}{}", base_url(&self.base_urls, provider), check.path);
        let asked = async {
            let request = self.https.get(&url).timeout(BUDGET);
            answer(with_key(request, &check.key, key)?, ANSWER_MAX_BYTES).await
        };
        let heard = asked.await;
        heard.map_or(Verdict::Unknown, |answer| verdict(check, &answer))
    }
}

fn verdict(check: &FreeCheck, answer: &Answer) -> Verdict {
    let status = answer.status.as_u16();
    let says = |word: &str| {
        let mut places = answer.body.windows(word.len().max(1));
        word.is_empty() || places.any(|place| place == word.as_bytes())
    };
    let refused = |(code, word): &(u16, &str)| *code == status && says(word);
    match status {
        200..=299 => Verdict::Valid,
        _ if check.refusals.iter().any(refused) => Verdict::Invalid,
        _ => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use lambda_http::http::StatusCode;

    use super::*;

    fn says(provider: &str, status: u16, body: &str) -> Verdict {
        let provider: Provider = provider.parse().unwrap();
        let answer = Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body: body.as_bytes().to_vec(),
        };
        verdict(provider.facts().check.as_ref().unwrap(), &answer)
    }

    #[test]
    fn only_a_clear_word_about_the_key_makes_it_invalid() {
        use Verdict::{Invalid, Unknown, Valid};
        let bad_gemini = r#"{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}"#;
        let bad_openai = r#"{"error":{"code":"invalid_api_key"}}"#;
        let restricted = r#"{"error":{"message":"Missing scopes: api.model.read","code":null}}"#;
        for (provider, status, body, expected) in [
            ("gemini", 200, "{}", Valid),
            ("gemini", 400, bad_gemini, Invalid),
            ("gemini", 400, "{}", Unknown),
            ("gemini", 403, "{}", Invalid),
            ("gemini", 429, bad_gemini, Unknown),
            ("openai", 401, bad_openai, Invalid),
            ("openai", 401, restricted, Unknown),
            ("openai", 403, bad_openai, Unknown),
            ("openai", 429, "{}", Unknown),
            ("anthropic", 401, "", Invalid),
            ("anthropic", 529, "", Unknown),
            ("mistral", 401, "", Invalid),
            ("tavily", 401, "", Invalid),
            ("tavily", 432, "", Unknown),
            ("firecrawl", 401, "", Invalid),
            ("firecrawl", 402, "", Unknown),
            ("firecrawl", 302, "", Unknown),
            ("firecrawl", 404, "", Unknown),
            ("firecrawl", 500, "401", Unknown),
        ] {
            assert_eq!(
                says(provider, status, body),
                expected,
                "{provider} {status} {body}"
            );
        }
    }
}
