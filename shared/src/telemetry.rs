//! Logs and metrics: JSON lines on standard error.
//!
//! One line per request ([`Line`]); metrics in CloudWatch's embedded metric format, in Production
//! only, and never with a person in them. `LOG_LEVEL` (default `info`) moves our own lines only.
//! Libraries stay at `warn`: below that, the SDK and the HTTP stack write bodies and headers, and
//! those hold keys and tokens; a release is compiled without anything below `info`.

use std::{cell::Cell, io::Write as _, sync::OnceLock, time::Instant};

use lambda_http::Context;
use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_cloudwatch_embedded::{Builder, Collector};
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

use crate::{
    config::Config,
    mode::Mode,
    problem::{Code, Problem},
    provider::Provider,
    user::{UserId, fingerprint},
};

/// Our crates, as `tracing` names them.
const OURS: &[&str] = &[
    "user_api_keys",
    "save_keys",
    "fetch_keys",
    "generate_content",
    "onboarding",
    "open_keys",
    "rotate_keys",
    "check_keys",
    "local",
];
/// With the stack's name behind it: several stacks of one account do not mix.
const NAMESPACE: &str = "user-api-keys";

/// A release that could write what the SDK says of bodies does not build.
#[cfg(not(debug_assertions))]
const _: () = assert!(matches!(
    tracing::level_filters::STATIC_MAX_LEVEL.into_level(),
    Some(tracing::Level::INFO)
));

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();

/// Starts the log, and in Production the metrics; a second call changes nothing.
pub fn init(config: &Config) {
    let ours = OURS.iter().map(|target| (*target, config.log_level));
    let filter = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_targets(ours);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::io::stderr);
    // Already started: the first one stays.
    registry().with(filter).with(lines).try_init().ok();
    if config.mode == Mode::Local {
        return;
    }
    let namespace = format!("{NAMESPACE}/{}", config.deploy_env);
    if let Ok(collector) = Builder::new().cloudwatch_namespace(namespace).init() {
        COLLECTOR.set(collector).ok();
        describe_histogram!("latency", Unit::Milliseconds, "from arrival to answer");
        for name in [
            "failures",
            "unauthorized",
            "opens",
            "sealing_failures",
            "keys_opened",
            "audit_failures",
            "access_denied",
            "throttles",
            "rows",
        ] {
            describe_counter!(name, Unit::Count, "");
        }
    }
}

/// Writes what has been counted since the last time, as one piece.
fn flush() {
    let Some(collector) = COLLECTOR.get() else {
        return;
    };
    let mut lines = Vec::new();
    // A metric that cannot be written down is not worth failing a request for.
    if collector.flush(&mut lines).is_ok() {
        std::io::stderr().lock().write_all(&lines).ok();
    }
}

/// The two services whose calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    DynamoDb,
    Kms,
}

impl Service {
    const fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "dynamodb",
            Self::Kms => "kms",
        }
    }
}

/// Calls of one request, every attempt counted.
#[derive(Debug)]
struct Calls {
    function: &'static str,
    dynamodb: Cell<u32>,
    kms: Cell<u32>,
}

tokio::task_local! {
    static CALLS: Calls;
}

/// A call is about to be sent.
pub(crate) fn calling(service: Service) {
    // Outside a request, at start, nobody counts.
    let _ = CALLS.try_with(|calls| {
        let count = match service {
            Service::DynamoDb => &calls.dynamodb,
            Service::Kms => &calls.kms,
        };
        count.set(count.get() + 1);
    });
}

/// The function whose request is being worked on, for those who record which one makes which call.
#[must_use]
pub fn function() -> Option<&'static str> {
    CALLS.try_with(|calls| calls.function).ok()
}

/// A call was throttled, whether or not a later attempt goes through.
pub(crate) fn throttled(service: Service) {
    // At start connections are opened, and no call is made.
    if function().is_none() {
        return;
    }
    counter!("throttles", "service" => service.name()).increment(1);
}

/// A call was refused to this function's role, or under a key policy: somebody changed one, or the
/// function does what it is not made for.
pub(crate) fn denied(service: Service) {
    counter!("access_denied", "service" => service.name()).increment(1);
}

/// A key was opened. Also counted as one number for all: an alarm on a norm takes no sum of many.
pub(crate) fn opened(function: &'static str, provider: Provider) {
    counter!("opens", "function" => function, "provider" => provider.name()).increment(1);
    counter!("keys_opened").increment(1);
}

/// What was done with a key is not on its owner's audit log, or not how it ended.
pub(crate) fn not_audited(function: &'static str) {
    counter!("audit_failures", "function" => function).increment(1);
}

/// A ciphertext did not open, or was refused for what is in it.
pub(crate) fn sealing_failed(function: &'static str, kind: &'static str) {
    counter!("sealing_failures", "function" => function, "kind" => kind).increment(1);
}

/// Rows of a job came to an end.
pub(crate) fn swept(job: &'static str, outcome: &'static str, rows: u64) {
    counter!("rows", "job" => job, "outcome" => outcome).increment(rows);
}

/// Names a person in logs without naming them: the first 16 hex digits of a SHA-256 that differs
/// from stack to stack.
#[must_use]
pub fn hashed(deploy_env: &str, user: &UserId) -> String {
    hashed_text(deploy_env, user.as_str())
}

/// The same for what stands in a user id's place in a row.
pub fn hashed_text(deploy_env: &str, user: &str) -> String {
    fingerprint(&format!("{deploy_env}\n{user}"))
}

/// The one log line of a request or an invocation, and the metrics that go with it.
#[derive(Debug)]
pub struct Line {
    function: &'static str,
    request_id: String,
    trace_id: Option<String>,
    started: Instant,
    calls: (u32, u32),
    /// What was asked for: the route's pattern and never the path, which may hold anything.
    pub route: &'static str,
    /// The method, or `invoke`.
    pub method: &'static str,
    /// Who asked, [`hashed`].
    pub user: Option<String>,
}

impl Line {
    /// Starts with the request's arrival; `context` is there on Lambda.
    #[must_use]
    pub fn start(function: &'static str, context: Option<&Context>) -> Self {
        let request_id = context.map(|context| context.request_id.clone());
        Self {
            function,
            request_id: request_id.unwrap_or_else(|| ulid::Ulid::new().to_string()),
            trace_id: context.and_then(|context| context.xray_trace_id.clone()),
            started: Instant::now(),
            calls: (0, 0),
            route: "-",
            method: "invoke",
            user: None,
        }
    }

    /// The Lambda invocation's id; where there is none, one of our own.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Does `work` and adds its calls to those before.
    pub async fn counting<T>(&mut self, work: impl Future<Output = T>) -> T {
        let counted = async {
            let done = work.await;
            let calls = CALLS.with(|calls| (calls.dynamodb.get(), calls.kms.get()));
            (done, calls)
        };
        let none_yet = Calls {
            function: self.function,
            dynamodb: Cell::default(),
            kms: Cell::default(),
        };
        let (done, calls) = CALLS.scope(none_yet, counted).await;
        self.calls.0 += calls.0;
        self.calls.1 += calls.1;
        done
    }

    /// Writes it.
    pub fn end(self, status: u16, problem: Option<&Problem>) {
        let latency = self.started.elapsed();
        let code = problem.map_or("ok", |problem| problem.code().as_str());
        let route = format!("{} {}", self.method, self.route);
        histogram!("latency", "function" => self.function, "route" => route)
            .record(latency.as_secs_f64() * 1e3);
        if let Some(problem) = problem {
            count_failure(self.function, problem);
        }
        let Self {
            function,
            request_id,
            trace_id,
            calls: (dynamodb, kms),
            route,
            method,
            user,
            ..
        } = self;
        let ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        let cause = problem
            .map(Problem::cause)
            .filter(|cause| !cause.is_empty());
        let event = problem.and_then(Problem::event);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    function, method, route, status, code, event, cause, ms, dynamodb, kms,
                    request_id, trace_id, user, "request"
                )
            };
        }
        match problem.is_some_and(|problem| problem.status().is_server_error()) {
            true => line!(error),
            false => line!(info),
        }
        flush();
    }
}

fn count_failure(function: &'static str, problem: &Problem) {
    let code = problem.code();
    counter!("failures", "function" => function, "code" => code.as_str()).increment(1);
    let Some(event) = problem.event() else {
        return;
    };
    match code {
        Code::Unauthorized => {
            counter!("unauthorized", "function" => function, "reason" => event).increment(1);
        }
        _ => sealing_failed(function, event),
    }
}
