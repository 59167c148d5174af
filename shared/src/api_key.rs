//! The secret itself: a provider key that cannot be printed, cloned, compared or serialised.
//!
//! Owns what can and cannot be a key; must not know whose it is or where it is kept.

use secrecy::{ExposeSecret, SecretString};

use crate::provider::Provider;

/// Longest key we keep, in bytes; KMS `Encrypt` takes at most 4,096.
pub const MAX_BYTES: usize = 1_024;
/// A hint is shown only for keys at least this long, so that it is never most of the key.
const HINT_MIN_CHARS: usize = 16;
const HINT_CHARS: usize = 4;

/// A provider key in the clear; wiped on drop (best effort).
pub struct ApiKey(SecretString);

/// Why a text can never be a provider key. Never holds the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum InvalidApiKey {
    /// Nothing at all.
    #[error("the key is empty; paste the key the provider gave you")]
    Empty,
    /// More than [`MAX_BYTES`].
    #[error("the key is longer than 1,024 bytes; paste only the key")]
    TooLong,
    /// A space inside or around it.
    #[error("the key contains a space; paste it without spaces")]
    Space,
    /// A line break or another control character.
    #[error("the key contains a line break or another control character; paste it on one line")]
    ControlCharacter,
    /// Anything beyond ASCII.
    #[error("the key contains a character that is not ASCII; copy it again from the provider")]
    NonAscii,
    /// The masked form a list returned.
    #[error("this is the masked form of a key; paste the whole key to replace it")]
    Mask,
    /// Text from a template, such as `your_api_key`.
    #[error("this is a placeholder; paste your own key")]
    Placeholder,
    /// A key that browsers would be given and that is not a public one.
    #[error(
        "this key is handed to browsers, so only a public one is taken, which begins with {0}; paste \
         that, and replace at its provider what you pasted if it is a secret"
    )]
    NotPublic(&'static str),
}

impl ApiKey {
    /// Takes a text that could be a key. Checks no prefix: providers change theirs.
    ///
    /// # Errors
    /// [`InvalidApiKey`] names the rule that was broken.
    pub fn parse(text: SecretString) -> Result<Self, InvalidApiKey> {
        // EXPOSE: to look for characters that no key has; nothing is kept.
        match rule_broken_by(text.expose_secret()) {
            Some(rule) => Err(rule),
            None => Ok(Self(text)),
        }
    }

    /// Takes a text that could be a key of `provider`: for one that browsers are given, only a public
    /// key.
    ///
    /// # Errors
    /// [`InvalidApiKey`] names the rule that was broken.
    pub fn of(provider: Provider, text: SecretString) -> Result<Self, InvalidApiKey> {
        let key = Self::parse(text)?;
        match provider.facts().public_prefix {
            Some(prefix) if !key.is_public(provider) => Err(InvalidApiKey::NotPublic(prefix)),
            _ => Ok(key),
        }
    }

    /// Whether browsers may be given this key of `provider`.
    #[must_use]
    pub fn is_public(&self, provider: Provider) -> bool {
        let prefix = provider.facts().public_prefix;
        // EXPOSE: to look at how it begins; nothing is kept.
        let rest = prefix.and_then(|prefix| self.expose().strip_prefix(prefix));
        rest.is_some_and(|rest| !rest.is_empty())
    }

    /// The bytes. Every caller says why in an `// EXPOSE:` comment.
    #[must_use]
    pub fn expose(&self) -> &str {
        // EXPOSE: the one door; callers account for their own use.
        self.0.expose_secret()
    }

    /// Last four characters when the key is at least 16 long; nothing otherwise.
    #[must_use]
    pub fn hint(&self) -> String {
        // EXPOSE: for four characters that tell a person which key this is.
        let key = self.expose();
        match key.len() >= HINT_MIN_CHARS {
            true => key[key.len() - HINT_CHARS..].to_owned(),
            false => String::new(),
        }
    }
}

fn rule_broken_by(text: &str) -> Option<InvalidApiKey> {
    if text.is_empty() {
        return Some(InvalidApiKey::Empty);
    }
    if text.len() > MAX_BYTES {
        return Some(InvalidApiKey::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Some(InvalidApiKey::ControlCharacter);
    }
    if text.contains(' ') {
        return Some(InvalidApiKey::Space);
    }
    if text.starts_with("***")
        || text.starts_with("\u{2022}\u{2022}")
        || text.bytes().all(|b| b == b'*')
    {
        return Some(InvalidApiKey::Mask);
    }
    if !text.is_ascii() {
        return Some(InvalidApiKey::NonAscii);
    }
    is_placeholder(text).then_some(InvalidApiKey::Placeholder)
}

/// Texts found in `.env` templates and copied by mistake.
fn is_placeholder(text: &str) -> bool {
    let lower = text.to_ascii_lowercase().replace('-', "_");
    let inner = lower.trim_matches(|c| matches!(c, '<' | '>' | '{' | '}' | '[' | ']' | '"' | '\''));
    inner != lower && inner.contains("key")
        || (inner.starts_with("your_") && inner.contains("key"))
        || matches!(
            inner,
            "changeme"
                | "change_me"
                | "xxx"
                | "api_key"
                | "apikey"
                | "todo"
                | "none"
                | "null"
                | "undefined"
                | "placeholder"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ApiKey, InvalidApiKey> {
        ApiKey::parse(SecretString::from(text))
    }

    static_assertions::assert_not_impl_any!(
        ApiKey: std::fmt::Debug, std::fmt::Display, Clone, serde::Serialize, PartialEq, AsRef<str>
    );

    #[test]
    fn what_can_never_be_a_key_is_refused_by_rule() {
        let long = "k".repeat(MAX_BYTES + 1);
        for (text, rule) in [
            ("", InvalidApiKey::Empty),
            (long.as_str(), InvalidApiKey::TooLong),
            ("AIza one", InvalidApiKey::Space),
            (" AIzaone", InvalidApiKey::Space),
            ("AIza\none", InvalidApiKey::ControlCharacter),
            ("AIza\0one", InvalidApiKey::ControlCharacter),
            ("AIza\u{7f}one", InvalidApiKey::ControlCharacter),
            ("AIzа-cyrillic", InvalidApiKey::NonAscii),
            ("AIza\u{200b}one", InvalidApiKey::NonAscii),
            ("************abcd", InvalidApiKey::Mask),
            ("\u{2022}\u{2022}\u{2022}\u{2022}abcd", InvalidApiKey::Mask),
            ("your_api_key", InvalidApiKey::Placeholder),
            ("your-gemini-api-key-here", InvalidApiKey::Placeholder),
            ("<GEMINI_API_KEY>", InvalidApiKey::Placeholder),
        ] {
            assert_eq!(parse(text).err(), Some(rule), "{text:?}");
        }
    }

    #[test]
    fn no_prefix_is_required_and_the_longest_key_is_accepted() {
        for text in ["AIzaSyA-1", "AQ.Ab8RN6", "ck_pub_0123", "sk-proj-x", "x"] {
            assert!(parse(text).is_ok(), "{text}");
        }
        assert!(parse(&"k".repeat(MAX_BYTES)).is_ok());
    }

    #[test]
    fn only_a_public_key_is_taken_where_browsers_are_given_it() {
        let of = |provider, text: &str| ApiKey::of(provider, SecretString::from(text)).err();
        let not_public = Some(InvalidApiKey::NotPublic("ck_pub_"));
        for text in [
            "sk-ant-a-secret-key-by-mistake-0001",
            "ck_priv_0123456789abcdef",
            "ck_0123456789abcdef",
            "CK_PUB_0123456789abcdef",
            "ck_pub_",
            "ck_pub0123456789abcdef",
            "xck_pub_0123456789abcdef",
            "\"ck_pub_0123456789abcdef\"",
        ] {
            assert_eq!(of(Provider::CopilotKit, text), not_public, "{text}");
        }
        assert_eq!(of(Provider::CopilotKit, "ck_pub_0"), None);
        assert_eq!(
            of(Provider::CopilotKit, "ck_pub_ 0"),
            Some(InvalidApiKey::Space)
        );
        for &provider in Provider::ALL.iter().filter(|p| !p.browser_safe()) {
            assert_eq!(of(provider, "ck_priv_0"), None);
            let key = parse("ck_pub_0").ok();
            assert_eq!(key.map(|key| key.is_public(provider)), Some(false));
        }
    }

    #[test]
    fn a_hint_is_the_last_four_of_a_long_key_and_nothing_of_a_short_one() {
        assert_eq!(
            parse("0123456789abcdef").map(|k| k.hint()),
            Ok("cdef".to_owned())
        );
        assert_eq!(
            parse("0123456789abcde").map(|k| k.hint()),
            Ok(String::new())
        );
    }
}
