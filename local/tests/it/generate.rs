//! Text as a front end gets it: streamed or whole, researched, from another provider, cut off, left.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes};
use futures_util::{StreamExt as _, stream::unfold};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use crate::harness::{PERSON, Server, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const ARGS: [&str; 5] = ["--port", "0", "--in-memory", "--production", "--stand-in"];
/// Far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(20);

async fn ask(server: &Server, user: &str, body: Value) -> Response {
    Client::new()
        .post(format!("{}/api/generate", server.url))
        .bearer_auth(local::token::sign(user).unwrap())
        .json(&body)
        .send()
        .await
        .unwrap()
}

/// Name and data of every event; comments are left out.
fn events(text: &str) -> Vec<(String, Value)> {
    let blocks = text
        .split("\n\n")
        .filter(|block| block.starts_with("event: "));
    blocks
        .map(|block| {
            let (name, data) = block.split_once("\ndata: ").unwrap();
            let name = name.trim_start_matches("event: ").to_owned();
            (name, serde_json::from_str(data).unwrap())
        })
        .collect()
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

async fn trail(server: &Server, user: &str) -> Vec<Value> {
    let path = format!("{KEYS}/audit?limit=100");
    let (_, page) = server.call("GET", &path, Some(user), None).await;
    page["records"].as_array().unwrap().clone()
}

/// A provider that sends what it is told to, when it is told to; what it sends is dropped when
/// nobody reads.
async fn told() -> (String, mpsc::Sender<&'static str>) {
    let (tell, pieces) = mpsc::channel::<&str>(1);
    let pieces = std::sync::Arc::new(std::sync::Mutex::new(Some(pieces)));
    let answer = move || {
        let pieces = pieces.lock().unwrap().take();
        async move {
            let stream = unfold(pieces.unwrap(), async |mut pieces| {
                let piece = pieces.recv().await?;
                Some((Ok::<_, Infallible>(Bytes::from(piece)), pieces))
            });
            let body = Body::from_stream(stream);
            ([("content-type", "text/event-stream")], body)
        }
    };
    let router = axum::Router::new().fallback(answer);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, router).await });
    (format!("http://{address}"), tell)
}

const FIRST: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hel\"}]}}]}\n\n";
const LAST: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"lo\"}]},\"finishReason\":\"STOP\"}]}\n\n";

/// Reads until `word` has come; `None` when the stream ends first.
async fn until(response: &mut Response, seen: &mut String, word: &str) -> Option<()> {
    while !seen.contains(word) {
        let chunk = timeout(LONG, response.chunk()).await.expect("in time");
        seen.push_str(std::str::from_utf8(&chunk.unwrap()?).unwrap());
    }
    Some(())
}

fn at(base_url: &str, folder: &tempfile::TempDir) -> Server {
    let mut command = command(folder.path(), &ARGS[..4]);
    start(clerk(command.env("GEMINI_BASE_URL", base_url)))
}

/// PERSON asks for this, and the answer has that status.
async fn has_status(server: &Server, body: &Value, status: u16) {
    let answer = ask(server, PERSON, body.clone()).await;
    assert_eq!(answer.status(), status, "{body}");
}

#[tokio::test]
async fn every_provider_streams_its_words_and_says_what_paid() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    for provider in ["gemini", "openai", "anthropic", "mistral"] {
        let key = format!("key-of-person-a-for-{provider}");
        server.save(Some(PERSON), provider, &key).await;
        let body = json!({"prompt": "two words", "provider": provider, "stream": true});
        let response = ask(&server, PERSON, body).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let text = response.text().await.unwrap();
        let events = events(&text);
        assert_eq!(
            names(&events),
            ["start", "delta", "delta", "delta", "delta", "done"],
            "{text}"
        );
        let (start, done) = (&events[0].1, &events[5].1);
        assert_eq!(start["credential"]["provider"], provider);
        assert_eq!(start["credential"]["hint"], key[key.len() - 4..]);
        let deltas = events[1..5]
            .iter()
            .map(|(_, data)| data["text"].as_str().unwrap());
        assert_eq!(deltas.collect::<String>(), "You said: two words");
        assert_eq!(done["finish_reason"], "stop");
        let usage = json!({"prompt_tokens": 2, "output_tokens": 4, "total_tokens": 6});
        assert_eq!(done["usage"], usage, "{provider}");
        // The same, whole.
        let body = json!({"prompt": "two words", "provider": provider});
        let whole: Value = ask(&server, PERSON, body).await.json().await.unwrap();
        assert_eq!(whole["content"], "You said: two words");
        assert_eq!(
            (&whole["usage"], &whole["credential"]),
            (&usage, &start["credential"])
        );
    }
    let path = format!("{KEYS}/usage?days=1");
    let (_, used) = server.call("GET", &path, Some(PERSON), None).await;
    assert_eq!(used["days"].as_array().unwrap().len(), 4);
    let day = &used["days"][1];
    assert_eq!(
        (&day["provider"], &day["calls"], &day["output_tokens"]),
        (&json!("gemini"), &json!(2), &json!(8))
    );
    let (_, none) = server
        .call("GET", &path, Some("user_bbbbbbbb2"), None)
        .await;
    assert_eq!(none["days"], json!([]), "nobody else's");
    for days in ["0", "401", "x", ""] {
        let path = format!("{KEYS}/usage?days={days}");
        assert_eq!(
            server.call("GET", &path, Some(PERSON), None).await.0,
            400,
            "{days}"
        );
    }
}

/// Three answers with 2^63 - 1 tokens each are more than 64 bits hold.
const ABSURD: &str = "{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]},\"finishReason\":\"STOP\"}],\
    \"usageMetadata\":{\"promptTokenCount\":9223372036854775807,\"candidatesTokenCount\":9223372036854775807}}";

#[tokio::test]
async fn after_absurd_token_counts_the_usage_can_still_be_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let router =
        axum::Router::new().fallback(async || ([("content-type", "application/json")], ABSURD));
    tokio::spawn(async { axum::serve(listener, router).await });
    let folder = folder();
    let server = at(&base_url, &folder);
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    for _ in 0..3 {
        has_status(&server, &json!({"prompt": "x"}), 200).await;
    }
    let (status, used) = server
        .call("GET", &format!("{KEYS}/usage?days=1"), Some(PERSON), None)
        .await;
    let day = &used["days"][0];
    assert_eq!(
        (
            status,
            &day["calls"],
            &day["prompt_tokens"],
            &day["output_tokens"]
        ),
        (
            200,
            &json!(3),
            &json!(3_000_000_000_u64),
            &json!(3_000_000_000_u64)
        )
    );
}

#[tokio::test]
async fn a_word_is_passed_on_before_the_next_one_is_there() {
    let folder = folder();
    let (base_url, tell) = told().await;
    let server = at(&base_url, &folder);
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    let first = tokio::spawn({
        let tell = tell.clone();
        async move {
            tell.send(FIRST).await.unwrap();
            Instant::now()
        }
    });
    let mut response = ask(&server, PERSON, json!({"prompt": "x", "stream": true})).await;
    let mut seen = String::new();
    until(&mut response, &mut seen, "Hel").await.unwrap();
    let (sent, after) = (first.await.unwrap(), Instant::now());
    assert!(!seen.contains("lo\""), "the second word is not even sent");
    tell.send(LAST).await.unwrap();
    drop(tell);
    until(&mut response, &mut seen, "event: done")
        .await
        .unwrap();
    // The same bytes from the same kind of server, without us between.
    let (bare, tell) = told().await;
    tokio::spawn(async move { tell.send(FIRST).await.map(|()| Instant::now()) });
    let begun = Instant::now();
    let mut response = Client::new().post(&bare).send().await.unwrap();
    until(&mut response, &mut String::new(), "Hel")
        .await
        .unwrap();
    let (ours, bare) = (after - sent, begun.elapsed());
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    // Timing decides nothing here; it is for people to read.
    let text = format!(
        "first word {ours:?} after the provider sent it; {ratio:.1} × a bare call ({bare:?})\n"
    );
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()).unwrap();
}

#[tokio::test]
async fn whoever_leaves_stops_paying_and_the_trail_says_so() {
    let folder = folder();
    let (base_url, tell) = told().await;
    let server = at(&base_url, &folder);
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    let begun = tell.clone();
    tokio::spawn(async move { begun.send(FIRST).await });
    let mut response = ask(&server, PERSON, json!({"prompt": "x", "stream": true})).await;
    until(&mut response, &mut String::new(), "Hel")
        .await
        .unwrap();
    drop(response);
    // The provider's side is closed: nobody reads any more.
    timeout(LONG, tell.closed())
        .await
        .expect("the provider is let go");
    let abandoned = async {
        loop {
            let records = trail(&server, PERSON).await;
            if let Some(record) = records
                .iter()
                .find(|record| record["outcome"] == "abandoned")
            {
                return record.clone();
            }
        }
    };
    let record = timeout(LONG, abandoned).await.expect("it is on the record");
    assert_eq!(
        (&record["action"], &record["provider"]),
        (&json!("open"), &json!("gemini"))
    );
}

#[tokio::test]
async fn a_stream_that_is_cut_ends_with_an_error_and_never_silently() {
    let folder = folder();
    let (base_url, tell) = told().await;
    let server = at(&base_url, &folder);
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    tokio::spawn(async move { tell.send(FIRST).await });
    let response = ask(&server, PERSON, json!({"prompt": "x", "stream": true})).await;
    assert_eq!(response.status(), 200);
    let events = events(&response.text().await.unwrap());
    assert_eq!(names(&events), ["start", "delta", "error"]);
    let problem = &events[2].1;
    assert_eq!(
        (&problem["code"], &problem["status"]),
        (&json!("provider_unavailable"), &json!(502))
    );
    assert!(problem["detail"].as_str().unwrap().contains("broke off"));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(
        log.contains("\"code\":\"provider_unavailable\",\"cause\":\"an end without a reason\"")
    );
}

#[tokio::test]
async fn what_fails_before_the_first_word_is_no_stream_but_a_problem() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    let body = || json!({"prompt": "x", "stream": true});
    let none = ask(&server, PERSON, body()).await;
    assert_eq!(none.headers()["content-type"], "application/problem+json");
    assert_eq!(none.status(), 409);
    server
        .save(Some(PERSON), "gemini", "a-bad-key-of-person-a")
        .await;
    assert_eq!(ask(&server, PERSON, body()).await.status(), 422);
}

#[tokio::test]
async fn a_refused_key_is_shown_as_invalid_until_it_is_replaced() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    for (provider, key) in [
        ("gemini", "a-bad-key-of-person-a"),
        ("exa", "a-bad-exa-key-of-a"),
    ] {
        server.save(Some(PERSON), provider, key).await;
    }
    let status = async |provider: &str| {
        let path = format!("{KEYS}/validate");
        let (_, all) = server.call("GET", &path, Some(PERSON), None).await;
        all["validation_results"][provider].clone()
    };
    assert_eq!(status("gemini").await["valid"], true);
    assert_eq!(
        ask(&server, PERSON, json!({"prompt": "x"})).await.status(),
        422
    );
    let refused = status("gemini").await;
    assert_eq!(
        (&refused["valid"], &refused["status"]),
        (&json!(false), &json!("invalid"))
    );
    assert!(refused["checked_at"].is_string());
    let path = "/api/onboarding/step/1/validate";
    let (_, step) = server.call("GET", path, Some(PERSON), None).await;
    assert_eq!(step["can_proceed"], false);
    assert_eq!(
        step["validation_errors"][1],
        "Replace your refused keys: Google Gemini."
    );
    server
        .save(Some(PERSON), "gemini", "a-good-key-of-person-a")
        .await;
    assert_eq!(status("gemini").await["valid"], true);
    // Exa's as well, while the text is written without it.
    let answer = ask(&server, PERSON, json!({"prompt": "x", "research": true})).await;
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["content"], "You said: x");
    assert!(
        answer["warnings"][0]
            .as_str()
            .unwrap()
            .starts_with("written without research: Exa refuses")
    );
    assert_eq!(status("exa").await["status"], "invalid");
}

#[tokio::test]
async fn research_quotes_its_sources_in_order_and_is_paid_by_ones_own_exa_key() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    let research = json!({"prompt": "otters", "research": true});
    let without: Value = ask(&server, PERSON, research.clone())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        (&without["sources"], &without["content"]),
        (&json!([]), &json!("You said: otters"))
    );
    assert!(
        without["warnings"][0]
            .as_str()
            .unwrap()
            .contains("no Exa key")
    );
    let required = json!({"prompt": "otters", "research": {"required": true}});
    assert_eq!(ask(&server, PERSON, required).await.status(), 409);
    server
        .save(Some(PERSON), "exa", "exa-key-of-person-a-0002")
        .await;
    let answer: Value = ask(&server, PERSON, research.clone())
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        answer["content"], "You said: otters [1]",
        "the model saw numbered sources"
    );
    assert_eq!(answer["sources"][0]["url"], "https://page1.test/");
    assert_eq!(answer["sources"][1]["title"], "Page 2 about otters");
    assert_eq!(answer["research_credential"]["hint"], "0002");
    assert_eq!(answer["warnings"], Value::Null);
    let streamed = json!({"prompt": "otters", "stream": true, "research": {"num_results": 1}});
    let events = events(&ask(&server, PERSON, streamed).await.text().await.unwrap());
    assert_eq!(names(&events)[..3], ["start", "sources", "delta"]);
    assert_eq!(events[1].1["sources"].as_array().unwrap().len(), 1);
    let opens: Vec<_> = trail(&server, PERSON).await;
    let of = |provider: &str| {
        opens
            .iter()
            .filter(|r| r["action"] == "open" && r["provider"] == provider)
            .count()
    };
    assert_eq!(
        (of("exa"), of("gemini")),
        (2, 3),
        "each use is on the trail"
    );
    for research in [
        json!({"num_results": 9}),
        json!({"num_results": 0}),
        json!({"include_domains": [""]}),
        json!({"start_published_date": "yesterday"}),
        json!({"url": "https://a.test"}),
        json!("yes"),
        json!([true]),
    ] {
        let body = json!({"prompt": "otters", "research": research});
        has_status(&server, &body, 400).await;
    }
}

#[tokio::test]
async fn nothing_found_is_no_failure_and_a_failing_exa_is_one_only_where_sources_are_required() {
    let folder = folder();
    let stand_in = local::stand_in::StandIn::start().await.unwrap();
    for (status, body, warning, required) in [
        (200, r#"{"results":[]}"#, None, 200),
        (402, "{}", Some("credit is used up"), 429),
        (429, "{}", Some("too often"), 429),
        (
            500,
            "no-such-text",
            Some("did not give a usable answer"),
            502,
        ),
        (200, "not JSON", Some("did not give a usable answer"), 502),
    ] {
        let code = axum::http::StatusCode::from_u16(status).unwrap();
        let router = axum::Router::new().fallback(move || async move { (code, body) });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let exa = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async { axum::serve(listener, router).await });
        let mut command = command(folder.path(), &ARGS[..4]);
        command.env("GEMINI_BASE_URL", stand_in.base_url());
        let server = start(clerk(command.env("EXA_BASE_URL", exa)));
        server
            .save(Some(PERSON), "gemini", "key-of-person-a-0001")
            .await;
        server
            .save(Some(PERSON), "exa", "exa-key-of-person-a-0002")
            .await;
        let body = json!({"prompt": "otters", "research": true});
        let answer: Value = ask(&server, PERSON, body).await.json().await.unwrap();
        assert_eq!(
            (&answer["content"], &answer["sources"]),
            (&json!("You said: otters"), &json!([]))
        );
        let said = answer["warnings"][0].as_str();
        assert_eq!(said.is_some(), warning.is_some(), "{answer}");
        let says = said
            .unwrap_or_default()
            .contains(warning.unwrap_or_default());
        assert!(
            says && !answer.to_string().contains("no-such-text"),
            "{answer}"
        );
        let body = json!({"prompt": "otters", "research": {"required": true}});
        assert_eq!(
            ask(&server, PERSON, body).await.status(),
            required,
            "{status}"
        );
    }
}

#[tokio::test]
async fn only_ones_own_other_credential_steps_in_and_only_when_asked_to() {
    let folder = folder();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let stand_in = local::stand_in::StandIn::start().await.unwrap();
    let mut command = command(folder.path(), &ARGS[..4]);
    for name in ["OPENAI_BASE_URL", "ANTHROPIC_BASE_URL", "MISTRAL_BASE_URL"] {
        command.env(name, stand_in.base_url());
    }
    let server = start(clerk(command.env("GEMINI_BASE_URL", down)));
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    server
        .save(Some(PERSON), "anthropic", "key-of-person-a-0003")
        .await;
    let other = "user_bbbbbbbb2";
    server
        .save(Some(other), "openai", "key-of-person-b-7777")
        .await;
    let plain = ask(&server, PERSON, json!({"prompt": "x"})).await;
    assert_eq!(plain.status(), 502, "nobody was named");
    // The person has no OpenAI key; somebody else has.
    let fallback = json!([{"provider": "openai", "model": "gpt-5"}, {"provider": "anthropic"}]);
    let body = json!({"prompt": "x", "fallback": fallback});
    let answer: Value = ask(&server, PERSON, body).await.json().await.unwrap();
    assert_eq!(answer["content"], "You said: x");
    assert_eq!(
        (&answer["provider"], &answer["credential"]["hint"]),
        (&json!("anthropic"), &json!("0003"))
    );
    assert!(
        answer["warnings"][0]
            .as_str()
            .unwrap()
            .contains("Anthropic answered in its place")
    );
    let keys: Vec<_> = stand_in.seen().into_iter().map(|seen| seen.key).collect();
    assert_eq!(keys, ["key-of-person-a-0003"]);
    let opens: Vec<_> = trail(&server, PERSON).await;
    let opened = opens.iter().filter(|record| record["action"] == "open");
    let opened: Vec<_> = opened.map(|record| record["provider"].clone()).collect();
    assert_eq!(
        opened,
        ["anthropic", "gemini", "gemini"],
        "each attempt, newest first"
    );
    // A bad key is the person's to mend; no other pays for it.
    server
        .save(Some(PERSON), "mistral", "a-bad-key-of-person-a")
        .await;
    let body =
        json!({"prompt": "x", "provider": "mistral", "fallback": [{"provider": "anthropic"}]});
    assert_eq!(ask(&server, PERSON, body).await.status(), 422);
    assert_eq!(stand_in.seen().len(), 2);
    for fallback in [
        json!([{"provider": "exa"}]),
        json!([{"provider": "openai", "model": "../x"}]),
        json!([{"provider": "openai", "api_key": "x"}]),
        json!(["openai"]),
        json!(vec![json!({"provider": "openai"}); 4]),
    ] {
        let body = json!({"prompt": "x", "fallback": fallback});
        has_status(&server, &body, 400).await;
    }
}

#[tokio::test]
async fn a_prompt_has_at_most_200_000_characters() {
    let folder = folder();
    let server = start(clerk(&mut command(folder.path(), &ARGS)));
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    for (prompt, status) in [
        ("x".repeat(200_000), 200),
        ("x".repeat(200_001), 400),
        ("é".repeat(140_000), 413),
        (" \n ".to_owned(), 400),
    ] {
        let answer = ask(&server, PERSON, json!({"prompt": prompt})).await;
        assert_eq!(
            answer.status(),
            status,
            "{} characters",
            prompt.chars().count()
        );
    }
}

#[tokio::test]
async fn a_list_of_models_is_obeyed() {
    let folder = folder();
    let mut command = command(folder.path(), &ARGS);
    let server = start(clerk(command.env("ALLOWED_MODELS", "gemini-a, gpt-b")));
    server
        .save(Some(PERSON), "gemini", "key-of-person-a-0001")
        .await;
    for (body, status) in [
        (json!({"prompt": "x"}), 200),
        (json!({"prompt": "x", "model": "gemini-a"}), 200),
        (json!({"prompt": "x", "model": "gemini-z"}), 400),
    ] {
        has_status(&server, &body, status).await;
    }
}

/// Many streams at once: every word goes to the one who asked for it. `scripts/streams` runs it at
/// full size.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_streams_at_once_every_word_goes_to_its_own_person() {
    let folder = folder();
    let mut command = command(folder.path(), &ARGS);
    let server = start(clerk(
        command.env("RATE_LIMIT_GENERATE_PER_MINUTE", "100000"),
    ));
    let people: Vec<_> = (10..30).map(|n| format!("user_streams{n}")).collect();
    for (n, person) in people.iter().enumerate() {
        let key = format!("key-of-person-number-{}", 1_000 + n);
        server.save(Some(person), "gemini", &key).await;
    }
    let http = Client::new();
    let calls = (0..100).map(|n| {
        let person = &people[n % people.len()];
        let (http, url) = (http.clone(), format!("{}/api/generate", server.url));
        async move {
            let prompt = format!("word-{n} of {person} and {n} more");
            let request = http
                .post(url)
                .bearer_auth(local::token::sign(person).unwrap());
            let request = request.json(&json!({"prompt": prompt, "stream": true}));
            let text = request.send().await.unwrap().text().await.unwrap();
            let events = events(&text);
            let deltas = events.iter().filter(|(name, _)| name == "delta");
            let said: String = deltas
                .map(|(_, data)| data["text"].as_str().unwrap())
                .collect();
            assert_eq!(said, format!("You said: {prompt}"));
            let hint = (1_000 + n % 20).to_string();
            assert_eq!(events[0].1["credential"]["hint"], hint, "{person}");
            assert_eq!(events.last().unwrap().0, "done");
        }
    });
    let all = futures_util::stream::iter(calls).buffer_unordered(100);
    assert_eq!(all.count().await, 100);
}
