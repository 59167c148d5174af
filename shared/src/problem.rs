//! Failures → HTTP, as `application/problem+json` (RFC 9457).
//!
//! The only room that knows which failure is which status. A [`Problem`] has two faces: what the
//! caller reads, and a cause for the log. Neither ever holds a key, a token, an ARN or a
//! provider's text.

use std::borrow::Cow;

use lambda_http::{
    Body, Response,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
    },
};
use serde::Serialize;
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, Type},
};

use crate::{
    api_key::InvalidApiKey, auth::Unauthorized, key_table::TableError, provider::UnknownProvider,
    rate_limit::LimitError, sealing::SealingError, user_api_keys::KeyError,
};

/// Seconds after which a 503 is worth another try.
const RETRY_AFTER_S: u64 = 2;

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $title:literal $advice:literal)*) => {
        /// Stable, machine-readable name of a failure.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it stands in an answer.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The status it goes with; 400 `invalid_request` is also 413 and 415.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// What happened, in few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// What to do, where nothing more is known.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

codes! {
    Unauthorized "unauthorized" UNAUTHORIZED "Not signed in"
        "Sign in again and repeat the request."
    Forbidden "forbidden" FORBIDDEN "Not from here"
        "You are signed in on somebody's behalf and may only look; sign in as yourself."
    InvalidRequest "invalid_request" BAD_REQUEST "The request is not valid"
        "Send what this address takes."
    UnknownProvider "unknown_provider" BAD_REQUEST "Unknown provider"
        "Use one of the known providers."
    InvalidApiKey "invalid_api_key" BAD_REQUEST "This cannot be a key"
        "Paste the key as the provider gave it to you."
    ProviderRejectedKey "provider_rejected_key" UNPROCESSABLE_ENTITY "The provider refuses the key"
        "Copy the key again from the provider."
    NoApiKey "no_api_key" CONFLICT "No key saved"
        "Add your own key under API keys."
    ApiKeyExpired "api_key_expired" CONFLICT "The key has expired"
        "Save a new key under API keys."
    ApiKeyPaused "api_key_paused" CONFLICT "The key is paused"
        "Switch the key on under API keys."
    KeyStillInForce "key_still_in_force" CONFLICT "Another key is still used"
        "Take the key out of the environment or the file it stands in."
    RateLimited "rate_limited" TOO_MANY_REQUESTS "Too many calls"
        "Wait, then try again."
    ProviderRateLimited "provider_rate_limited" TOO_MANY_REQUESTS "The provider's quota is used up"
        "Wait, or raise your quota with the provider."
    ContentBlocked "content_blocked" UNPROCESSABLE_ENTITY "The provider refused the content"
        "Word the prompt differently."
    ProviderUnavailable "provider_unavailable" BAD_GATEWAY "The provider does not answer"
        "Try again in a moment."
    TemporarilyUnavailable "temporarily_unavailable" SERVICE_UNAVAILABLE "Try again shortly"
        "The key store is busy; nothing was changed. Try again in a moment."
    NotFound "not_found" NOT_FOUND "No such address"
        "There is nothing at this address; check the path."
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "Not this method"
        "This address answers to other methods."
    VersionConflict "version_conflict" PRECONDITION_FAILED "Changed meanwhile"
        "The key was changed meanwhile; read the list again and repeat."
    Internal "internal" INTERNAL_SERVER_ERROR "A defect of ours"
        "Something broke on our side; try again, and report the request_id if it stays."
}

/// One failed request.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after_s: Option<u64>,
    allow: Option<String>,
    cause: Option<String>,
    event: Option<&'static str>,
}

/// A failure, `application/problem+json` (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Shown<'a> {
    /// `urn:user-api-keys:problem:<code>`.
    r#type: String,
    /// What happened, in few words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What to do.
    #[schema(min_length = 1)]
    detail: &'a str,
    /// Stable, machine-readable.
    #[schema(schema_with = code_schema)]
    code: &'static str,
    /// Names this request in our log.
    request_id: &'a str,
    /// Seconds after which another try makes sense; on 429 and 503.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after: Option<u64>,
}

fn code_schema() -> Object {
    let names = Code::ALL.iter().map(|code| code.as_str());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .build()
}

impl Problem {
    /// `detail` says what the person can do; it must not repeat anything they sent.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            status: code.status(),
            detail: detail.into(),
            retry_after_s: None,
            allow: None,
            cause: None,
            event: None,
        }
    }

    /// As [`Self::new`], with what the code itself advises.
    #[must_use]
    pub fn advising(code: Code) -> Self {
        let problem = Self::new(code, code.advice());
        match code {
            Code::TemporarilyUnavailable => problem.retry_after(RETRY_AFTER_S),
            _ => problem,
        }
    }

    /// 400 `invalid_request`.
    #[must_use]
    pub fn invalid_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// 413 `invalid_request`.
    #[must_use]
    pub fn too_large(limit_bytes: usize) -> Self {
        let detail = format!("The body is larger than {limit_bytes} bytes; send less.");
        Self::invalid_request(detail).with_status(StatusCode::PAYLOAD_TOO_LARGE)
    }

    /// 415 `invalid_request`.
    #[must_use]
    pub fn not_json() -> Self {
        Self::invalid_request("Send JSON with the header Content-Type: application/json.")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    }

    /// 404 `not_found`.
    #[must_use]
    pub fn not_found() -> Self {
        Self::advising(Code::NotFound)
    }

    /// 405 `method_not_allowed`; `allow` lists what is, comma-separated.
    #[must_use]
    pub fn method_not_allowed(allow: String) -> Self {
        let detail = format!("This address answers to {allow} only.");
        let mut problem = Self::new(Code::MethodNotAllowed, detail);
        problem.allow = Some(allow);
        problem
    }

    /// 500 `internal`: one body for all of them, so that it tells an attacker nothing.
    #[must_use]
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        Self::advising(Code::Internal).because(cause)
    }

    /// 503 `temporarily_unavailable`.
    #[must_use]
    pub fn temporarily_unavailable(cause: impl std::fmt::Display) -> Self {
        Self::advising(Code::TemporarilyUnavailable).because(cause)
    }

    /// Adds the cause for the log; it never leaves in an answer.
    #[must_use]
    pub fn because(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds the seconds after which another try makes sense.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Names what happened, for alarms and metrics that must tell it from other failures of the same
    /// code; every `unauthorized` has a name.
    #[must_use]
    pub fn named(mut self, event: &'static str) -> Self {
        self.event = Some(event);
        self
    }

    fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// Its HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What the caller reads.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What the log says about why, or nothing.
    #[must_use]
    pub fn cause(&self) -> &str {
        self.cause.as_deref().unwrap_or_default()
    }

    /// The name of what happened, where an alarm needs one.
    #[must_use]
    pub fn event(&self) -> Option<&'static str> {
        self.event
    }

    /// The answer's body; also what an event says when a stream fails.
    #[must_use]
    pub fn shown<'a>(&'a self, request_id: &'a str) -> Shown<'a> {
        Shown {
            r#type: format!("urn:user-api-keys:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
            retry_after: self.retry_after_s,
        }
    }

    /// The answer.
    #[must_use]
    pub fn response(&self, request_id: &str) -> Response<Body> {
        let shown = self.shown(request_id);
        // Strings and numbers always serialise; an empty body would still carry the status.
        let mut response = Response::new(Body::from(
            serde_json::to_string(&shown).unwrap_or_default(),
        ));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(Ok(allow)) = self.allow.as_deref().map(HeaderValue::from_str) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<Unauthorized> for Problem {
    fn from(reason: Unauthorized) -> Self {
        match reason {
            Unauthorized::KeysUnavailable => Self::temporarily_unavailable(reason),
            Unauthorized::NotTheLocalUser => Self::new(
                Code::Forbidden,
                "This server runs in Local mode for one user, whom LOCAL_USER_ID names; sign in as \
                 that user, or set DEPLOY_ENV so that every user has their own keys.",
            )
            .because(reason),
            Unauthorized::NoToken | Unauthorized::Token(_) => Self::advising(Code::Unauthorized)
                .because(reason)
                .named(reason.reason()),
        }
    }
}

impl From<UnknownProvider> for Problem {
    fn from(error: UnknownProvider) -> Self {
        Self::new(Code::UnknownProvider, sentence(&error))
    }
}

impl From<InvalidApiKey> for Problem {
    fn from(rule: InvalidApiKey) -> Self {
        Self::new(Code::InvalidApiKey, sentence(&rule))
    }
}

impl From<TableError> for Problem {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Unavailable(_) | TableError::Conflict => {
                Self::temporarily_unavailable(error)
            }
            TableError::Condition => Self::advising(Code::VersionConflict),
            TableError::Corrupt(_) => Self::internal(error).named("corrupt_row"),
            TableError::Time(_) => Self::internal(error),
        }
    }
}

impl From<LimitError> for Problem {
    fn from(error: LimitError) -> Self {
        match error {
            LimitError::Limited(allowance) => Self::new(
                Code::RateLimited,
                format!(
                    "You have used all {} calls of this kind for now; try again in {} seconds.",
                    allowance.limit, allowance.reset_s
                ),
            )
            .retry_after(allowance.reset_s),
            LimitError::Streams { limit, wait_s } => Self::new(
                Code::RateLimited,
                format!("You have {limit} answers streaming already; wait until one of them ends."),
            )
            .retry_after(wait_s),
            LimitError::Table(error) => error.into(),
        }
    }
}

impl From<SealingError> for Problem {
    fn from(error: SealingError) -> Self {
        let event = match error {
            SealingError::Unavailable(_) => return Self::temporarily_unavailable(error),
            SealingError::DoesNotOpen(_) => "ciphertext_does_not_open",
            SealingError::InnerBinding => "inner_binding",
            SealingError::KeyRefused(_) => "kms_key_refused",
            SealingError::NotGranted(_) => "open_not_granted",
            SealingError::Unexpected(_) => "kms_answered_unexpectedly",
        };
        Self::internal(error).named(event)
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Missing(provider) => Self::new(
                Code::NoApiKey,
                format!(
                    "You have no {0} key saved; add one under API keys (get it at {1}).",
                    provider.facts().title,
                    provider.facts().get_key_at
                ),
            ),
            KeyError::Expired(provider) => Self::new(
                Code::ApiKeyExpired,
                format!(
                    "Your {} key has passed the date you gave it; save a new one under API keys.",
                    provider.facts().title
                ),
            ),
            KeyError::Paused(provider) => Self::new(
                Code::ApiKeyPaused,
                format!(
                    "Your {} key is paused; switch it on under API keys.",
                    provider.facts().title
                ),
            ),
            KeyError::Table(error) => error.into(),
            KeyError::Sealing(error) => error.into(),
        }
    }
}

/// An error's text as a sentence for people.
fn sentence(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(letters).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(problem: &Problem) -> serde_json::Value {
        serde_json::from_slice(problem.response("r-1").body().as_ref()).unwrap()
    }

    #[test]
    fn every_failure_says_what_to_do_under_its_stable_code() {
        let busy = Problem::temporarily_unavailable("ThrottlingException");
        assert_eq!(
            body(&busy),
            serde_json::json!({
                "type": "urn:user-api-keys:problem:temporarily_unavailable",
                "title": "Try again shortly",
                "status": 503,
                "detail": "The key store is busy; nothing was changed. Try again in a moment.",
                "code": "temporarily_unavailable",
                "request_id": "r-1",
                "retry_after": 2,
            })
        );
        assert_eq!(busy.response("r-1").headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn a_ciphertext_that_does_not_open_a_corrupt_row_and_a_refused_kms_key_look_the_same() {
        let bodies = [
            Problem::from(SealingError::DoesNotOpen("invalid ciphertext")),
            Problem::from(SealingError::InnerBinding),
            Problem::from(SealingError::KeyRefused("disabled")),
            Problem::from(TableError::Corrupt("format")),
        ];
        for problem in &bodies {
            assert_eq!(body(problem), body(&bodies[0]));
        }
        let causes: std::collections::HashSet<_> = bodies.iter().map(Problem::cause).collect();
        assert_eq!(causes.len(), bodies.len(), "the log tells them apart");
    }

    #[test]
    fn all_reasons_for_a_401_have_one_body() {
        let party = Problem::from(Unauthorized::Token("authorized party"));
        assert_eq!(body(&party), body(&Problem::from(Unauthorized::NoToken)));
    }

    #[test]
    fn a_405_lists_the_methods_that_are_allowed() {
        let problem = Problem::method_not_allowed("GET, POST".to_owned());
        assert_eq!(problem.response("r-1").headers()[ALLOW], "GET, POST");
    }
}
