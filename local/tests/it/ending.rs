//! Requests that do not arrive, and how a server ends while some are under way.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use reqwest::Client;
use serde_json::json;

use crate::harness::{Server, command, folder, start};

/// More than the server takes at once.
const MANY: usize = 600;
const LATER: Duration = Duration::from_secs(40);

fn server(folder: &tempfile::TempDir) -> Server {
    start(&mut command(folder.path(), &["--port", "0", "--stand-in"]))
}

fn begun(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(LATER)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

const HALF_HEADER: &str = "GET /api/onboarding/api-keys HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: ";
const HALF_BODY: &str = "POST /api/onboarding/api-keys HTTP/1.1\r\nHost: 127.0.0.1\r\n\
    Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"provider\":";

/// A text of so many words, whose first ones have come.
async fn stream(server: &Server, words: usize) -> reqwest::Response {
    let key = "AQ.some-key-0123456789";
    assert_eq!(server.save(None, "gemini", key).await.0, 200);
    let body = json!({"prompt": "word ".repeat(words), "stream": true});
    let request = Client::new()
        .post(format!("{}/api/generate", server.url))
        .json(&body);
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains("event: delta") {
        text += std::str::from_utf8(&response.chunk().await.unwrap().unwrap()).unwrap();
    }
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_header_and_half_a_body_are_waited_for_ten_seconds_and_no_more() {
    let folder = folder();
    let server = server(&folder);
    let nothing = begun(&server, "");
    let header = begun(&server, HALF_HEADER);
    let body = begun(&server, HALF_BODY);
    for (stream, answer) in [(nothing, ""), (header, ""), (body, "HTTP/1.1 400")] {
        let mut stream = stream;
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert!(
            said.starts_with(answer) && said.is_empty() == answer.is_empty(),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_are_places_for_do_not_keep_the_next_request_out() {
    let folder = folder();
    let server = server(&folder);
    let _held: Vec<_> = (0..MANY).map(|_| begun(&server, HALF_HEADER)).collect();
    let list = server.call("GET", "/api/onboarding/api-keys", None, None);
    assert_eq!(tokio::time::timeout(LATER, list).await.unwrap().0, 200);
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    assert!(files.count() < 1_024, "it has files left");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_does_not_wait_for_who_has_only_begun_to_ask() {
    for signal in ["-INT", "-TERM"] {
        let folder = folder();
        let mut server = server(&folder);
        let _idle = begun(&server, "");
        let _half = begun(&server, HALF_HEADER);
        assert_eq!(
            server.save(None, "exa", "exa-key-of-mine-0001").await.0,
            200
        );
        server.signal(signal);
        assert!(server.says("stopped"), "{signal}");
        assert!(server.child.wait().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_lets_a_text_come_to_its_end_and_says_so() {
    let folder = folder();
    let mut server = server(&folder);
    let mut response = stream(&server, 30).await;
    server.signal("-TERM");
    assert!(server.says("finishing 1 request; Ctrl-C again to stop now"));
    let mut rest = String::new();
    while let Some(piece) = response.chunk().await.unwrap() {
        rest += std::str::from_utf8(&piece).unwrap();
    }
    assert!(rest.contains("event: done"), "{rest}");
    assert!(server.child.wait().unwrap().success());
    assert!(server.says("stopped\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ctrl_c_ends_it_at_once() {
    let folder = folder();
    let mut server = server(&folder);
    let _response = stream(&server, 2_000).await;
    server.signal("-INT");
    assert!(server.says("finishing 1 request"));
    server.signal("-INT");
    assert_eq!(server.child.wait().unwrap().code(), Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_too_long_to_wait_for_is_cut_off_and_what_it_used_is_counted() {
    let folder = folder();
    let mut first = server(&folder);
    let _response = stream(&first, 2_000).await;
    first.signal("-INT");
    assert!(first.child.wait().unwrap().success());
    assert!(first.says("stopped; 1 cut off after 5 s"));
    let next = server(&folder);
    let usage = next
        .call("GET", "/api/onboarding/api-keys/usage", None, None)
        .await;
    assert_eq!(usage.0, 200);
    let counted = usage.1.to_string();
    assert!(counted.contains("gemini"), "{counted}");
}
