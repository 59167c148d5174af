//! From a request to its text: keys, research, the first provider that answers, and the receipt.

use std::sync::Arc;

use lambda_http::{Body, Response};
use serde::Serialize;
use time::OffsetDateTime;
use user_api_keys::{
    audit::{self, Outcome},
    endpoint::{Call, json},
    events::{EventSender, Events, Gone, Reply},
    problem::Problem,
    provider::Provider,
    usage::Usage,
    user::User,
    user_api_keys::{Credential, KeyError, Opened, UserApiKeys},
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
    let mut begun = begin(&deps, &call, &job).await?;
    if job.stream {
        let (user, request_id) = (call.user.clone(), call.request_id.clone());
        return Ok(Reply::Events(Events::new(|sender| async move {
            stream(&deps, &user, &request_id, call.now, begun, &sender).await
        })));
    }
    let mut content = String::new();
    while let Some(text) = next(&deps, &call.user, call.now, &mut begun).await? {
        content.push_str(&text);
    }
    let ended = begun.running.ended();
    note_usage(
        &deps,
        &call.user,
        begun.choice.provider,
        ended.usage,
        call.now,
    )
    .await;
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

/// Everything up to the first part of the text.
async fn begin(deps: &Deps, call: &Call<Action>, job: &Job) -> Result<Begun, Problem> {
    let mine = UserApiKeys::of(&call.user, &deps.access, deps.developer.as_ref());
    let event = call.event(audit::Action::Open, None, None);
    let (opened, exa) = open_keys(&mine, call, job, &event).await?;
    let researched = match (&job.research, exa) {
        (Some(research), Some(exa)) => researched(deps, call, job, research, exa).await?,
        _ => Researched::default(),
    };
    first_to_answer(deps, call, job, &mine, &event, opened, researched).await
}

/// The first provider's key, and Exa's where there is research: the rows beside the count, and
/// nothing opened before the count lets it through.
async fn open_keys(
    mine: &UserApiKeys<'_>,
    call: &Call<Action>,
    job: &Job,
    event: &audit::Event<'_>,
) -> Result<(Opened, Option<Result<Opened, KeyError>>), Problem> {
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
    let open_exa = async {
        match exa {
            Some(Ok(found)) => Some(found.open(event).await),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        }
    };
    let (opened, exa) = tokio::join!(found.open(event), open_exa);
    Ok((opened?, exa))
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
        let Some(other) = next_credential(mine, &mut others, &failure, event).await? else {
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
    mine: &UserApiKeys<'_>,
    choices: &mut impl Iterator<Item = &'c Choice>,
    failure: &Failure,
    event: &audit::Event<'_>,
) -> Result<Option<(&'c Choice, Opened)>, Problem> {
    if !failure.lets_others_try() {
        return Ok(None);
    }
    for choice in choices {
        match mine.get(choice.provider, event).await {
            Ok(opened) => return Ok(Some((choice, opened))),
            Err(error) if error.is_the_persons() => {}
            Err(error) => return Err(error.into()),
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
    exa: Result<Opened, KeyError>,
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
        Err(error) if error.is_the_persons() => return without(error.into()),
        Err(error) => return Err(error.into()),
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

/// Relays piece by piece. Returns the failure it ended with, for the log.
async fn stream(
    deps: &Deps,
    user: &User,
    request_id: &str,
    now: OffsetDateTime,
    mut begun: Begun,
    sender: &EventSender,
) -> Option<Problem> {
    match relay(deps, user, now, &mut begun, sender).await {
        Ok(Ok(())) => None,
        Ok(Err(problem)) => {
            // Whoever has gone meanwhile does not need it.
            sender.send("error", &problem.shown(request_id)).await.ok();
            Some(problem)
        }
        Err(Gone) => {
            let usage = begun.running.ended().usage;
            let provider = begun.choice.provider;
            // Dropped first: what is not read is not paid for any longer.
            drop(begun.running);
            let event = audit::Event {
                action: audit::Action::Open,
                provider: Some(provider),
                kid: Some(&begun.credential.kid),
                purpose: None,
                request_id,
                now,
            };
            let audit = &deps.access.audit;
            tokio::join!(
                audit.note(user, &event, Outcome::Abandoned),
                note_usage(deps, user, provider, usage, now),
            );
            None
        }
    }
}

async fn relay(
    deps: &Deps,
    user: &User,
    now: OffsetDateTime,
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
    loop {
        let text = match sender.alive_until(next(deps, user, now, begun)).await? {
            Ok(Some(text)) => text,
            Ok(None) => break,
            Err(problem) => return Ok(Err(problem)),
        };
        sender.send("delta", &Delta { text: &text }).await?;
    }
    let ended = begun.running.ended();
    note_usage(deps, user, begun.choice.provider, ended.usage, now).await;
    let done = Done {
        finish_reason: ended.finish_reason,
        usage: ended.usage,
    };
    sender.send("done", &done).await?;
    Ok(Ok(()))
}

/// Adds to the person's count; a count that is missing keeps nobody from their text.
async fn note_usage(
    deps: &Deps,
    user: &User,
    provider: Provider,
    usage: Usage,
    now: OffsetDateTime,
) {
    if let Err(error) = deps.usage.add(user, provider, usage, now).await {
        tracing::warn!(%error, "usage not noted");
    }
}

/// Marks the row of a key that its provider refuses, so that lists and onboarding show it.
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
    if let Err(error) = marked.await {
        // Replaced meanwhile, or a key of the developer's own file, which has no row.
        tracing::info!(%error, "refusal not noted");
    }
}
