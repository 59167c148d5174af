//! The status page at `/`: what runs here, in which mode, and which providers have a key.
//!
//! Never a key, and in Production nobody's keys at all.

use lambda_http::{
    Body, Response,
    http::{
        HeaderValue,
        header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE},
    },
};
use user_api_keys::{
    auth::Auth,
    aws::Aws,
    config::Config,
    developer_keys::DeveloperKeys,
    key_table::{KeyLister, Record, Status, TableError},
    mode::Mode,
    provider::Provider,
};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem;\
color:#1c2530;background:#fff}h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.35rem .5rem;border-bottom:1px solid #dde3ea}\
code,pre{background:#f1f4f8;border-radius:4px;padding:.1rem .3rem}pre{padding:.7rem;overflow:auto}\
.yes{color:#0a6b2d;font-weight:600}.no{color:#6a737d}\
@media(prefers-color-scheme:dark){body{color:#dfe6ee;background:#12171d}code,pre{background:#1f2831}\
td,th{border-color:#2c3742}.yes{color:#5fd38a}.no{color:#93a0ad}}";

/// The page's facts.
pub struct Page {
    config: Config,
    developer: Option<DeveloperKeys>,
    keys: KeyLister,
}

impl Page {
    /// A page about `config`; `developer` is there in Local mode only.
    #[must_use]
    pub fn new(config: &Config, developer: Option<DeveloperKeys>, aws: &Aws) -> Self {
        Self {
            config: config.clone(),
            developer,
            keys: KeyLister::new(aws.dynamodb.clone(), config.table_name.clone()),
        }
    }

    /// The page, read anew each time; `host` is where the reader found it.
    pub async fn response(&self, host: &str) -> Response<Body> {
        let Ok(html) = self.html(host).await else {
            return crate::app::unavailable();
        };
        let mut response = Response::new(Body::from(html));
        for (name, value) in [
            (CONTENT_TYPE, "text/html; charset=utf-8"),
            (
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
            ),
        ] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static(value));
        }
        response
    }

    async fn html(&self, host: &str) -> Result<String, TableError> {
        let (mode, files) = match self.config.mode {
            Mode::Local => (
                "Local: one developer, no sign-in unless Clerk is configured",
                format!(
                    "<p>Keys are read from the environment, then <code>{}</code>, then the table, and \
                     saved to the file and the table. CopilotKit's key also goes to <code>{}</code>.</p>",
                    escaped(&self.config.backend_env_file.display().to_string()),
                    escaped(&self.config.frontend_env_file.display().to_string())
                ),
            ),
            Mode::Production => (
                "Production: every signed-in person, fully isolated",
                "<p>Keys are in the table alone, sealed; no file and no environment key is read.</p>"
                    .to_owned(),
            ),
        };
        let bearer = match self.config.clerk {
            Some(_) => " -H \"Authorization: Bearer $TOKEN\"",
            None => "",
        };
        let rows = self.rows().await?;
        Ok(format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>user-api-keys</title>\
             <meta name=viewport content=\"width=device-width\"><style>{STYLE}</style>\
             <h1>user-api-keys is running</h1><p>Mode: <b>{mode}</b></p>{files}\
             <table><thead><tr><th>Provider<th>Variable<th>Key</thead><tbody>{rows}</tbody></table>\
             <p>Try:</p><pre>curl{bearer} http://{}/api/onboarding/api-keys</pre></html>",
            escaped(host)
        ))
    }

    /// One row per provider; in Production without a word about anybody's keys.
    async fn rows(&self) -> Result<String, TableError> {
        let records = match (&self.developer, Auth::new(self.config.mode, None)) {
            (Some(_), Ok(local)) => {
                let now = time::OffsetDateTime::now_utc();
                match local.user(&Default::default(), now).await {
                    Ok(developer) => self.keys.list(&developer).await?,
                    Err(_) => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let saved = |provider| {
            let mut records = records.iter();
            records.find(|r: &&Record| r.provider() == Some(provider))
        };
        let row = |&provider: &Provider| {
            let facts = provider.facts();
            let developer = self.developer.as_ref();
            let (class, state) = match developer {
                None => ("no", "each person's own"),
                Some(keys) if keys.find(provider).is_some() => ("yes", "has a key"),
                Some(_) => match saved(provider).map(|record| record.status) {
                    Some(Status::Invalid) => ("no", "has a key that its provider refuses"),
                    Some(_) => ("yes", "has a key"),
                    None => ("no", "no key"),
                },
            };
            format!(
                "<tr><td>{}<td><code>{}</code><td class={class}>{state}",
                facts.title, facts.env
            )
        };
        Ok(Provider::ALL.iter().map(row).collect())
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}
