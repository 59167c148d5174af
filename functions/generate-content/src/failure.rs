//! What went wrong at a provider, in our own words.
//!
//! A provider's text never leaves the dialects: it can repeat the key. What is kept is a status and,
//! where the provider gives one, a reason from a closed list.

use std::time::Duration;

use lambda_http::http::{HeaderMap, header::RETRY_AFTER};
use user_api_keys::problem::{Code, Problem};

/// Longest wait that is passed on.
const WAIT_MAX_S: f64 = 3_600.0;
/// Where a provider names no time.
const WAIT_S: u64 = 30;
/// Where a quota is used up for the day, or for good.
const LONG_WAIT_S: u64 = 3_600;

/// A failure, and what follows from it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) problem: Problem,
    pub(crate) then: Then,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing: the same again would end the same.
    Stop,
    /// Another try may go through, after a time where the provider names one.
    Again(Option<Duration>),
    /// The key is bad, and will be next time.
    KeyIsBad,
}

impl Failure {
    fn new(code: Code, detail: String, cause: impl std::fmt::Display, then: Then) -> Self {
        Self {
            problem: Problem::new(code, detail).because(cause),
            then,
        }
    }

    /// 502: down, slow, or not making sense; worth another try.
    pub(crate) fn unavailable(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail = format!("{title} did not give a usable answer; try again in a moment.");
        Self::new(Code::ProviderUnavailable, detail, cause, Then::Again(None))
    }

    /// 502 after output began: another try would be paid twice.
    pub(crate) fn cut(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail = format!("{title} broke off before the end; what came is not the whole text.");
        Self::new(Code::ProviderUnavailable, detail, cause, Then::Stop)
    }

    /// 400: the provider does not take the request as it is.
    pub(crate) fn invalid(detail: String, cause: impl std::fmt::Display) -> Self {
        Self::new(Code::InvalidRequest, detail, cause, Then::Stop)
    }

    /// 422: the key is bad.
    pub(crate) fn bad_key(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail = format!("{title} refuses your key; save a new one under API keys.");
        Self::new(Code::ProviderRejectedKey, detail, cause, Then::KeyIsBad)
    }

    /// 422: the key is good and may not do this.
    pub(crate) fn not_permitted(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail = format!(
            "{title} does not let your key do this; give it the permission, or save another key."
        );
        Self::new(Code::ProviderRejectedKey, detail, cause, Then::Stop)
    }

    /// 422: the prompt or the answer is against the provider's rules.
    pub(crate) fn blocked(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail = format!("{title} refused this prompt or its answer; word it differently.");
        Self::new(Code::ContentBlocked, detail, cause, Then::Stop)
    }

    /// 429: too fast; worth another try after a while.
    pub(crate) fn too_fast(title: &str, wait: Option<f64>, cause: impl std::fmt::Display) -> Self {
        let seconds = wait.map_or(WAIT_S, whole_seconds);
        let detail = format!("{title} is answering your key too often; wait {seconds} seconds.");
        let then = Then::Again(wait.map(|_| Duration::from_secs(seconds)));
        let mut failure = Self::new(Code::ProviderRateLimited, detail, cause, then);
        failure.problem = failure.problem.retry_after(seconds);
        failure
    }

    /// 429: the quota is used up for the day, or the account is out of credit.
    pub(crate) fn used_up(title: &str, cause: impl std::fmt::Display) -> Self {
        let detail =
            format!("Your {title} quota or credit is used up; raise it with {title}, or wait.");
        let mut failure = Self::new(Code::ProviderRateLimited, detail, cause, Then::Stop);
        failure.problem = failure.problem.retry_after(LONG_WAIT_S);
        failure
    }

    /// Whether another of the person's credentials may be tried in its place.
    pub(crate) fn lets_others_try(&self) -> bool {
        let code = self.problem.code();
        matches!(code, Code::ProviderUnavailable | Code::ProviderRateLimited)
    }
}

/// Rounded up; what is negative or absurd becomes the longest wait.
fn whole_seconds(seconds: f64) -> u64 {
    match (0.0..=WAIT_MAX_S).contains(&seconds) {
        true => seconds.ceil() as u64,
        false => WAIT_MAX_S as u64,
    }
}

/// `Retry-After` in seconds; the date form counts as none.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<f64> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_and_an_absurd_one_capped() {
        for (given, seconds) in [
            (7.2, 8),
            (0.0, 0),
            (-3.0, 3_600),
            (1e300, 3_600),
            (f64::NAN, 3_600),
            (f64::INFINITY, 3_600),
        ] {
            assert_eq!(whole_seconds(given), seconds, "{given}");
        }
    }
}
