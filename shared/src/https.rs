//! Calls out of the house: to providers and to Clerk.
//!
//! Redirects and proxies are off, so that a key goes where the code says and nowhere else; answers
//! are read up to a limit. Must not know whom it calls.

use std::time::Duration;

use lambda_http::http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Client, RequestBuilder, redirect::Policy};
use zeroize::Zeroizing;

use crate::{api_key::ApiKey, provider::KeyHeader, tls};

const CONNECT: Duration = Duration::from_secs(3);
/// How long a connection is kept for the next call; providers close theirs not much later.
const IDLE: Duration = Duration::from_secs(30);

/// One client; it keeps its connections for the life of the process.
#[derive(Debug, Clone)]
pub struct Https(Client);

/// A status and the whole body.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; other people's text, which may repeat a key.
    pub body: Vec<u8>,
}

/// Why there is no answer. Never the address: it is the kind that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HttpsError {
    /// No TLS on this machine, or nobody to trust.
    #[error("TLS cannot be set up; does SSL_CERT_FILE name PEM certificates?")]
    Setup,
    /// Too slow.
    #[error("timed out")]
    TimedOut,
    /// Nobody there, or not the one whom the certificate names.
    #[error("cannot connect")]
    Connect,
    /// Cut off on the way.
    #[error("connection failed")]
    Failed,
    /// More than was allowed.
    #[error("answer too large")]
    TooLarge,
    /// The key holds what no header can.
    #[error("a key that is no header")]
    Header,
}

impl From<reqwest::Error> for HttpsError {
    /// reqwest's own text holds the URL, so only its kind is kept.
    fn from(error: reqwest::Error) -> Self {
        match error {
            error if error.is_builder() => Self::Setup,
            error if error.is_timeout() => Self::TimedOut,
            error if error.is_connect() => Self::Connect,
            _ => Self::Failed,
        }
    }
}

impl Https {
    /// One client serves all of a function: it keeps connections.
    ///
    /// # Errors
    /// [`HttpsError::Setup`]
    pub fn new() -> Result<Self, HttpsError> {
        let trusted = tls::web().map_err(|_| HttpsError::Setup)?;
        let client = Client::builder()
            .tls_backend_preconfigured(trusted)
            .redirect(Policy::none())
            .no_proxy()
            .pool_idle_timeout(IDLE)
            .connect_timeout(CONNECT);
        Ok(Self(client.build()?))
    }

    /// `GET`; whoever asks sets the time.
    pub fn get(&self, url: &str) -> RequestBuilder {
        self.0.get(url)
    }

    /// `POST`; whoever asks sets the time.
    pub fn post(&self, url: &str) -> RequestBuilder {
        self.0.post(url)
    }
}

/// Sends it and reads the answer, at most `max_bytes` of it.
///
/// # Errors
/// [`HttpsError`]; any status is an answer.
pub async fn answer(request: RequestBuilder, max_bytes: usize) -> Result<Answer, HttpsError> {
    read(request.send().await?, max_bytes).await
}

/// Reads an answer whose status is there, at most `max_bytes` of it.
///
/// # Errors
/// [`HttpsError`]
pub async fn read(mut response: reqwest::Response, max_bytes: usize) -> Result<Answer, HttpsError> {
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > max_bytes {
            return Err(HttpsError::TooLarge);
        }
    }
    Ok(Answer {
        status,
        headers,
        body,
    })
}

/// The request with the key in its provider's header, which no `Debug` shows.
///
/// # Errors
/// [`HttpsError::Header`]
pub fn with_key(
    mut request: RequestBuilder,
    how: &KeyHeader,
    key: &ApiKey,
) -> Result<RequestBuilder, HttpsError> {
    // EXPOSE: the header the provider reads it from; marked sensitive, and our own copy wiped.
    let value = Zeroizing::new(format!("{}{}", how.scheme, key.expose()));
    let mut value = HeaderValue::from_str(&value).map_err(|_| HttpsError::Header)?;
    value.set_sensitive(true);
    for (name, value) in how.also {
        request = request.header(*name, *value);
    }
    Ok(request.header(how.name, value))
}
