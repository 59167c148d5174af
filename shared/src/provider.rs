//! The closed list of providers and everything that is fixed about each of them.
//!
//! A new provider is one more entry in the table below and nothing else.

macro_rules! providers {
    ($($variant:ident { name: $name:literal, title: $title:literal, env: $env:literal,
        base_url_env: $base_url_env:literal, get_key_at: $url:literal,
        required: $required:literal, frontend_env: $frontend_env:expr })*) => {
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
                    $(Self::$variant => &Facts {
                        name: $name, title: $title, env: $env, base_url_env: $base_url_env,
                        get_key_at: $url, required: $required, frontend_env: $frontend_env,
                    },)*
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
    /// Where a person gets a key.
    pub get_key_at: &'static str,
    /// Onboarding is not complete without it.
    pub required: bool,
    /// Its line in `frontend/.env`; only a browser-safe (public) key has one.
    pub frontend_env: Option<&'static str>,
}

providers! {
    Gemini { name: "gemini", title: "Google Gemini", env: "GEMINI_API_KEY",
        base_url_env: "GEMINI_BASE_URL", get_key_at: "https://aistudio.google.com/apikey",
        required: true, frontend_env: None }
    Exa { name: "exa", title: "Exa", env: "EXA_API_KEY",
        base_url_env: "EXA_BASE_URL", get_key_at: "https://dashboard.exa.ai/api-keys",
        required: true, frontend_env: None }
    CopilotKit { name: "copilotkit", title: "CopilotKit", env: "COPILOTKIT_API_KEY",
        base_url_env: "COPILOTKIT_BASE_URL", get_key_at: "https://cloud.copilotkit.ai",
        required: true, frontend_env: Some("REACT_APP_COPILOTKIT_API_KEY") }
    OpenAi { name: "openai", title: "OpenAI", env: "OPENAI_API_KEY",
        base_url_env: "OPENAI_BASE_URL", get_key_at: "https://platform.openai.com/api-keys",
        required: false, frontend_env: None }
    Anthropic { name: "anthropic", title: "Anthropic", env: "ANTHROPIC_API_KEY",
        base_url_env: "ANTHROPIC_BASE_URL", get_key_at: "https://console.anthropic.com/settings/keys",
        required: false, frontend_env: None }
    Mistral { name: "mistral", title: "Mistral", env: "MISTRAL_API_KEY",
        base_url_env: "MISTRAL_BASE_URL", get_key_at: "https://console.mistral.ai/api-keys",
        required: false, frontend_env: None }
    Tavily { name: "tavily", title: "Tavily", env: "TAVILY_API_KEY",
        base_url_env: "TAVILY_BASE_URL", get_key_at: "https://app.tavily.com",
        required: false, frontend_env: None }
    Serper { name: "serper", title: "Serper", env: "SERPER_API_KEY",
        base_url_env: "SERPER_BASE_URL", get_key_at: "https://serper.dev/api-key",
        required: false, frontend_env: None }
    Firecrawl { name: "firecrawl", title: "Firecrawl", env: "FIRECRAWL_API_KEY",
        base_url_env: "FIRECRAWL_BASE_URL", get_key_at: "https://www.firecrawl.dev/app/api-keys",
        required: false, frontend_env: None }
    Stability { name: "stability", title: "Stability AI", env: "STABILITY_API_KEY",
        base_url_env: "STABILITY_BASE_URL", get_key_at: "https://platform.stability.ai/account/keys",
        required: false, frontend_env: None }
    WaveSpeed { name: "wavespeed", title: "WaveSpeed", env: "WAVESPEED_API_KEY",
        base_url_env: "WAVESPEED_BASE_URL", get_key_at: "https://wavespeed.ai/accesskey",
        required: false, frontend_env: None }
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
    fn only_copilotkit_is_browser_safe() {
        let safe: Vec<_> = Provider::ALL.iter().filter(|p| p.browser_safe()).collect();
        assert_eq!(safe, [&Provider::CopilotKit]);
    }
}
