//! The closed list of providers and everything that is fixed about each of them.
//!
//! A new provider is one more entry in the table below and nothing else.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! providers {
    ($($variant:ident { name: $name:literal, title: $title:literal, env: $env:literal,
        base_url_env: $base_url_env:literal, base_url: $base_url:literal, check: $check:expr,
        writes: $writes:expr, get_key_at: $url:literal, required: $required:literal,
        frontend_env: $frontend_env:expr, public_prefix: $public_prefix:expr })*) => {
        /// A provider whose keys we keep.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Provider {
            $(#[doc = $title] $variant,)*
        }

        impl Provider {
            /// Every provider, required ones first.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// What is fixed about this provider.
            #[must_use]
            pub const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$variant => const { &Facts {
                        name: $name, title: $title, env: $env, base_url_env: $base_url_env,
                        base_url: $base_url, check: $check, writes: $writes, get_key_at: $url, required: $required, frontend_env: $frontend_env,
                        public_prefix: $public_prefix,
                    } },)*
                }
            }
        }
    };
}

/// What is fixed about a provider.
#[derive(Debug)]
pub struct Facts {
    /// Name on the wire, in the table and in the encryption context; never changes.
    pub name: &'static str,
    /// Name for people.
    pub title: &'static str,
    /// Its line in `backend/.env`.
    pub env: &'static str,
    /// Variable that redirects its base URL, outside a real Lambda only.
    pub base_url_env: &'static str,
    /// Where its API is, without a slash at the end.
    pub base_url: &'static str,
    /// A call that costs nothing and tells whether a key works; `None` where none is known.
    pub check: Option<FreeCheck>,
    /// How it is asked for text; `None` where it has none to give.
    pub writes: Option<Writes>,
    /// Where a person gets a key.
    pub get_key_at: &'static str,
    /// Onboarding is not complete without it.
    pub required: bool,
    /// Its line in `frontend/.env`; only a browser-safe (public) key has one.
    pub frontend_env: Option<&'static str>,
    /// What a public key begins with. A browser-safe key has one, so that a secret that is pasted in
    /// its place is never published.
    pub public_prefix: Option<&'static str>,
}

/// How a key travels to its provider: never in a URL.
#[derive(Debug, Clone, Copy)]
pub struct KeyHeader {
    /// Header that carries the key.
    pub name: &'static str,
    /// What stands before the key in it.
    pub scheme: &'static str,
    /// Further headers.
    pub also: &'static [(&'static str, &'static str)],
}

const BEARER: KeyHeader = KeyHeader {
    name: "authorization",
    scheme: "Bearer ",
    also: &[],
};
const GOOGLE: KeyHeader = KeyHeader {
    name: "x-goog-api-key",
    scheme: "",
    also: &[],
};
const ANTHROPIC: KeyHeader = KeyHeader {
    name: "x-api-key",
    scheme: "",
    also: &[("anthropic-version", "2023-06-01")],
};

/// A `GET` that costs nothing and tells whether a key works.
#[derive(Debug)]
pub struct FreeCheck {
    /// Path and query.
    pub path: &'static str,
    /// How the key travels.
    pub key: KeyHeader,
    /// How the provider says that the key is bad: a status, and a word that must stand in the body.
    /// Everything else that is no success says nothing about the key.
    pub refusals: &'static [(u16, &'static str)],
}

/// How a provider is asked for text.
#[derive(Debug)]
pub struct Writes {
    /// The language of its requests, answers and failures.
    pub dialect: Dialect,
    /// How the key travels.
    pub key: KeyHeader,
    /// Variable with the model's name.
    pub model_env: &'static str,
    /// The model where nobody names one.
    pub model: &'static str,
}

/// A family of APIs that are spoken to in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Google's `generateContent`.
    Gemini,
    /// OpenAI's chat completions and everything shaped like them.
    Chat {
        /// Name of the field that bounds the answer.
        max_tokens: &'static str,
        /// Whether a stream counts tokens only when asked to.
        asks_for_usage: bool,
    },
    /// Anthropic's messages.
    Messages,
}

providers! {
    Gemini { name: "gemini", title: "Google Gemini", env: "GEMINI_API_KEY",
        base_url_env: "GEMINI_BASE_URL", base_url: "https://generativelanguage.googleapis.com",
        check: Some(FreeCheck {
            path: "/v1beta/models?pageSize=1", key: GOOGLE,
            // A bad key is 400; 403 is one that leaked, is suspended or may not call this API.
            refusals: &[(400, "API_KEY_INVALID"), (401, ""), (403, "")] }),
        writes: Some(Writes { dialect: Dialect::Gemini, key: GOOGLE, model_env: "GEMINI_MODEL",
            model: "gemini-3.8-flash" }),
        get_key_at: "https://aistudio.google.com/apikey",
        required: true, frontend_env: None, public_prefix: None }
    Exa { name: "exa", title: "Exa", env: "EXA_API_KEY",
        base_url_env: "EXA_BASE_URL", base_url: "https://api.exa.ai",
        check: None,
        writes: None,
        get_key_at: "https://dashboard.exa.ai/api-keys",
        required: true, frontend_env: None, public_prefix: None }
    CopilotKit { name: "copilotkit", title: "CopilotKit", env: "COPILOTKIT_API_KEY",
        base_url_env: "COPILOTKIT_BASE_URL", base_url: "https://api.cloud.copilotkit.ai",
        check: None,
        writes: None,
        get_key_at: "https://cloud.copilotkit.ai",
        required: true, frontend_env: Some("REACT_APP_COPILOTKIT_API_KEY"),
        public_prefix: Some("ck_pub_") }
    OpenAi { name: "openai", title: "OpenAI", env: "OPENAI_API_KEY",
        base_url_env: "OPENAI_BASE_URL", base_url: "https://api.openai.com",
        check: Some(FreeCheck {
            path: "/v1/models", key: BEARER,
            // A restricted key that may not list models is 401 too, with another code.
            refusals: &[(401, "\"invalid_api_key\"")] }),
        writes: Some(Writes { key: BEARER, model_env: "OPENAI_MODEL", model: "gpt-5-mini",
            dialect: Dialect::Chat { max_tokens: "max_completion_tokens", asks_for_usage: true } }),
        get_key_at: "https://platform.openai.com/api-keys",
        required: false, frontend_env: None, public_prefix: None }
    Anthropic { name: "anthropic", title: "Anthropic", env: "ANTHROPIC_API_KEY",
        base_url_env: "ANTHROPIC_BASE_URL", base_url: "https://api.anthropic.com",
        check: Some(FreeCheck {
            path: "/v1/models?limit=1", key: ANTHROPIC, refusals: &[(401, "")] }),
        writes: Some(Writes { dialect: Dialect::Messages, key: ANTHROPIC,
            model_env: "ANTHROPIC_MODEL", model: "claude-sonnet-4-5" }),
        get_key_at: "https://console.anthropic.com/settings/keys",
        required: false, frontend_env: None, public_prefix: None }
    Mistral { name: "mistral", title: "Mistral", env: "MISTRAL_API_KEY",
        base_url_env: "MISTRAL_BASE_URL", base_url: "https://api.mistral.ai",
        check: Some(FreeCheck { path: "/v1/models", key: BEARER, refusals: &[(401, "")] }),
        writes: Some(Writes { key: BEARER, model_env: "MISTRAL_MODEL", model: "mistral-small-latest",
            dialect: Dialect::Chat { max_tokens: "max_tokens", asks_for_usage: false } }),
        get_key_at: "https://console.mistral.ai/api-keys",
        required: false, frontend_env: None, public_prefix: None }
    Tavily { name: "tavily", title: "Tavily", env: "TAVILY_API_KEY",
        base_url_env: "TAVILY_BASE_URL", base_url: "https://api.tavily.com",
        check: Some(FreeCheck { path: "/usage", key: BEARER, refusals: &[(401, "")] }),
        writes: None,
        get_key_at: "https://app.tavily.com",
        required: false, frontend_env: None, public_prefix: None }
    Serper { name: "serper", title: "Serper", env: "SERPER_API_KEY",
        base_url_env: "SERPER_BASE_URL", base_url: "https://google.serper.dev",
        check: None,
        writes: None,
        get_key_at: "https://serper.dev/api-key",
        required: false, frontend_env: None, public_prefix: None }
    Firecrawl { name: "firecrawl", title: "Firecrawl", env: "FIRECRAWL_API_KEY",
        base_url_env: "FIRECRAWL_BASE_URL", base_url: "https://api.firecrawl.dev",
        check: Some(FreeCheck { path: "/v2/team/credit-usage", key: BEARER, refusals: &[(401, "")] }),
        writes: None,
        get_key_at: "https://www.firecrawl.dev/app/api-keys",
        required: false, frontend_env: None, public_prefix: None }
    Stability { name: "stability", title: "Stability AI", env: "STABILITY_API_KEY",
        base_url_env: "STABILITY_BASE_URL", base_url: "https://api.stability.ai",
        check: None,
        writes: None,
        get_key_at: "https://platform.stability.ai/account/keys",
        required: false, frontend_env: None, public_prefix: None }
    WaveSpeed { name: "wavespeed", title: "WaveSpeed", env: "WAVESPEED_API_KEY",
        base_url_env: "WAVESPEED_BASE_URL", base_url: "https://api.wavespeed.ai",
        check: None,
        writes: None,
        get_key_at: "https://wavespeed.ai/accesskey",
        required: false, frontend_env: None, public_prefix: None }
}

/// No provider of that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown provider; known ones: {}", names())]
pub struct UnknownProvider;

fn names() -> String {
    Provider::ALL
        .iter()
        .map(|p| p.name())
        .collect::<Vec<_>>()
        .join(", ")
}

impl Provider {
    /// Name on the wire, in the table and in the encryption context.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Whether the key is public and meant for the browser.
    #[must_use]
    pub const fn browser_safe(self) -> bool {
        self.facts().frontend_env.is_some()
    }
}

impl PartialSchema for Provider {
    fn schema() -> RefOr<Schema> {
        let names = Self::ALL.iter().map(|p| p.name());
        let names = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(names));
        names.build().into()
    }
}

impl ToSchema for Provider {}

impl std::str::FromStr for Provider {
    type Err = UnknownProvider;

    /// Exact, lower-case names only: `Gemini` and look-alikes are unknown.
    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        Self::ALL
            .iter()
            .copied()
            .find(|p| p.name() == name)
            .ok_or(UnknownProvider)
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_parses_back_from_its_own_name_and_no_other_spelling() {
        for &provider in Provider::ALL {
            assert_eq!(provider.name().parse(), Ok(provider));
            assert_eq!(
                provider.name().to_uppercase().parse::<Provider>(),
                Err(UnknownProvider)
            );
        }
        for name in [
            "",
            " gemini",
            "gemini ",
            "gem\u{456}ni",
            "__proto__",
            "gemini\0",
        ] {
            assert_eq!(name.parse::<Provider>(), Err(UnknownProvider), "{name:?}");
        }
    }

    #[test]
    fn no_two_providers_share_a_name_or_a_variable() {
        let mut seen = std::collections::HashSet::new();
        for facts in Provider::ALL.iter().map(|p| p.facts()) {
            for word in [facts.name, facts.env, facts.base_url_env] {
                assert!(seen.insert(word), "{word} twice");
            }
        }
    }

    #[test]
    fn six_providers_can_be_asked_for_free_and_each_knows_how_it_refuses() {
        let names: Vec<_> = Provider::ALL
            .iter()
            .filter(|p| p.facts().check.is_some())
            .map(|p| p.name())
            .collect();
        let six = [
            "gemini",
            "openai",
            "anthropic",
            "mistral",
            "tavily",
            "firecrawl",
        ];
        assert_eq!(names, six);
        for check in Provider::ALL
            .iter()
            .filter_map(|p| p.facts().check.as_ref())
        {
            assert!(check.path.starts_with('/') && !check.refusals.is_empty());
        }
    }

    #[test]
    fn only_copilotkit_is_browser_safe_and_it_knows_how_a_public_key_begins() {
        let safe: Vec<_> = Provider::ALL.iter().filter(|p| p.browser_safe()).collect();
        assert_eq!(safe, [&Provider::CopilotKit]);
        for facts in Provider::ALL.iter().map(|p| p.facts()) {
            assert_eq!(facts.frontend_env.is_some(), facts.public_prefix.is_some());
        }
    }
}
