//! From a request to its text: keys, research, the first provider that answers, and the receipt.

use std::sync::Arc;

use futures_util::future::join_all;
use lambda_http::{Body, Response};
use serde::Serialize;
use time::OffsetDateTime;
use user_api_keys::{
    audit::{self, Outcome},
    endpoint::{Call, json},
    events::{EventSender, Events, Gone, Reply},
    open_streams::OpenStream,
    problem::{Code, Problem},
    provider::Provider,
    rate_limit::{Class, LimitError},
    usage::Usage,
    user::User,
    user_api_keys::{Credential, Found, KeyError, Opened, UserApiKeys},
};
use utoipa::ToSchema;

use crate::{
    Action, Deps,
    exa::{Research, Source, with_sources},
    failure::{Failure, Then},
    request::{Choice, GenerateRequest, Job},
    writer::{Order, Running},
};

/// A text and what paid for it.
#[derive(Serialize, ToSchema)]
#[schema(example = json!({"content": "Hello", "provider": "gemini", "model": "gemini-3.8-flash",
    "finish_reason": "stop", "usage": {"prompt_tokens": 2, "output_tokens": 1, "total_tokens": 3},
    "sources": [], "credential": {"provider": "gemini", "kid": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "hint": "0001"}}))]
struct GenerateAnswer {
    content: String,
    #[schema(value_type = Provider)]
    provider: &'static str,
    model: String,
    /// `stop`, `length` or `other`.
    finish_reason: &'static str,
    usage: Usage,
    /// The pages that were quoted, as they are numbered in the text.
    sources: Vec<Source>,
    /// What paid.
    credential: Credential,
    /// What paid for the research.
    #[serde(skip_serializing_if = "Option::is_none")]
    research_credential: Option<Credential>,
    /// What did not go as usual.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    warnings: Vec<String>,
}

/// One server-sent event of a streamed answer.
#[derive(ToSchema)]
#[schema(example = json!({"event": "delta", "data": "{\"text\":\"Hello\"}"}))]
#[expect(dead_code, reason = "it describes what is sent, and is never made")]
struct GenerateEvent {
    /// `start` (provider, model, credential, warnings), `sources`, `delta` (text), `done`
    /// (finish_reason, usage) or, in its place, `error` (a problem).
    #[schema(pattern = "^(start|sources|delta|done|error)$")]
    event: String,
    /// A JSON object.
    data: String,
}

/// The first event.
#[derive(Serialize)]
struct Start<'a> {
    provider: &'static str,
    model: &'a str,
    credential: &'a Credential,
    #[serde(skip_serializing_if = "Option::is_none")]
    research_credential: Option<&'a Credential>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Sources<'a> {
    sources: &'a [Source],
}

#[derive(Serialize)]
struct Delta<'a> {
    text: &'a str,
}

#[derive(Serialize)]
struct Done {
    finish_reason: &'static str,
    usage: Usage,
}

/// An answer that has begun.
struct Begun {
    choice: Choice,
    credential: Credential,
    research_credential: Option<Credential>,
    sources: Vec<Source>,
    warnings: Vec<String>,
    running: Running,
}

/// What an answer cost, and what paid for it.
#[derive(Clone, Copy)]
struct Paid<'a> {
    usage: Usage,
    credential: &'a Credential,
    research_credential: Option<&'a Credential>,
}

impl Begun {
    /// As far as it is known by now.
    fn paid(&self) -> Paid<'_> {
        Paid {
            usage: self.running.ended().usage,
            credential: &self.credential,
            research_credential: self.research_credential.as_ref(),
        }
    }
}

/// Write a text, paid by the caller's own key.
///
/// Two round trips before the provider: the rows it needs beside the count, then `Decrypt` beside the
/// audit record. With `stream: true`, or `Accept: text/event-stream`, the answer is events: `start`
/// (provider, model, credential, warnings), `sources`, `delta` (text), `done` (finish_reason, usage),
/// or `error` (a problem) in its place.
#[utoipa::path(
    post,
    path = "/api/generate",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "the whole text, or events", content(
            (GenerateAnswer = "application/json"),
            (GenerateEvent = "text/event-stream"),
        )),
        (status = 400, description = "invalid_request, unknown_provider"),
        (status = 409, description = "no_api_key, api_key_expired, api_key_paused"),
        (status = 422, description = "provider_rejected_key, content_blocked"),
        (status = 429, description = "provider_rate_limited"),
        (status = 502, description = "provider_unavailable"),
    )
)]
pub(crate) async fn generate(deps: Arc<Deps>, call: Call<Action>) -> Result<Reply, Problem> {
    let job = Job::of(&call, &deps.models)?;
    if job.stream {
        return begin_stream(deps, call, job).await;
    }
    let mine = UserApiKeys::of(&call.user, &deps.access, deps.developer.as_ref());
    let found = find_keys(&mine, &call, &job).await?;
    let mut begun = begin(&deps, &call, &job, &mine, found).await?;
    let mut content = String::new();
    while let Some(text) = next(&deps, &call.user, call.now, &mut begun).await? {
        content.push_str(&text);
    }
    note_end(&deps, &call.user, begun.paid(), call.now).await;
    let ended = begun.running.ended();
    let response: Response<Body> = json(&GenerateAnswer {
        content,
        provider: begun.choice.provider.name(),
        model: begun.choice.model,
        finish_reason: ended.finish_reason,
        usage: ended.usage,
        sources: begun.sources,
        credential: begun.credential,
        research_credential: begun.research_credential,
        warnings: begun.warnings,
    })?;
    Ok(response.into())
}

/// As many streams of one user as there are places: one is taken beside the reads and the count, and
/// given back on every way out.
async fn begin_stream(deps: Arc<Deps>, call: Call<Action>, job: Job) -> Result<Reply, Problem> {
    let mine = UserApiKeys::of(&call.user, &deps.access, deps.developer.as_ref());
    let open = deps.streams.open(&call.user, call.now);
    // Both to their end: a place that is taken must be known, to be given back.
    let (found, place) = tokio::join!(find_keys(&mine, &call, &job), open);
    let mut place = place?;
    let begun = async { begin(&deps, &call, &job, &mine, found?).await };
    let begun = match place.during(begun).await {
        Ok(begun) => begun,
        Err(problem) => {
            place.close().await;
            return Err(problem);
        }
    };
    let (user, request_id) = (call.user.clone(), call.request_id.clone());
    Ok(Reply::Events(Events::new(|sender| async move {
        let asked = Asked {
            deps: &deps,
            user: &user,
            request_id: &request_id,
            now: call.now,
        };
        stream(&asked, begun, place, &sender).await
    })))
}

/// Keys that are there, not opened yet: the first provider's, and Exa's where there is research.
type FoundKeys<'a> = (Found<'a>, Option<Result<Found<'a>, KeyError>>);

/// The rows beside the count, and nothing opened before the count lets it through.
async fn find_keys<'a>(
    mine: &'a UserApiKeys<'a>,
    call: &Call<Action>,
    job: &Job,
) -> Result<FoundKeys<'a>, Problem> {
    let find = async { Ok(mine.find(job.choices[0].provider).await?) };
    let find_exa = async {
        let Some(research) = &job.research else {
            return Ok(None);
        };
        match mine.find(Provider::Exa).await {
            Err(error) if research.required == Some(true) => Err(error.into()),
            found => Ok(Some(found)),
        }
    };
    let (found, exa, ()) = tokio::try_join!(find, find_exa, call.let_through())?;
    Ok((found, exa))
}

/// Everything up to the first part of the text.
async fn begin(
    deps: &Deps,
    call: &Call<Action>,
    job: &Job,
    mine: &UserApiKeys<'_>,
    (found, exa): FoundKeys<'_>,
) -> Result<Begun, Problem> {
    let event = call.event(audit::Action::Open, None, None);
    let open_exa = async {
        match exa {
            Some(Ok(found)) => Some(open(deps, call, found, &event).await),
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        }
    };
    let (opened, exa) = tokio::join!(open(deps, call, found, &event), open_exa);
    let opened = opened.map_err(NotOpened::problem)?;
    let researched = match (&job.research, exa) {
        (Some(research), Some(exa)) => researched(deps, call, job, research, exa).await?,
        _ => Researched::default(),
    };
    first_to_answer(deps, call, job, mine, &event, opened, researched).await
}

/// Why a key was not opened.
enum NotOpened {
    Key(KeyError),
    /// A key that nobody has seen work, and too many of those were tried.
    Check(Provider, LimitError),
}

impl From<KeyError> for NotOpened {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl NotOpened {
    /// Whether it is about this key of the user's, rather than something having failed.
    fn lets_others_try(&self) -> bool {
        match self {
            Self::Key(error) => error.is_the_persons(),
            Self::Check(_, error) => !matches!(error, LimitError::Table(_)),
        }
    }

    fn problem(self) -> Problem {
        match self {
            Self::Key(error) => error.into(),
            Self::Check(provider, LimitError::Limited(allowance)) => Problem::new(
                Code::RateLimited,
                format!(
                    "Your {} key has not been seen to work yet, and you have tried {} such keys \
                     already; try again in {} seconds.",
                    provider.facts().title,
                    allowance.limit,
                    allowance.reset_s
                ),
            )
            .retry_after(allowance.reset_s),
            Self::Check(_, error) => error.into(),
        }
    }
}

/// Opens a key. One that has not been seen to work is counted as a check first, whichever provider it
/// is for: otherwise saving unchecked and generating would try out stolen keys without end.
async fn open(
    deps: &Deps,
    call: &Call<Action>,
    found: Found<'_>,
    event: &audit::Event<'_>,
) -> Result<Opened, NotOpened> {
    if !found.proven() {
        let counted = deps
            .endpoint
            .count(&call.user, Class::Check, call.now)
            .await;
        counted.map_err(|error| NotOpened::Check(found.provider(), error))?;
    }
    Ok(found.open(event).await?)
}

/// Asks the first choice, and then the others as long as a failure lets them try.
async fn first_to_answer(
    deps: &Deps,
    call: &Call<Action>,
    job: &Job,
    mine: &UserApiKeys<'_>,
    event: &audit::Event<'_>,
    mut opened: Opened,
    mut researched: Researched,
) -> Result<Begun, Problem> {
    let mut prompt = job.prompt.clone();
    prompt.text = with_sources(&prompt.text, &researched.sources);
    let mut choice = &job.choices[0];
    let mut others = job.choices[1..].iter();
    loop {
        let order = Order {
            provider: choice.provider,
            model: &choice.model,
            key: &opened.key,
            prompt: &prompt,
        };
        let failure = match deps.writer.begin(&order, call.time_left()).await {
            Ok(running) => {
                return Ok(Begun {
                    choice: choice.clone(),
                    credential: opened.credential,
                    research_credential: researched.credential,
                    sources: researched.sources,
                    warnings: researched.warnings,
                    running,
                });
            }
            Err(failure) => failure,
        };
        note_refusal(deps, &call.user, &opened.credential, &failure, call.now).await;
        let Some(other) = next_credential(deps, call, mine, &mut others, &failure, event).await?
        else {
            return Err(failure.problem);
        };
        researched.warnings.push(format!(
            "{} was down or out of quota; {} answered in its place",
            choice.provider.facts().title,
            other.0.provider.facts().title
        ));
        (choice, opened) = other;
    }
}

/// The person's next own credential that can be used, where this failure lets another try.
async fn next_credential<'c>(
    deps: &Deps,
    call: &Call<Action>,
    mine: &UserApiKeys<'_>,
    choices: &mut impl Iterator<Item = &'c Choice>,
    failure: &Failure,
    event: &audit::Event<'_>,
) -> Result<Option<(&'c Choice, Opened)>, Problem> {
    if !failure.lets_others_try() {
        return Ok(None);
    }
    for choice in choices {
        let opened = async { open(deps, call, mine.find(choice.provider).await?, event).await };
        match opened.await {
            Ok(opened) => return Ok(Some((choice, opened))),
            Err(error) if error.lets_others_try() => {}
            Err(error) => return Err(error.problem()),
        }
    }
    Ok(None)
}

#[derive(Default)]
struct Researched {
    sources: Vec<Source>,
    credential: Option<Credential>,
    warnings: Vec<String>,
}

/// Sources, or a warning why there are none; a failure only where sources are required.
async fn researched(
    deps: &Deps,
    call: &Call<Action>,
    job: &Job,
    research: &Research,
    exa: Result<Opened, NotOpened>,
) -> Result<Researched, Problem> {
    let required = research.required == Some(true);
    let without = |problem: Problem| match required {
        true => Err(problem),
        false => Ok(Researched {
            warnings: vec![format!("written without research: {}", problem.detail())],
            ..Researched::default()
        }),
    };
    let opened = match exa {
        Ok(opened) => opened,
        Err(error) if error.lets_others_try() => return without(error.problem()),
        Err(error) => return Err(error.problem()),
    };
    match deps
        .exa
        .search(&opened.key, &job.prompt.text, research, call.time_left())
        .await
    {
        Ok(sources) => Ok(Researched {
            sources,
            credential: Some(opened.credential),
            warnings: Vec::new(),
        }),
        Err(failure) => {
            note_refusal(deps, &call.user, &opened.credential, &failure, call.now).await;
            without(failure.problem)
        }
    }
}

/// The next piece; a failure is noted on the key's row where the key is to blame.
async fn next(
    deps: &Deps,
    user: &User,
    now: OffsetDateTime,
    begun: &mut Begun,
) -> Result<Option<String>, Problem> {
    match begun.running.next().await {
        Ok(text) => Ok(text),
        Err(failure) => {
            note_refusal(deps, user, &begun.credential, &failure, now).await;
            Err(failure.problem)
        }
    }
}

/// What a stream is about, for the record.
struct Asked<'a> {
    deps: &'a Deps,
    user: &'a User,
    request_id: &'a str,
    now: OffsetDateTime,
}

/// Relays piece by piece. Returns the failure it ended with, for the log. The place is given back before
/// the last event goes out, so that whoever has read it can begin another stream.
async fn stream(
    asked: &Asked<'_>,
    mut begun: Begun,
    mut place: OpenStream,
    sender: &EventSender,
) -> Option<Problem> {
    match place.during(relay(asked, &mut begun, sender)).await {
        Ok(Ok(())) => {
            let noted = note_end(asked.deps, asked.user, begun.paid(), asked.now);
            tokio::join!(noted, place.close());
            let ended = begun.running.ended();
            let done = Done {
                finish_reason: ended.finish_reason,
                usage: ended.usage,
            };
            sender.send("done", &done).await.ok();
            None
        }
        Ok(Err(problem)) => {
            // What came before the failure was paid for.
            let noted = note_usage(asked.deps, asked.user, begun.paid(), asked.now);
            tokio::join!(noted, place.close());
            let shown = problem.shown(asked.request_id);
            // Whoever has gone meanwhile does not need it.
            sender.send("error", &shown).await.ok();
            Some(problem)
        }
        Err(Gone) => {
            // What is not read is not paid for any longer.
            begun.running.stop();
            tokio::join!(
                note_abandoned(asked, &begun.credential),
                note_end(asked.deps, asked.user, begun.paid(), asked.now),
                place.close()
            );
            None
        }
    }
}

async fn note_abandoned(asked: &Asked<'_>, credential: &Credential) {
    let event = audit::Event {
        action: audit::Action::Open,
        provider: Some(credential.provider),
        kid: Some(&credential.kid),
        purpose: None,
        request_id: asked.request_id,
        now: asked.now,
    };
    let audit = &asked.deps.access.audit;
    audit.note(asked.user, &event, Outcome::Abandoned).await;
}

async fn relay(
    asked: &Asked<'_>,
    begun: &mut Begun,
    sender: &EventSender,
) -> Result<Result<(), Problem>, Gone> {
    let start = Start {
        provider: begun.choice.provider.name(),
        model: &begun.choice.model,
        credential: &begun.credential,
        research_credential: begun.research_credential.as_ref(),
        warnings: &begun.warnings,
    };
    sender.send("start", &start).await?;
    if begun.research_credential.is_some() {
        let sources = &begun.sources;
        sender.send("sources", &Sources { sources }).await?;
    }
    let Asked {
        deps, user, now, ..
    } = *asked;
    loop {
        let text = match sender.alive_until(next(deps, user, now, begun)).await? {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Ok(())),
            Err(problem) => return Ok(Err(problem)),
        };
        sender.send("delta", &Delta { text: &text }).await?;
    }
}

/// Adds to the user's count, and notes which keys were seen to work for the first time. What is missing
/// there keeps nobody from their text.
async fn note_end(deps: &Deps, user: &User, paid: Paid<'_>, now: OffsetDateTime) {
    let keys = [Some(paid.credential), paid.research_credential];
    let new = keys.into_iter().flatten().filter(|key| !key.proven);
    let works = new.map(|key| note_works(deps, user, key, now));
    tokio::join!(note_usage(deps, user, paid, now), join_all(works));
}

async fn note_usage(deps: &Deps, user: &User, paid: Paid<'_>, now: OffsetDateTime) {
    let provider = paid.credential.provider;
    let noted = deps.usage.add(user, provider, paid.usage, now).await;
    if let Err(error) = noted {
        tracing::warn!(%error, "usage not noted");
    }
}

async fn note_works(deps: &Deps, user: &User, key: &Credential, now: OffsetDateTime) {
    let marker = &deps.access.marker;
    let marked = marker.works(user, key.provider, &key.kid, now).await;
    if let Err(error) = marked {
        // Replaced meanwhile, most likely.
        tracing::info!(%error, "a key that works was not noted");
    }
}

/// Marks the row of a key that its provider refuses, so that lists and onboarding show it, and counts it
/// as a check where its use was not counted as one.
async fn note_refusal(
    deps: &Deps,
    user: &User,
    credential: &Credential,
    failure: &Failure,
    now: OffsetDateTime,
) {
    if failure.then != Then::KeyIsBad {
        return;
    }
    let marker = &deps.access.marker;
    let marked = marker.refused(user, credential.provider, &credential.kid, now);
    let counted = async {
        match credential.proven {
            true => deps.endpoint.count(user, Class::Check, now).await,
            false => Ok(()),
        }
    };
    let (marked, counted) = tokio::join!(marked, counted);
    if let Err(error) = marked {
        // Replaced meanwhile, or a key of the developer's own file, which has no row.
        tracing::info!(%error, "refusal not noted");
    }
    if let Err(LimitError::Table(error)) = counted {
        tracing::warn!(%error, "refusal not counted");
    }
}
