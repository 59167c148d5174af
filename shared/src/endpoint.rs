//! What every HTTP request goes through before and after its handler.
//!
//! Origin → route → identity → the handler → one answer and one log line. A handler only ever sees
//! a [`Call`], and a `Call` holds a `User`, so no handler can run for nobody. Must not know what
//! any handler does.

use std::time::Duration;

use lambda_http::{
    Body, Request, RequestExt, Response,
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{
            ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
            IF_MATCH, X_CONTENT_TYPE_OPTIONS,
        },
    },
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, DeserializeOwned},
};
use serde_json::Number;
use time::OffsetDateTime;
use tokio::sync::watch;

use crate::{
    audit::{self, AuditWriter, Outcome},
    auth::{Auth, AuthSetupError},
    aws::Aws,
    config::Config,
    events::{AnyBody, Reply, in_one_piece},
    https::HttpsError,
    invocation::time_until,
    origin::Origins,
    problem::{Code, Problem},
    provider::Provider,
    rate_limit::{Allowance, Class, LimitError, Limiter},
    telemetry::{Line, hashed, hashed_text},
    user::{Actor, User},
};

/// One address and what it does.
#[derive(Debug, Clone)]
pub struct Route<A> {
    /// The method.
    pub method: Method,
    /// The path; a segment written `{name}` matches any.
    pub path: &'static str,
    /// What the function does there.
    pub action: A,
    /// Whose limit it counts against.
    pub class: Class,
    /// Who may, and when it begins.
    pub effect: Effect,
}

/// What a route does to a person's things. Somebody who impersonates them may only look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing: runs beside the count, and over the limit its answer is withheld.
    Looks,
    /// Writes, opens or spends: begins when the count has let it through.
    Acts,
    /// As `Acts`, but reads first, beside the count, and goes on after [`Call::let_through`].
    ReadsThenActs,
}

/// One authenticated request.
#[derive(Debug)]
pub struct Call<A> {
    /// What to do.
    pub action: A,
    /// What stands in the path's `{name}`, or nothing.
    pub segment: String,
    /// Who is calling.
    pub user: User,
    /// When it arrived.
    pub now: OffsetDateTime,
    /// What the log and the audit log call it.
    pub request_id: String,
    query: String,
    headers: HeaderMap,
    deadline_ms: Option<u64>,
    body: Body,
    counted: watch::Receiver<Option<bool>>,
}

/// Who may call from where.
pub struct Endpoint {
    function: &'static str,
    deploy_env: String,
    auth: Auth,
    origins: Origins,
    limiter: Limiter,
    audit: AuditWriter,
}

/// Why a function did not start.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Callers could not be identified.
    #[error(transparent)]
    Auth(#[from] AuthSetupError),
    /// No client for the providers.
    #[error(transparent)]
    Https(#[from] HttpsError),
}

/// What is known of a request when it ends.
#[derive(Default)]
struct Known {
    route: Option<&'static str>,
    user: Option<String>,
    allowance: Option<Allowance>,
}

impl Endpoint {
    /// Made from the configuration, once, for `function`.
    ///
    /// # Errors
    /// When callers could not be identified.
    pub fn new(config: &Config, aws: &Aws, function: &'static str) -> Result<Self, AuthSetupError> {
        let table = config.table_name.clone();
        Ok(Self {
            function,
            deploy_env: config.deploy_env.clone(),
            auth: Auth::new(config.mode, config.clerk.as_ref())?,
            origins: Origins::new(config),
            limiter: Limiter::new(aws.dynamodb.clone(), table.clone(), &config.rate_limits),
            audit: AuditWriter::new(aws.dynamodb.clone(), table, function),
        })
    }

    /// Counts calls of `class` inside a request: one `UpdateItem` per limit.
    ///
    /// # Errors
    /// [`LimitError`]
    pub async fn count(
        &self,
        user: &User,
        class: Class,
        now: OffsetDateTime,
    ) -> Result<(), LimitError> {
        self.limiter.count(user, class, now).await.map(drop)
    }

    /// Answers one request with `act`, or with the failure that kept it from running.
    pub async fn answer<A, F, R>(
        &self,
        routes: &[Route<A>],
        request: Request,
        act: F,
    ) -> Response<Body>
    where
        A: Copy,
        F: FnOnce(Call<A>) -> R,
        R: Future<Output = Result<Response<Body>, Problem>>,
    {
        let asked = request.headers().clone();
        let (line, known, result) = self.run(routes, request, act).await;
        let request_id = line.request_id().to_owned();
        match &result {
            Ok(response) => line.end(response.status().as_u16(), None),
            Err(problem) => line.end(problem.status().as_u16(), Some(problem)),
        }
        let mut response = result.unwrap_or_else(|problem| problem.response(&request_id));
        self.describe(&asked, &known, response.headers_mut());
        response
    }

    /// As [`Self::answer`], where an answer may also be events that come one by one. Their line in the
    /// log is written when the last of them has been sent, and before the body ends.
    pub async fn answer_or_stream<A, F, R>(
        &self,
        routes: &[Route<A>],
        request: Request,
        act: F,
    ) -> Response<AnyBody>
    where
        A: Copy,
        F: FnOnce(Call<A>) -> R,
        R: Future<Output = Result<Reply, Problem>>,
    {
        let asked = request.headers().clone();
        let (line, known, result) = self.run(routes, request, act).await;
        let request_id = line.request_id().to_owned();
        let mut response = match result {
            Ok(Reply::Events(events)) => events.response(line),
            Ok(Reply::Whole(response)) => {
                line.end(response.status().as_u16(), None);
                in_one_piece(response)
            }
            Err(problem) => {
                line.end(problem.status().as_u16(), Some(&problem));
                in_one_piece(problem.response(&request_id))
            }
        };
        self.describe(&asked, &known, response.headers_mut());
        response
    }

    /// The headers that every answer carries.
    fn describe(&self, asked: &HeaderMap, known: &Known, headers: &mut HeaderMap) {
        guard(headers);
        if let Some(allowance) = known.allowance {
            headers.insert("ratelimit-limit", allowance.limit.into());
            headers.insert("ratelimit-remaining", allowance.remaining.into());
            headers.insert("ratelimit-reset", allowance.reset_s.into());
        }
        self.origins.describe(asked, headers);
    }

    async fn run<A, F, R, T>(
        &self,
        routes: &[Route<A>],
        request: Request,
        act: F,
    ) -> (Line, Known, Result<T, Problem>)
    where
        A: Copy,
        F: FnOnce(Call<A>) -> R,
        R: Future<Output = Result<T, Problem>>,
        T: From<Response<Body>>,
    {
        let mut line = Line::start(self.function, request.lambda_context_ref());
        line.method = shown(request.method());
        let request_id = line.request_id().to_owned();
        let mut known = Known::default();
        let work = self.admitted(routes, request, &request_id, act, &mut known);
        let result = line.counting(work).await;
        line.route = known.route.unwrap_or(line.route);
        line.user = known.user.take();
        (line, known, result)
    }

    /// Notes in `known` what it finds out on the way.
    async fn admitted<A, F, R, T>(
        &self,
        routes: &[Route<A>],
        request: Request,
        request_id: &str,
        act: F,
        known: &mut Known,
    ) -> Result<T, Problem>
    where
        A: Copy,
        F: FnOnce(Call<A>) -> R,
        R: Future<Output = Result<T, Problem>>,
        T: From<Response<Body>>,
    {
        let deadline = request.lambda_context_ref().map(|context| context.deadline);
        let (parts, body) = request.into_parts();
        self.origins.admit(&parts.headers)?;
        if parts.method == Method::OPTIONS {
            // A browser asks before it sends; it has no token yet.
            return Ok(empty(StatusCode::NO_CONTENT).into());
        }
        let (route, segment) = find(routes, &parts.method, path(&parts.uri, &parts))?;
        known.route = Some(route.path);
        let now = OffsetDateTime::now_utc();
        let user = self.admit(route, &parts.headers, now, request_id).await?;
        known.user = Some(hashed(&self.deploy_env, user.id()));
        let (tell, counted) = watch::channel(None);
        let counted_user = user.clone();
        let count = async {
            let counted = self.limiter.count(&counted_user, route.class, now).await;
            tell.send_replace(Some(counted.is_ok()));
            counted
        };
        // On the heap: each layer that takes a future by value doubles its size, and these hold several
        // SDK calls; without this a debug build overflows its stack.
        let work = Box::pin(act(Call {
            action: route.action,
            segment: segment.to_owned(),
            user,
            now,
            request_id: request_id.to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            deadline_ms: deadline,
            body,
            counted,
        }));
        let (result, left) = within_limit(route.effect, count, work).await;
        known.allowance = left;
        result
    }

    /// Who is calling, if they may call this route. Whoever is signed in on a user's behalf may only
    /// look, and is on that user's audit log before they do.
    async fn admit<A>(
        &self,
        route: &Route<A>,
        headers: &HeaderMap,
        now: OffsetDateTime,
        request_id: &str,
    ) -> Result<User, Problem> {
        let user = self.auth.user(headers, now).await?;
        if user.actor().is_some() {
            let asked = format!("{} {}", shown(&route.method), route.path);
            let event = audit::Event {
                action: audit::Action::Look,
                provider: None,
                kid: None,
                purpose: Some(&asked),
                request_id,
                now,
            };
            // Rare, so not part of what every request carries along.
            Box::pin(self.look(&user, route.effect, &event)).await?;
        }
        Ok(user)
    }

    async fn look(
        &self,
        user: &User,
        effect: Effect,
        event: &audit::Event<'_>,
    ) -> Result<(), Problem> {
        let actor = user.actor().map(Actor::as_str).unwrap_or_default();
        let actor = hashed_text(&self.deploy_env, actor);
        tracing::warn!(
            actor,
            route = event.purpose,
            request_id = event.request_id,
            "impersonation"
        );
        match effect {
            Effect::Looks => Ok(self.audit.write(user, event, Outcome::Ok).await?),
            Effect::Acts | Effect::ReadsThenActs => {
                self.audit.note(user, event, Outcome::Refused).await;
                Err(Problem::advising(Code::Forbidden))
            }
        }
    }
}

/// What every answer carries, wherever it comes from: it is not stored, guessed at, shown in a frame
/// or loaded into another site's page. A page's own content security policy stays.
pub fn guard(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert("cross-origin-resource-policy", same_origin);
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
}

/// Whether a body is said to be JSON, once, and in no other coding.
#[must_use]
pub fn is_plain_json(headers: &HeaderMap) -> bool {
    let texts = |name| headers.get_all(name).iter().map(|value| value.to_str());
    let mut types = texts(CONTENT_TYPE);
    let (Some(Ok(of)), None) = (types.next(), types.next()) else {
        return false;
    };
    let media_type = of.split(';').next().unwrap_or("").trim();
    let mut codings = texts(CONTENT_ENCODING);
    media_type.eq_ignore_ascii_case("application/json")
        && codings.all(|coding| coding.is_ok_and(|of| of.eq_ignore_ascii_case("identity")))
}

impl<A> Call<A> {
    /// The first value of a query parameter, decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<String> {
        let mut pairs = form_urlencoded::parse(self.query.as_bytes());
        let found = pairs.find(|(n, _)| n == name);
        found.map(|(_, value)| value.into_owned())
    }

    /// Done when the call has been counted against its limit and may act.
    ///
    /// # Errors
    /// Over the limit, or not countable; the caller hears which from the count itself.
    pub async fn let_through(&self) -> Result<(), Problem> {
        let mut counted = self.counted.clone();
        match counted.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(true)) => Ok(()),
            _ => Err(Problem::advising(Code::RateLimited)),
        }
    }

    /// What the audit log will say of this call.
    #[must_use]
    pub fn event<'a>(
        &'a self,
        action: audit::Action,
        provider: Option<Provider>,
        kid: Option<&'a str>,
    ) -> audit::Event<'a> {
        audit::Event {
            action,
            provider,
            kid,
            purpose: None,
            request_id: &self.request_id,
            now: self.now,
        }
    }

    /// Time until Lambda ends this invocation; `None` elsewhere.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline_ms.map(time_until)
    }

    /// Whether the caller asks for server-sent events in `Accept`.
    #[must_use]
    pub fn accepts_events(&self) -> bool {
        let accept = self
            .headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok());
        accept.is_some_and(|accept| accept.contains("text/event-stream"))
    }

    /// The version in `If-Match: "<version>"`, where there is one.
    ///
    /// # Errors
    /// 400 for anything but one quoted number.
    pub fn if_match(&self) -> Result<Option<u64>, Problem> {
        let Some(value) = self.headers.get(IF_MATCH) else {
            return Ok(None);
        };
        let quoted = value.to_str().ok().and_then(|text| {
            let number = text.strip_prefix('"')?.strip_suffix('"')?;
            number.parse().ok()
        });
        let detail = "If-Match takes the version of the key in double quotes.";
        quoted
            .map(Some)
            .ok_or_else(|| Problem::invalid_request(detail))
    }

    /// As [`Self::json`], where a call without a body means `T`'s default.
    ///
    /// # Errors
    /// 413, 415 or 400.
    pub fn json_or_nothing<T: DeserializeOwned + Default>(
        &self,
        limit_bytes: usize,
        shape: &'static str,
    ) -> Result<T, Problem> {
        match self.body.is_empty() {
            true => Ok(T::default()),
            false => self.json(limit_bytes, shape),
        }
    }

    /// The body as `T`, which denies unknown fields; `shape` tells people what is expected.
    ///
    /// # Errors
    /// 413, 415 or 400; what was sent is never repeated, since it may hold a key.
    pub fn json<T: DeserializeOwned>(
        &self,
        limit_bytes: usize,
        shape: &'static str,
    ) -> Result<T, Problem> {
        let bytes: &[u8] = self.body.as_ref();
        if bytes.len() > limit_bytes {
            return Err(Problem::too_large(limit_bytes));
        }
        if !is_plain_json(&self.headers) {
            return Err(Problem::not_json());
        }
        // serde would read an array as an object whose fields stand in order.
        let object = bytes.trim_ascii_start().starts_with(b"{");
        // Its error repeats values, so it is dropped unread.
        let read = object.then(|| serde_json::from_slice(bytes).ok()).flatten();
        read.ok_or_else(|| Problem::invalid_request(format!("Send one JSON object: {shape}.")))
    }
}

/// Does `work` if the count allows it.
async fn within_limit<T>(
    effect: Effect,
    count: impl Future<Output = Result<Option<Allowance>, LimitError>>,
    work: impl Future<Output = Result<T, Problem>>,
) -> (Result<T, Problem>, Option<Allowance>) {
    let (counted, done) = match effect {
        Effect::Looks | Effect::ReadsThenActs => tokio::join!(count, work),
        Effect::Acts => match count.await {
            Ok(left) => (Ok(left), work.await),
            Err(error) => return refused(error),
        },
    };
    match counted {
        Ok(left) => (done, left),
        Err(error) => refused(error),
    }
}

fn refused<T>(error: LimitError) -> (Result<T, Problem>, Option<Allowance>) {
    let left = match &error {
        LimitError::Limited(left) => Some(*left),
        LimitError::Streams { .. } | LimitError::Table(_) => None,
    };
    (Err(error.into()), left)
}

/// For a field with an optional whole number: also one written as `7.0`, since JSON and JSON Schema
/// know one kind of number.
///
/// # Errors
/// For anything else, and for what does not fit into `T`.
pub fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(d: D) -> Result<Option<T>, D::Error> {
    /// Up to here every whole number is exactly one `f64`.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<Number>::deserialize(d)? else {
        return Ok(None);
    };
    let exact = |number: &f64| (0.0..EXACT_MAX).contains(number) && number.fract() == 0.0;
    let whole = number.as_u64().or_else(|| {
        let number = number.as_f64().filter(exact)?;
        Some(number as u64)
    });
    let fits = whole.and_then(|whole| T::try_from(whole).ok());
    fits.map(Some)
        .ok_or_else(|| de::Error::custom("not a whole number"))
}

/// 200 with a JSON body.
///
/// # Errors
/// 500 when `body` cannot be written down.
pub fn json(body: &impl Serialize) -> Result<Response<Body>, Problem> {
    let text = serde_json::to_string(body)
        .map_err(|_| Problem::internal("an answer that cannot be written as JSON"))?;
    let mut response = Response::new(Body::from(text));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    Ok(response)
}

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// The route for `method` and `path`, and what stands in its `{name}`. A path that is some route's
/// own, letter for letter, is no `{name}` of another.
///
/// # Errors
/// 404, or 405 with the methods this path has.
pub fn find<'r, 'p, A>(
    routes: &'r [Route<A>],
    method: &Method,
    path: &'p str,
) -> Result<(&'r Route<A>, &'p str), Problem> {
    let literal = routes.iter().any(|route| route.path == path);
    let mut allowed = Vec::new();
    for route in routes {
        let Some(segment) = matched(route.path, path) else {
            continue;
        };
        if literal && route.path != path {
            continue;
        }
        if route.method == *method {
            return Ok((route, segment));
        }
        allowed.push(route.method.as_str());
    }
    match allowed.is_empty() {
        true => Err(Problem::not_found()),
        false => Err(Problem::method_not_allowed(allowed.join(", "))),
    }
}

/// What stands in the pattern's `{name}`, empty without one; `None` when `path` does not match.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<&'p str> {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut segment = "";
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(segment),
            (Some(name), Some(text)) if name.starts_with('{') && !text.is_empty() => segment = text,
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// The path without the gateway's stage.
#[must_use]
pub fn path<'r>(uri: &'r Uri, request: &'r impl RequestExt) -> &'r str {
    match request.raw_http_path() {
        "" => uri.path(),
        path => path,
    }
}

/// Methods have names of our choosing in the log, whatever was sent.
fn shown(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &[Route<u8>] = &[
        Route {
            method: Method::GET,
            path: "/api/keys",
            action: 1,
            class: Class::Read,
            effect: Effect::Acts,
        },
        Route {
            method: Method::DELETE,
            path: "/api/keys/{provider}",
            action: 2,
            class: Class::Read,
            effect: Effect::Acts,
        },
    ];

    #[test]
    fn a_whole_number_may_be_written_with_a_point_and_nothing_else_passes() {
        let read = |text: &str| {
            let read: Result<Option<u16>, _> = whole(&mut serde_json::Deserializer::from_str(text));
            read.ok()
        };
        for (text, number) in [
            ("7", 7),
            ("7.0", 7),
            ("70e-1", 7),
            ("0", 0),
            ("65535.0", 65_535),
        ] {
            assert_eq!(read(text), Some(Some(number)), "{text}");
        }
        assert_eq!(read("null"), Some(None));
        for text in [
            "7.5", "-1", "-1.0", "65536", "1e300", "\"7\"", "true", "[7]", "{}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_path_matches_as_a_whole_or_not_at_all() {
        let found = |method, path| find(ROUTES, &method, path).map(|(r, s)| (r.action, s)).ok();
        assert_eq!(found(Method::GET, "/api/keys"), Some((1, "")));
        assert_eq!(found(Method::DELETE, "/api/keys/exa"), Some((2, "exa")));
        for path in [
            "/api/keys/",
            "/api",
            "/api/keys/exa/x",
            "//api/keys",
            "/API/keys",
            "",
        ] {
            assert_eq!(found(Method::DELETE, path), None, "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_405_and_a_wrong_path_404() {
        let status = |method, path| {
            find(ROUTES, &method, path).map_or_else(|p| p.status().as_u16(), |_| 200)
        };
        assert_eq!(status(Method::PUT, "/api/keys"), 405);
        assert_eq!(status(Method::GET, "/api/other"), 404);
    }
}
