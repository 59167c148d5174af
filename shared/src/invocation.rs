//! Events that do not come over HTTP: an IAM invoke, a schedule, a state machine.

use std::time::{Duration, SystemTime};

use lambda_http::{Context, lambda_runtime::Diagnostic};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::{Code, Problem};

/// What gateways and load balancers put into their events.
const HTTP_FIELDS: [&str; 6] = [
    "httpMethod",
    "requestContext",
    "rawPath",
    "headers",
    "routeKey",
    "isBase64Encoded",
];

/// The event as a `T`, whose fields `shape` puts into words.
///
/// # Errors
/// 403 for an event that looks like HTTP, 400 for one of another shape.
pub fn read<T: DeserializeOwned>(event: Value, shape: &str) -> Result<T, Problem> {
    if HTTP_FIELDS.iter().any(|name| event.get(name).is_some()) {
        let detail = "This function is invoked with IAM and never called over HTTP.";
        return Err(Problem::new(Code::Forbidden, detail));
    }
    let wrong = || Problem::invalid_request(format!("Send {shape}."));
    // serde would read an array as an object whose fields stand in order.
    if !event.is_object() {
        return Err(wrong());
    }
    // Its error repeats values, so it is dropped unread.
    serde_json::from_value(event).map_err(|_| wrong())
}

/// A deadline is later than this, in milliseconds since 1970. `cargo lambda watch` (1.9) gives 600,000,
/// a length of time, which would be over before it began.
const MOMENTS_FROM_MS: u64 = 1_600_000_000_000;

/// Time until Lambda ends an invocation with this deadline, in milliseconds since 1970; no limit where
/// it is no moment.
#[must_use]
pub fn time_until(deadline_ms: u64) -> Duration {
    if deadline_ms < MOMENTS_FROM_MS {
        return Duration::MAX;
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Duration::from_millis(deadline_ms).saturating_sub(now.unwrap_or_default())
}

/// The deadline of an invocation that is to work for `work` and then answer, as a local runner sets
/// it.
#[must_use]
pub fn deadline_in(work: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let deadline = now.unwrap_or_default() + work + crate::sweep::RESERVE;
    u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX)
}

/// Without a limit outside Lambda.
#[must_use]
pub fn time_left(context: Option<&Context>) -> Duration {
    context.map_or(Duration::MAX, |context| time_until(context.deadline))
}

/// A failure as Lambda's caller reads it.
#[must_use]
pub fn diagnostic(problem: &Problem) -> Diagnostic {
    Diagnostic {
        error_type: problem.code().as_str().to_owned(),
        error_message: problem.detail().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_that_is_no_moment_is_none_and_one_that_is_over_leaves_nothing() {
        assert_eq!(time_until(600_000), Duration::MAX);
        assert_eq!(time_until(MOMENTS_FROM_MS), Duration::ZERO);
        assert!(time_until(deadline_in(Duration::from_secs(60))) > Duration::from_secs(50));
    }
}
