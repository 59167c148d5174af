//! What a key is called, and what one looks like: the rule by which keys are kept out of steps.

use crate::provider::Provider;

/// Wherever these stand in a name, written together and in lower case.
const FRAGMENTS: [&str; 12] = [
    "apikey",
    "accesskey",
    "privatekey",
    "secret",
    "token",
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "credential",
    "authorization",
    "bearer",
];
/// Names of providers besides [`Provider`]'s own, as front ends use them.
const ALIASES: [&str; 11] = [
    "google",
    "metaphor",
    "hf",
    "huggingface",
    "openrouter",
    "groq",
    "deepseek",
    "xai",
    "perplexity",
    "together",
    "cohere",
];
/// How keys begin that can be nothing else, and from how many characters on.
const KEYS: [(&str, usize); 10] = [
    ("AQ.", 12),
    ("AIza", 20),
    ("sk-", 20),
    ("sk_", 20),
    ("ck_pub_", 16),
    ("tvly-", 16),
    ("gsk_", 20),
    ("xai-", 20),
    ("pplx-", 20),
    ("hf_", 20),
];

/// Whether a field of this name can hold a key: `api_keys`, `apiKey`, `OPENAI-KEY`, `refreshToken`,
/// `gemini`. `keywords` and `key_topics` cannot.
pub(super) fn names_a_key(name: &str) -> bool {
    let words = words(name);
    let whole = words.concat();
    let is_key = |word: &String| word == "key" || word == "keys";
    let before_key = whole.strip_suffix("keys").or(whole.strip_suffix("key"));
    FRAGMENTS.iter().any(|fragment| whole.contains(fragment))
        || words.last().is_some_and(is_key)
        || is_provider(&whole)
        || before_key.is_some_and(is_provider)
        || (words.iter().any(is_key) && names_a_provider(&words))
}

/// Whether the text as a whole is a key, or sets a variable to one. Most providers' keys look like any
/// other text; only what is unmistakable counts.
pub(super) fn is_a_key(text: &str) -> bool {
    let text = text.trim().trim_start_matches("Bearer ");
    if let Some((name, value)) = text.split_once('=') {
        return names_a_variable(name) && !value.is_empty();
    }
    let begins = |&(start, length): &(&str, usize)| text.starts_with(start) && text.len() >= length;
    KEYS.iter().any(begins) && text.chars().all(is_of_a_key)
}

/// The text with every key in it replaced by asterisks.
pub(super) fn masked(text: &str) -> String {
    let pieces = text.split(|c| !is_of_a_key(c));
    let pieces = pieces.map(|piece| piece.trim_end_matches(['.', '-']));
    let assigned = text.split_whitespace().filter_map(|word| {
        let (name, value) = word.split_once('=')?;
        names_a_variable(name).then_some(value)
    });
    let keys = pieces.filter(|piece| is_a_key(piece)).chain(assigned);
    let keys = keys.filter(|key| !key.is_empty());
    keys.fold(text.to_owned(), |text, key| {
        text.replace(key, "************")
    })
}

fn names_a_variable(name: &str) -> bool {
    names_a_key(name) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn is_of_a_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// `OpenAI` and `WaveSpeed` are two words each.
fn names_a_provider(words: &[String]) -> bool {
    let mut runs = (1..=2).flat_map(|length| words.windows(length));
    runs.any(|run| is_provider(&run.concat()))
}

fn is_provider(word: &str) -> bool {
    let is = |provider: &Provider| {
        let facts = provider.facts();
        let title = facts.title.chars().filter(|c| c.is_alphabetic());
        facts.name == word || title.flat_map(char::to_lowercase).eq(word.chars())
    };
    ALIASES.contains(&word) || Provider::ALL.iter().any(is)
}

/// The letters of a name, word by word in lower case: `geminiAPIKey_2` is gemini, api, key.
fn words(name: &str) -> Vec<String> {
    let letters: Vec<char> = name.chars().collect();
    let mut words = vec![String::new()];
    for (n, &letter) in letters.iter().enumerate() {
        let before = n.checked_sub(1).map(|before| letters[before]);
        let next_is_small = letters.get(n + 1).is_some_and(|next| next.is_lowercase());
        let begins = letter.is_uppercase()
            && before.is_some_and(|c| c.is_lowercase() || (c.is_uppercase() && next_is_small));
        if begins || !letter.is_alphabetic() {
            words.push(String::new());
        }
        if let (true, Some(word)) = (letter.is_alphabetic(), words.last_mut()) {
            word.extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_keys_name_is_one() {
        for name in [
            "api_key",
            "api_keys",
            "apiKey",
            "apiKeys",
            "APIKey",
            "API_KEYS",
            "apikeys",
            "api-key",
            "API Key",
            "api.key",
            "x-api-key",
            "gemini_api_key",
            "userApiKeyId",
            "key",
            "keys",
            "Keys",
            "gemini_key",
            "geminiKey",
            "GEMINIKEY",
            "exaKeys",
            "keyForOpenAI",
            "openai_key_2",
            "accessKeyId",
            "secret",
            "clientSecret",
            "SECRETS",
            "token",
            "tokens",
            "refreshToken",
            "HF_TOKEN",
            "oauth2token",
            "password",
            "user-password",
            "credentials",
            "Authorization",
            "google",
            "HF",
            "metaphor",
            "xAI",
            "ap\u{200b}i_key",
            "API\u{212a}EY",
            " api_key ",
        ] {
            assert!(names_a_key(name), "{name}");
        }
        for facts in Provider::ALL.iter().map(|provider| provider.facts()) {
            let camel = facts.frontend_env.unwrap_or(facts.env);
            for name in [
                facts.name,
                facts.title,
                facts.env,
                camel,
                &facts.name.to_uppercase(),
            ] {
                assert!(names_a_key(name), "{name}");
            }
        }
    }

    #[test]
    fn a_word_with_key_in_it_is_kept() {
        for name in [
            "",
            "keywords",
            "key_topics",
            "keyPhrases",
            "primary_keyword",
            "example_keywords",
            "monkey",
            "hotkey",
            "keyboard",
            "website",
            "research_preferences",
            "competitors",
            "persona",
            "google_analytics",
            "hexagon",
            "author",
            "authors",
            "pass",
            "provider",
            "model",
            "\u{1f511}",
            "123",
            "_",
        ] {
            assert!(!names_a_key(name), "{name}");
        }
    }

    #[test]
    fn only_an_unmistakable_text_is_a_key() {
        for text in [
            "AQ.super-secret",
            " AQ.Ab8RN6IzC0ffee ",
            "AIzaSyD-0123456789abcdefghij",
            "sk-ant-a-secret-0001-x",
            "sk-proj-0123456789abcdef",
            "ck_pub_fedcba9876543210",
            "Bearer sk-proj-0123456789abcdef",
            "GEMINI_API_KEY=anything",
            "token=x",
        ] {
            assert!(is_a_key(text), "{text}");
        }
        for text in [
            "",
            "AQ.",
            "sk-SK",
            "sk-learn",
            "AIza",
            "a site for AIzaSyD-0123456789abcdefghij",
            "https://a.test/?token=x",
            "=",
            "TOKEN=",
            "tone=formal",
            "AQ. and so on and on",
            "Our sk-proj-0123456789abcdef",
        ] {
            assert!(!is_a_key(text), "{text}");
        }
    }

    #[test]
    fn a_key_in_a_sentence_is_masked_and_the_rest_of_it_stays() {
        for (text, shown) in [
            ("AQ.super-secret", "************"),
            (
                "\"AQ.super-secret\" is wrong.",
                "\"************\" is wrong.",
            ),
            (
                "Gemini refuses AQ.super-secret.",
                "Gemini refuses ************.",
            ),
            (
                "set GEMINI_API_KEY=x y",
                "set GEMINI_API_KEY=************ y",
            ),
            ("API key: required", "API key: required"),
            ("a  b", "a  b"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }
}
