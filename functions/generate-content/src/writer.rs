//! Asks a provider for text and reads it as it comes.
//!
//! Another try is made before the first part only, since after it the person would pay twice. Time is
//! kept here: for the first part, between parts and for the whole.

use std::{
    collections::VecDeque,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    stream::{once, try_unfold},
};
use lambda_http::http::header::CONTENT_TYPE;
use sse_stream::SseByteStream;
use tokio::time::{sleep, timeout};
use user_api_keys::{
    api_key::ApiKey,
    config::{Config, base_url},
    https::{Https, HttpsError, read, with_key},
    provider::{Dialect, Provider, Writes},
    usage::Usage,
};

use crate::{
    dialect::{self, Part, Prompt, Refused},
    failure::{Failure, Then},
};

const ANSWER_MAX_BYTES: usize = 8 * 1024 * 1024;
/// One line; real ones are far shorter.
const LINE_MAX_BYTES: usize = 1024 * 1024;
const FAILURE_MAX_BYTES: usize = 64 * 1024;
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(250);
/// A provider that wants a longer pause than this is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// What is left to the function for its records and its answer.
const RESERVE: Duration = Duration::from_secs(2);

/// How long a provider is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From the request to the first part.
    pub(crate) first: Duration,
    /// From one part to the next.
    pub(crate) between: Duration,
    /// After the provider said why it ended, for its last counts.
    pub(crate) after: Duration,
    /// For all of it.
    pub(crate) whole: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(30),
            between: Duration::from_secs(30),
            after: Duration::from_secs(5),
            whole: Duration::from_secs(10 * 60),
        }
    }
}

/// Asks providers for text.
pub(crate) struct Writer {
    https: Https,
    base_urls: Vec<(Provider, String)>,
    pub(crate) patience: Patience,
}

/// Who is asked for what.
pub(crate) struct Order<'a> {
    pub(crate) provider: Provider,
    pub(crate) model: &'a str,
    pub(crate) key: &'a ApiKey,
    pub(crate) prompt: &'a Prompt,
}

type Events = Pin<Box<dyn Stream<Item = Result<String, Broken>> + Send>>;

/// Why no further event comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Https(#[from] HttpsError),
    #[error("a line too long")]
    LineTooLong,
    #[error("not its events")]
    Malformed,
}

/// An answer under way.
pub(crate) struct Running {
    title: &'static str,
    dialect: Dialect,
    events: Events,
    parts: VecDeque<Part>,
    finish: Option<&'static str>,
    usage: Usage,
    patience: Patience,
    ends: Instant,
}

/// How an answer ended.
pub(crate) struct Ended {
    pub(crate) finish_reason: &'static str,
    pub(crate) usage: Usage,
}

impl Writer {
    /// Asks where `config` says the providers are.
    pub(crate) fn new(https: Https, config: &Config) -> Self {
        Self {
            https,
            base_urls: config.base_urls.clone(),
            patience: Patience::default(),
        }
    }

    /// Asks until the first part is there, or asking again makes no sense; within `left`.
    pub(crate) async fn begin(
        &self,
        order: &Order<'_>,
        left: Option<Duration>,
    ) -> Result<Running, Failure> {
        let started = Instant::now();
        let whole = left.map_or(self.patience.whole, |left| {
            left.saturating_sub(RESERVE).min(self.patience.whole)
        });
        let ends = started + whole;
        let mut tries = 0;
        loop {
            tries += 1;
            let failure = match self.once(order, ends).await {
                Ok(running) => return Ok(running),
                Err(failure) => failure,
            };
            let Then::Again(after) = failure.then else {
                return Err(failure);
            };
            let jitter = 0.5 + fastrand::f64() / 2.0;
            let pause = after.unwrap_or_else(|| PAUSE.mul_f64(f64::from(1 << tries) * jitter));
            if tries == ATTEMPTS || pause > PAUSE_MAX || Instant::now() + pause >= ends {
                return Err(failure);
            }
            sleep(pause).await;
        }
    }

    async fn once(&self, order: &Order<'_>, ends: Instant) -> Result<Running, Failure> {
        let facts = order.provider.facts();
        let title = facts.title;
        let Some(writes) = &facts.writes else {
            let detail = format!("{title} writes no text; choose another provider.");
            return Err(Failure::invalid(detail, "no dialect"));
        };
        let first = self
            .patience
            .first
            .min(ends.saturating_duration_since(Instant::now()));
        let slow = |_| Failure::unavailable(title, "no first part in time");
        let begun = timeout(first, async {
            let events = self.ask(order, writes).await?;
            let mut running = Running::new(title, writes.dialect, events, self.patience, ends);
            running.first_part().await?;
            Ok(running)
        });
        begun.await.map_err(slow)?
    }

    async fn ask(&self, order: &Order<'_>, writes: &Writes) -> Result<Events, Failure> {
        let title = order.provider.facts().title;
        let unavailable = |error: HttpsError| Failure::unavailable(title, error);
        let base_url = base_url(&self.base_urls, order.provider);
        let path = dialect::path(writes.dialect, order.model);
        let request = self.https.post(&format!("{base_url}{path}"));
        let response = with_key(request, &writes.key, order.key)
            .map_err(unavailable)?
            .json(&dialect::body(writes.dialect, order.model, order.prompt))
            .send()
            .await
            .map_err(|error| unavailable(error.into()))?;
        if response.status() != 200 {
            let refused = read(response, FAILURE_MAX_BYTES)
                .await
                .map_err(unavailable)?;
            return Err(dialect::failure(
                writes.dialect,
                &Refused {
                    title,
                    status: refused.status,
                    headers: &refused.headers,
                    body: &refused.body,
                },
            ));
        }
        let media_type = response.headers().get(CONTENT_TYPE);
        let media_type = media_type
            .and_then(|value| value.to_str().ok())
            .unwrap_or("");
        // Some gateways answer a stream's request with all of it.
        if media_type.starts_with("application/json") {
            let whole = read(response, ANSWER_MAX_BYTES)
                .await
                .map_err(unavailable)?;
            let text = String::from_utf8(whole.body).map_err(|_| Broken::Malformed);
            return Ok(Box::pin(once(async { text })));
        }
        Ok(events(chunks(response)))
    }
}

/// The body as the network cuts it.
fn chunks(response: reqwest::Response) -> impl Stream<Item = Result<Bytes, HttpsError>> + Send {
    try_unfold(response, async |mut response| {
        let chunk = response.chunk().await?;
        Ok(chunk.map(|chunk| (chunk, response)))
    })
}

/// The data of each event.
fn events(chunks: impl Stream<Item = Result<Bytes, HttpsError>> + Send + 'static) -> Events {
    let (mut all, mut line) = (0, 0);
    let chunks = chunks.map(move |chunk| {
        let chunk = chunk?;
        all += chunk.len();
        // What stands after the last line break, or is added to the line that was begun.
        line = match chunk.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => chunk.len() - end,
            None => line + chunk.len(),
        };
        if all > ANSWER_MAX_BYTES {
            return Err(Broken::Https(HttpsError::TooLarge));
        }
        if line > LINE_MAX_BYTES {
            return Err(Broken::LineTooLong);
        }
        Ok(chunk)
    });
    // The last event counts also when nobody closed it with an empty line.
    let closed = chunks.chain(once(async { Ok(Bytes::from_static(b"\n\n")) }));
    let events = SseByteStream::new(Box::pin(closed)).map_err(|error| match error {
        sse_stream::Error::Body(error) => {
            error.downcast().map_or(Broken::Malformed, |broken| *broken)
        }
        _ => Broken::Malformed,
    });
    // A block without data is no event.
    Box::pin(events.try_filter_map(async |event| Ok(event.data)))
}

impl Running {
    fn new(
        title: &'static str,
        dialect: Dialect,
        events: Events,
        patience: Patience,
        ends: Instant,
    ) -> Self {
        Self {
            title,
            dialect,
            events,
            parts: VecDeque::new(),
            finish: None,
            usage: Usage::default(),
            patience,
            ends,
        }
    }

    /// Reads until there is something to show or the end is known.
    async fn first_part(&mut self) -> Result<(), Failure> {
        let unavailable = |cause: String| Failure::unavailable(self.title, cause);
        loop {
            let event = match self.events.next().await {
                Some(Ok(event)) => event,
                Some(Err(broken)) => return Err(unavailable(broken.to_string())),
                None => return Err(unavailable("an empty answer".to_owned())),
            };
            let parts = dialect::parts(self.dialect, self.title, &event)
                .ok_or_else(|| unavailable("not its JSON".to_owned()))?;
            for part in parts {
                match part {
                    // Before any text another try costs nothing.
                    Part::Failed(failure) => return Err(failure),
                    part => self.parts.push_back(part),
                }
            }
            let shows = |part: &Part| match part {
                Part::Text(text) => !text.is_empty(),
                Part::Finish(_) => true,
                Part::Usage(_) | Part::Failed(_) => false,
            };
            if self.parts.iter().any(shows) {
                return Ok(());
            }
        }
    }

    /// The next piece of text; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            match self.parts.pop_front() {
                Some(Part::Text(text)) if text.is_empty() => continue,
                Some(Part::Text(text)) => return Ok(Some(text)),
                Some(Part::Usage(usage)) => self.count(usage),
                Some(Part::Finish(reason)) => self.finish = Some(reason),
                Some(Part::Failed(failure)) => return Err(after_output(self.title, failure)),
                None if !self.more().await? => return Ok(None),
                None => {}
            }
        }
    }

    /// Reads one more event; `false` when there is none and the provider said why it ended.
    async fn more(&mut self) -> Result<bool, Failure> {
        let wait = match self.finish {
            Some(_) => self.patience.after,
            None => self.patience.between,
        };
        let wait = wait.min(self.ends.saturating_duration_since(Instant::now()));
        let cause = match timeout(wait, self.events.next()).await {
            Ok(Some(Ok(data))) if data == "[DONE]" => {
                self.stop();
                return Ok(true);
            }
            Ok(Some(Ok(data))) => match dialect::parts(self.dialect, self.title, &data) {
                Some(parts) => {
                    self.parts.extend(parts);
                    return Ok(true);
                }
                None => "not its JSON".to_owned(),
            },
            Ok(Some(Err(broken))) => broken.to_string(),
            Ok(None) => "an end without a reason".to_owned(),
            Err(_) => "nothing more in time".to_owned(),
        };
        match self.finish {
            Some(_) => Ok(false),
            None => Err(Failure::cut(self.title, cause)),
        }
    }

    /// Hangs up; what has come already can still be read.
    pub(crate) fn stop(&mut self) {
        self.events = Box::pin(futures_util::stream::empty());
    }

    /// Providers count as they go, each field when they know it.
    fn count(&mut self, usage: Usage) {
        let all = &mut self.usage;
        all.prompt_tokens = all.prompt_tokens.max(usage.prompt_tokens);
        all.output_tokens = all.output_tokens.max(usage.output_tokens);
        let sum = all.prompt_tokens.saturating_add(all.output_tokens);
        all.total_tokens = all.total_tokens.max(usage.total_tokens).max(sum);
    }

    /// How it ended, after [`Self::next`] said that it did; until then, what is known.
    pub(crate) fn ended(&self) -> Ended {
        Ended {
            finish_reason: self.finish.unwrap_or("other"),
            usage: self.usage,
        }
    }
}

/// What a failure is once there has been text: never tried again, since it would be paid twice.
fn after_output(title: &str, failure: Failure) -> Failure {
    match failure.then {
        Then::Again(_) => Failure::cut(title, failure.problem.cause()),
        Then::Stop | Then::KeyIsBad => failure,
    }
}

/// Reads an answer that comes in these pieces: its text and why it ended, or why not. For `fuzz/`.
///
/// # Errors
/// The failure's code and cause.
#[cfg(feature = "fuzzing")]
pub async fn read_answer(
    dialect: Dialect,
    pieces: Vec<Bytes>,
) -> Result<(String, &'static str), String> {
    let said =
        |failure: Failure| format!("{:?} {}", failure.problem.code(), failure.problem.cause());
    let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok));
    let (patience, ends) = (
        Patience::default(),
        Instant::now() + Duration::from_secs(60),
    );
    let mut running = Running::new("Provider", dialect, events(pieces), patience, ends);
    running.first_part().await.map_err(said)?;
    let mut text = String::new();
    while let Some(piece) = running.next().await.map_err(said)? {
        text.push_str(&piece);
    }
    Ok((text, running.ended().finish_reason))
}

#[cfg(test)]
mod tests;
