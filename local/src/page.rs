//! The onboarding page of `web/page`, as its build left it, inside the binary.
//!
//! The same for everybody: what it shows, it asks the API for in the reader's name.

use lambda_http::{
    Body, Response,
    http::{
        HeaderName, HeaderValue,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
};
use serde_json::{Value, json};
use user_api_keys::config::Config;

const HTML: &str = include_str!("../../web/page/dist/index.html");
const SCRIPT: &str = include_str!("../../web/page/dist/page.js");
const STYLE: &str = include_str!("../../web/page/dist/page.css");
/// No other site's page gets at any of it.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// What the page reads its settings from.
const SETTINGS: &str = "id=\"settings\">{}<";

/// The page and what a browser may do with it.
pub struct Page {
    html: String,
    policy: HeaderValue,
}

impl Page {
    /// A page whose readers sign in as `config` says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let settings = settings(config).to_string().replace('<', "\\u003c");
        let policy = policy(config);
        Self {
            html: HTML.replace(SETTINGS, &format!("id=\"settings\">{settings}<")),
            policy: HeaderValue::from_str(&policy)
                .unwrap_or(HeaderValue::from_static("default-src 'none'")),
        }
    }

    /// The part of it at `path`.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<Response<Body>> {
        let (kind, text) = match path {
            "/" => ("text/html; charset=utf-8", self.html.as_str()),
            "/page.js" => ("text/javascript; charset=utf-8", SCRIPT),
            "/page.css" => ("text/css; charset=utf-8", STYLE),
            _ => return None,
        };
        let mut response = Response::new(Body::from(text));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(CONTENT_SECURITY_POLICY, self.policy.clone());
        headers.insert(RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
        Some(response)
    }
}

/// How to sign in: with Clerk's own library, not at all, or that it cannot be.
fn settings(config: &Config) -> Value {
    match (&config.clerk, &config.clerk_publishable_key) {
        (None, _) => json!({}),
        (Some(_), None) => json!({"missing": "CLERK_PUBLISHABLE_KEY"}),
        (Some(clerk), Some(key)) => {
            json!({"clerk": {"publishableKey": key, "frontendApi": clerk.issuer}})
        }
    }
}

/// Scripts and connections: our own, and Clerk's where people sign in.
fn policy(config: &Config) -> String {
    let clerk = config
        .clerk
        .as_ref()
        .filter(|_| config.clerk_publishable_key.is_some());
    let (also, look) = match clerk {
        Some(clerk) => (
            format!(" {}", clerk.issuer),
            "style-src 'self' 'unsafe-inline'; img-src 'self' data: https://img.clerk.com; \
             worker-src 'self' blob:; frame-src https://challenges.cloudflare.com",
        ),
        None => (String::new(), "style-src 'self'; img-src 'self'"),
    };
    format!(
        "default-src 'none'; script-src 'self'{also}; connect-src 'self'{also}; {look}; \
         form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )
}
