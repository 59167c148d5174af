//! Providers that misbehave, on the wire: what is heard of each, in our own words.

use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use user_api_keys::problem::Code;

use super::*;

const KEY: &str = "sk-canary-0123456789";
const SSE: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
/// Text with characters of one to four bytes.
const TEXT: &str = "Größe ‹🙂› end";

/// What one connection gets.
#[derive(Clone)]
enum Reply {
    /// These pieces, then the end.
    Pieces(Vec<Vec<u8>>),
    /// These pieces, then nothing for ever.
    Hangs(Vec<Vec<u8>>),
    /// This, then `x` for as long as anybody reads.
    Endless(String),
}

fn all(text: &str) -> Reply {
    Reply::Pieces(vec![text.as_bytes().to_vec()])
}

fn status(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    all(&format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    ))
}

#[derive(Default)]
struct Log {
    requests: Vec<String>,
    sent: usize,
}

struct Provided {
    writer: Writer,
    provider: Provider,
    key: ApiKey,
    log: Arc<Mutex<Log>>,
}

async fn serve(mut stream: TcpStream, reply: Reply, log: Arc<Mutex<Log>>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut request, mut chunk) = (Vec::new(), vec![0; 65_536]);
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                log.lock().unwrap().requests.push(text);
                break;
            }
        }
        let read = stream.read(&mut chunk).await?;
        request.extend_from_slice(&chunk[..read]);
    }
    let (pieces, hangs) = match reply {
        Reply::Pieces(pieces) => (pieces, false),
        Reply::Hangs(pieces) => (pieces, true),
        Reply::Endless(start) => {
            stream.write_all(start.as_bytes()).await?;
            loop {
                stream.write_all(&[b'x'; 65_536]).await?;
                log.lock().unwrap().sent += 65_536;
            }
        }
    };
    for piece in pieces {
        stream.write_all(&piece).await?;
        // Each piece is a read of its own on the other side.
        tokio::task::yield_now().await;
    }
    if hangs {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// A provider that answers each connection in turn, the last reply for all that follow.
async fn provided(provider: &str, replies: Vec<Reply>) -> Provided {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let log = Arc::new(Mutex::new(Log::default()));
    let logged = Arc::clone(&log);
    tokio::spawn(async move {
        let mut n = 0;
        while let Ok((stream, _)) = listener.accept().await {
            let reply = replies[n.min(replies.len() - 1)].clone();
            n += 1;
            tokio::spawn(serve(stream, reply, Arc::clone(&logged)));
        }
    });
    let config = Config::from_lookup(|name| match name {
        "TABLE_NAME" => Some("t".to_owned()),
        "KMS_KEY_ARN" => Some("arn:aws:kms:us-east-1:000000000000:key/0b1c".to_owned()),
        name if name.ends_with("_BASE_URL") => Some(base_url.clone()),
        _ => None,
    });
    let mut writer = Writer::new(Https::new().unwrap(), &config.unwrap());
    // Far more than a busy machine needs; a test that waits for it says so.
    writer.patience = Patience {
        first: Duration::from_secs(20),
        between: Duration::from_secs(20),
        after: Duration::from_millis(50),
        whole: Duration::from_secs(60),
    };
    Provided {
        writer,
        provider: provider.parse().unwrap(),
        key: ApiKey::parse(SecretString::from(KEY)).ok().unwrap(),
        log,
    }
}

impl Provided {
    /// For a provider that hangs.
    fn impatient(mut self) -> Self {
        self.writer.patience.first = Duration::from_millis(500);
        self.writer.patience.between = Duration::from_millis(500);
        self
    }

    async fn begin(&self, left: Option<Duration>) -> Result<Running, Failure> {
        let prompt = Prompt {
            text: "Say it".to_owned(),
            ..Prompt::default()
        };
        let order = Order {
            provider: self.provider,
            model: "m",
            key: &self.key,
            prompt: &prompt,
        };
        self.writer.begin(&order, left).await
    }

    /// All the text, and how it ended.
    async fn text(&self) -> (String, Result<Ended, Failure>) {
        let mut text = String::new();
        let mut running = match self.begin(None).await {
            Ok(running) => running,
            Err(failure) => return (text, Err(failure)),
        };
        loop {
            match running.next().await {
                Ok(Some(piece)) => text.push_str(&piece),
                Ok(None) => return (text, Ok(running.ended())),
                Err(failure) => return (text, Err(failure)),
            }
        }
    }

    async fn code(&self) -> (String, Code) {
        let (text, ended) = self.text().await;
        (
            text,
            ended.err().map(|failure| failure.problem.code()).unwrap(),
        )
    }

    fn calls(&self) -> usize {
        self.log.lock().unwrap().requests.len()
    }
}

fn gemini(text: &str, finish: Option<&str>) -> String {
    let mut candidate = serde_json::json!({"content": {"parts": [{"text": text}]}});
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    serde_json::json!({"candidates": [candidate]}).to_string()
}

/// The same answer in every odd way that the format allows.
fn odd_stream() -> String {
    let (start, end) = TEXT.split_at(TEXT.find('‹').unwrap());
    let second = gemini(end, None);
    let (half, rest) = second.split_at(second.find(':').unwrap() + 1);
    format!(
        "\u{feff}: a comment\r\n\r\nevent: message\r\nid: 7\r\nretry: 1\r\ndata: {}\r\n\r\n\
         :keep\n\ndata:{half}\ndata: {rest}\n\nevent: x\n\ndata: {}",
        gemini(start, None),
        gemini("", Some("STOP"))
    )
}

#[tokio::test]
async fn a_stream_is_read_the_same_wherever_it_is_cut_into_pieces() {
    let stream = odd_stream().into_bytes();
    let head = SSE.as_bytes().to_vec();
    let mut replies: Vec<_> = (0..=stream.len())
        .map(|n| {
            Reply::Pieces(vec![
                head.clone(),
                stream[..n].to_vec(),
                stream[n..].to_vec(),
            ])
        })
        .collect();
    let bytes = stream.iter().map(|byte| vec![*byte]);
    replies.push(Reply::Pieces(std::iter::once(head).chain(bytes).collect()));
    let all = replies.len();
    let provided = provided("gemini", replies).await;
    for n in 0..all {
        let (text, ended) = provided.text().await;
        assert_eq!(text, TEXT, "cut at {n}");
        assert_eq!(ended.ok().unwrap().finish_reason, "stop", "cut at {n}");
    }
    assert_eq!(provided.calls(), all);
}

#[tokio::test]
async fn an_end_without_a_reason_is_a_truncation_and_is_not_paid_for_twice() {
    let cut = format!("{SSE}data: {}\n\n", gemini("Hel", None));
    let provided = provided("gemini", vec![all(&cut)]).await;
    assert_eq!(
        provided.code().await,
        ("Hel".to_owned(), Code::ProviderUnavailable)
    );
    assert_eq!(provided.calls(), 1, "no second try after output");
}

#[tokio::test]
async fn what_fails_before_any_output_is_tried_three_times() {
    for (what, reply) in [
        ("an empty answer", all(SSE)),
        ("no headers", Reply::Hangs(vec![])),
        ("no event", Reply::Hangs(vec![SSE.into()])),
        ("not JSON", all(&format!("{SSE}data: {{\"candidates\"\n\n"))),
        (
            "bad UTF-8",
            Reply::Pieces(vec![SSE.into(), b"data: \xff\xfe\n\n".to_vec()]),
        ),
        ("a reset", Reply::Pieces(vec![])),
        ("500", status("500 Oops", "", KEY)),
        ("503", status("503 Oops", "", "{}")),
        ("529", status("529 Oops", "", "{}")),
        (
            "a web page",
            all("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>"),
        ),
    ] {
        let provided = provided("gemini", vec![reply]).await.impatient();
        assert_eq!(
            provided.code().await,
            (String::new(), Code::ProviderUnavailable),
            "{what}"
        );
        assert_eq!(provided.calls(), 3, "{what}");
    }
}

#[tokio::test]
async fn a_second_try_that_goes_through_is_an_answer() {
    let good = all(&format!("{SSE}data: {}\n\n", gemini("Hello", Some("STOP"))));
    let slow = status("429 Slow", "retry-after: 0\r\n", "{}");
    for first in [status("503 Oops", "", "{}"), slow, Reply::Pieces(vec![])] {
        let provided = provided("openai", vec![first.clone(), good.clone()]).await;
        assert_eq!(
            provided.code().await.1,
            Code::ProviderUnavailable,
            "another's words"
        );
        let provided = super::tests::provided("gemini", vec![first, good.clone()]).await;
        let (text, ended) = provided.text().await;
        assert!(ended.is_ok());
        assert_eq!((text.as_str(), provided.calls()), ("Hello", 2));
    }
}

#[tokio::test]
async fn no_try_begins_that_cannot_end_in_time_and_long_waits_are_passed_on() {
    let down = provided("gemini", vec![status("503 Oops", "", "{}")]).await;
    assert!(
        down.begin(Some(RESERVE + Duration::from_millis(200)))
            .await
            .is_err()
    );
    assert_eq!(down.calls(), 1, "the time left is for the answer");
    let slow = status("429 Slow", "retry-after: 3000\r\n", "{}");
    let slow = provided("openai", vec![slow]).await;
    let failure = slow.begin(None).await.err().unwrap();
    assert_eq!(slow.calls(), 1);
    let body = serde_json::to_value(failure.problem.shown("r")).unwrap();
    assert_eq!(
        (&body["code"], &body["retry_after"]),
        (&"provider_rate_limited".into(), &3_000.into())
    );
}

#[tokio::test]
async fn a_provider_that_stops_in_the_middle_is_left_after_a_while() {
    let begun = format!("{SSE}data: {}\n\n", gemini("Hel", None));
    let hangs = vec![Reply::Hangs(vec![begun.into()])];
    let provided = provided("gemini", hangs).await.impatient();
    assert_eq!(
        provided.code().await,
        ("Hel".to_owned(), Code::ProviderUnavailable)
    );
    // Once the reason is there, nothing is missing.
    let ended = format!("{SSE}data: {}\n\n", gemini("Hello", Some("STOP")));
    let provided = super::tests::provided("gemini", vec![Reply::Hangs(vec![ended.into()])]).await;
    let (text, ended) = provided.text().await;
    assert!(ended.is_ok());
    assert_eq!(text, "Hello");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off_early() {
    let begun = format!("{SSE}data: {}\n\n", gemini("Hel", None));
    for (what, start) in [
        ("a line", format!("{SSE}data: ")),
        ("a line after output", format!("{begun}data: ")),
        ("a failure", "HTTP/1.1 400 Bad\r\n\r\n".to_owned()),
        (
            "JSON",
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n".to_owned(),
        ),
    ] {
        let provided = provided("gemini", vec![Reply::Endless(start)]).await;
        let (_, code) = provided.code().await;
        assert_eq!(code, Code::ProviderUnavailable, "{what}");
        let sent = provided.log.lock().unwrap().sent;
        // Three tries of at most 8 MiB, and what the sockets hold.
        assert!(sent < 64 * 1024 * 1024, "{what}: {sent} bytes");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let thief = provided(
        "gemini",
        vec![all(&format!(
            "{SSE}data: {}\n\n",
            gemini("x", Some("STOP"))
        ))],
    )
    .await;
    let (_, there) = thief.writer.base_urls[0].clone();
    let moved = status("307 Moved", &format!("location: {there}/v1\r\n"), "{}");
    let provided = provided("gemini", vec![moved]).await;
    assert_eq!(provided.code().await.1, Code::ProviderUnavailable);
    assert_eq!(thief.calls(), 0);
}

#[tokio::test]
async fn each_provider_gets_its_own_form_and_the_key_in_its_own_header() {
    for (provider, line, header) in [
        (
            "gemini",
            "POST /v1beta/models/m:streamGenerateContent?alt=sse ",
            "x-goog-api-key: KEY",
        ),
        (
            "openai",
            "POST /v1/chat/completions ",
            "authorization: Bearer KEY",
        ),
        (
            "mistral",
            "POST /v1/chat/completions ",
            "authorization: Bearer KEY",
        ),
        ("anthropic", "POST /v1/messages ", "x-api-key: KEY"),
    ] {
        let provided = provided(provider, vec![status("404 No", "", "{}")]).await;
        assert_eq!(provided.code().await.1, Code::InvalidRequest);
        let request = provided.log.lock().unwrap().requests[0].clone();
        assert!(request.starts_with(line), "{request}");
        assert!(request.contains(&header.replace("KEY", KEY)), "{provider}");
        assert_eq!(
            request.matches(KEY).count(),
            1,
            "{provider}: once, and not in the URL"
        );
    }
}

#[tokio::test]
async fn a_whole_answer_is_read_where_a_stream_was_asked_for() {
    for (provider, body) in [
        ("gemini", gemini("Hello", Some("STOP"))),
        ("openai", r#"{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}"#.to_owned()),
        ("mistral", r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"Hello"}]},"finish_reason":"stop"}]}"#.to_owned()),
        ("anthropic", r#"{"type":"message","content":[{"type":"text","text":"Hello"}],"stop_reason":"end_turn","usage":{"input_tokens":2,"output_tokens":3}}"#.to_owned()),
    ] {
        let provided = provided(provider, vec![status("200 OK", "", &body)]).await;
        let (text, ended) = provided.text().await;
        assert_eq!((text.as_str(), ended.ok().unwrap().finish_reason), ("Hello", "stop"), "{provider}");
    }
}

/// Provider, status, headers, body; code, what follows, seconds to wait.
type Case<'a> = (&'a str, &'a str, &'a str, &'a str, Code, Then, Option<u64>);

#[tokio::test]
async fn every_failure_has_its_code_its_wait_and_none_of_the_providers_words() {
    use Code::{
        ContentBlocked, InvalidRequest, ProviderRateLimited, ProviderRejectedKey,
        ProviderUnavailable,
    };
    use Then::{Again, KeyIsBad, Stop};
    let google =
        |details: &str| format!(r#"{{"error":{{"message":"key {KEY}","details":[{details}]}}}}"#);
    let invalid = google(r#"{"reason":"API_KEY_INVALID"}"#);
    let disabled = google(r#"{"reason":"SERVICE_DISABLED"}"#);
    let retry = google(r#"{"@type":"RetryInfo","retryDelay":"7.5s"}"#);
    let negative = google(r#"{"retryDelay":"-3s"}"#);
    let absurd = google(r#"{"retryDelay":"1e300s"}"#);
    let per_day = google(
        r#"{"violations":[{"quotaId":"GenerateRequestsPerDayPerProject-FreeTier"}]},{"retryDelay":"3s"}"#,
    );
    let leaked = google("");
    let openai = |kind: &str, code: &str| {
        format!(r#"{{"error":{{"message":"key {KEY}","type":"{kind}","code":{code}}}}}"#)
    };
    let bad_openai = openai("invalid_request_error", "\"invalid_api_key\"");
    let scopes = openai("invalid_request_error", "null");
    let quota = openai("insufficient_quota", "\"insufficient_quota\"");
    let policy = openai("invalid_request_error", "\"content_policy_violation\"");
    let anthropic = |kind: &str| {
        format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"key {KEY}"}}}}"#)
    };
    let authentication = anthropic("authentication_error");
    let permission = anthropic("permission_error");
    let overloaded = anthropic("overloaded_error");
    let wait = |seconds| Again(Some(Duration::from_secs(seconds)));
    let cases: Vec<Case<'_>> = vec![
        (
            "gemini",
            "400 Bad",
            "",
            &invalid,
            ProviderRejectedKey,
            KeyIsBad,
            None,
        ),
        ("gemini", "400 Bad", "", &leaked, InvalidRequest, Stop, None),
        (
            "gemini",
            "403 No",
            "",
            &leaked,
            ProviderRejectedKey,
            KeyIsBad,
            None,
        ),
        (
            "gemini",
            "403 No",
            "",
            &disabled,
            ProviderRejectedKey,
            Stop,
            None,
        ),
        ("gemini", "404 No", "", &leaked, InvalidRequest, Stop, None),
        (
            "gemini",
            "429 Slow",
            "",
            &retry,
            ProviderRateLimited,
            wait(8),
            Some(8),
        ),
        (
            "gemini",
            "429 Slow",
            "",
            &negative,
            ProviderRateLimited,
            wait(3_600),
            Some(3_600),
        ),
        (
            "gemini",
            "429 Slow",
            "",
            &absurd,
            ProviderRateLimited,
            wait(3_600),
            Some(3_600),
        ),
        (
            "gemini",
            "429 Slow",
            "",
            "{}",
            ProviderRateLimited,
            Again(None),
            Some(30),
        ),
        (
            "gemini",
            "429 Slow",
            "",
            &per_day,
            ProviderRateLimited,
            Stop,
            Some(3_600),
        ),
        (
            "gemini",
            "500 Oops",
            "",
            &leaked,
            ProviderUnavailable,
            Again(None),
            None,
        ),
        (
            "gemini",
            "302 Moved",
            "",
            "{}",
            ProviderUnavailable,
            Again(None),
            None,
        ),
        (
            "openai",
            "401 No",
            "",
            &bad_openai,
            ProviderRejectedKey,
            KeyIsBad,
            None,
        ),
        (
            "openai",
            "401 No",
            "",
            &scopes,
            ProviderRejectedKey,
            Stop,
            None,
        ),
        (
            "openai",
            "403 No",
            "",
            &scopes,
            ProviderRejectedKey,
            Stop,
            None,
        ),
        (
            "openai",
            "429 Slow",
            "retry-after: 20\r\n",
            &quota,
            ProviderRateLimited,
            Stop,
            Some(3_600),
        ),
        (
            "openai",
            "429 Slow",
            "retry-after: 20\r\n",
            "{}",
            ProviderRateLimited,
            wait(20),
            Some(20),
        ),
        (
            "openai",
            "429 Slow",
            "retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n",
            "{}",
            ProviderRateLimited,
            Again(None),
            Some(30),
        ),
        ("openai", "400 Bad", "", &policy, ContentBlocked, Stop, None),
        ("openai", "404 No", "", &scopes, InvalidRequest, Stop, None),
        (
            "mistral",
            "401 No",
            "",
            "{\"message\":\"Unauthorized\"}",
            ProviderRejectedKey,
            KeyIsBad,
            None,
        ),
        (
            "mistral",
            "422 Bad",
            "",
            "{\"detail\":[]}",
            InvalidRequest,
            Stop,
            None,
        ),
        (
            "anthropic",
            "401 No",
            "",
            &authentication,
            ProviderRejectedKey,
            KeyIsBad,
            None,
        ),
        (
            "anthropic",
            "403 No",
            "",
            &permission,
            ProviderRejectedKey,
            Stop,
            None,
        ),
        ("anthropic", "413 Big", "", "{}", InvalidRequest, Stop, None),
        (
            "anthropic",
            "529 Busy",
            "",
            &overloaded,
            ProviderUnavailable,
            Again(None),
            None,
        ),
        (
            "anthropic",
            "402 Pay",
            "",
            "{}",
            ProviderRateLimited,
            Stop,
            Some(3_600),
        ),
        (
            "anthropic",
            "418 Tea",
            "",
            KEY,
            ProviderUnavailable,
            Again(None),
            None,
        ),
    ];
    for (provider, line, headers, body, code, then, seconds) in cases {
        let what = format!("{provider} {line} {body}");
        let provided = provided(provider, vec![status(line, headers, body)]).await;
        let prompt = Prompt::default();
        let order = Order {
            provider: provided.provider,
            model: "m",
            key: &provided.key,
            prompt: &prompt,
        };
        let far = Instant::now() + Duration::from_secs(60);
        let failure = provided.writer.once(&order, far).await.err().unwrap();
        assert_eq!(
            (failure.problem.code(), failure.then),
            (code, then),
            "{what}"
        );
        let shown = serde_json::to_value(failure.problem.shown("r")).unwrap();
        assert_eq!(shown["retry_after"].as_u64(), seconds, "{what}");
        assert!(!shown["detail"].as_str().unwrap().is_empty());
        for text in [shown.to_string(), format!("{failure:?}")] {
            assert!(
                !text.contains(KEY) && !text.contains("Unauthorized"),
                "{what}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn a_block_and_an_error_inside_a_stream_are_told_apart() {
    let text = |data: &str| format!("{SSE}{data}");
    let hello = gemini("Hel", None);
    let blocked_prompt = r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#;
    let anthropic = r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hel"}}"#;
    let overloaded =
        format!(r#"{{"type":"error","error":{{"type":"overloaded_error","message":"{KEY}"}}}}"#);
    let delta = r#"{"choices":[{"delta":{"content":"Hel"}}]}"#;
    for (provider, stream, shown, code, calls) in [
        (
            "gemini",
            format!("data: {blocked_prompt}\n\n"),
            "",
            Code::ContentBlocked,
            1,
        ),
        (
            "gemini",
            format!("data: {hello}\n\ndata: {}\n\n", gemini("", Some("SAFETY"))),
            "Hel",
            Code::ContentBlocked,
            1,
        ),
        (
            "gemini",
            format!("data: {hello}\n\ndata: {{\"error\":{{\"code\":503}}}}\n\n"),
            "Hel",
            Code::ProviderUnavailable,
            1,
        ),
        (
            "anthropic",
            format!("event: error\ndata: {overloaded}\n\n"),
            "",
            Code::ProviderUnavailable,
            3,
        ),
        (
            "anthropic",
            format!("data: {anthropic}\n\nevent: error\ndata: {overloaded}\n\n"),
            "Hel",
            Code::ProviderUnavailable,
            1,
        ),
        (
            "openai",
            format!("data: {delta}\n\ndata: {{\"error\":{{\"message\":\"{KEY}\"}}}}\n\n"),
            "Hel",
            Code::ProviderUnavailable,
            1,
        ),
        (
            "openai",
            format!(
                "data: {delta}\n\ndata: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"content_filter\"}}]}}\n\n"
            ),
            "Hel",
            Code::ContentBlocked,
            1,
        ),
    ] {
        let provided = provided(provider, vec![all(&text(&stream))]).await;
        assert_eq!(provided.code().await, (shown.to_owned(), code), "{stream}");
        assert_eq!(provided.calls(), calls, "{stream}");
    }
}

#[tokio::test]
async fn thinking_is_counted_and_not_shown_and_the_last_counts_hold() {
    let thought = r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]}}]}"#;
    let end = r#"{"candidates":[{"content":{"parts":[{"text":"Hello"}]},"finishReason":"MAX_TOKENS"}],
        "usageMetadata":{"promptTokenCount":2,"candidatesTokenCount":3,"thoughtsTokenCount":4,"totalTokenCount":9}}"#;
    let stream = format!(
        "{SSE}data: {thought}\n\ndata: {}\n\n",
        end.replace('\n', "")
    );
    let provided = provided("gemini", vec![all(&stream)]).await;
    let (text, ended) = provided.text().await;
    let ended = ended.ok().unwrap();
    assert_eq!((text.as_str(), ended.finish_reason), ("Hello", "length"));
    assert_eq!(
        (
            ended.usage.prompt_tokens,
            ended.usage.output_tokens,
            ended.usage.total_tokens
        ),
        (2, 7, 9)
    );
}

#[tokio::test]
async fn absurd_counts_are_clamped_before_they_are_added() {
    let most = u64::MAX;
    let gemini = format!(
        "{SSE}data: {{\"candidates\":[{{\"content\":{{\"parts\":[{{\"text\":\"Hi\"}}]}},\"finishReason\":\"STOP\"}}],\
         \"usageMetadata\":{{\"promptTokenCount\":{most},\"candidatesTokenCount\":{most},\
         \"thoughtsTokenCount\":{most},\"totalTokenCount\":{most}}}}}\n\n"
    );
    let chat = format!(
        "{SSE}data: {{\"choices\":[{{\"delta\":{{\"content\":\"Hi\"}},\"finish_reason\":\"stop\"}}],\
         \"usage\":{{\"prompt_tokens\":{most},\"completion_tokens\":{most},\"total_tokens\":-1}}}}\n\n"
    );
    let messages = format!(
        "{SSE}data: {{\"type\":\"message_start\",\"message\":{{\"usage\":{{\"input_tokens\":{most}}}}}}}\n\n\
         data: {{\"type\":\"content_block_delta\",\"delta\":{{\"text\":\"Hi\"}}}}\n\n\
         data: {{\"type\":\"message_delta\",\"delta\":{{\"stop_reason\":\"end_turn\"}},\
         \"usage\":{{\"input_tokens\":null,\"output_tokens\":1e99}}}}\n\n"
    );
    for (provider, stream) in [
        ("gemini", gemini),
        ("openai", chat),
        ("anthropic", messages),
    ] {
        let (text, ended) = provided(provider, vec![all(&stream)]).await.text().await;
        let usage = ended.ok().unwrap().usage;
        let counted = (usage.prompt_tokens, usage.output_tokens, usage.total_tokens);
        let (one, both) = (1_000_000_000, 2_000_000_000);
        assert_eq!(
            (text.as_str(), counted),
            ("Hi", (one, one, both)),
            "{provider}"
        );
    }
}
