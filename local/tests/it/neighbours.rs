//! Other users of the machine, in Local mode. Only root can act as one, so that the rest is skipped elsewhere.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Server, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const IN_CLEAR: &str = "/api/onboarding/api-keys/onboarding";
const KEY: &str = "AQ.key-of-the-developer-0001";

fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:\t0\t0"))
}

/// What curl as another user gets: a status and a body.
fn neighbour(args: &[&str]) -> (u16, String) {
    let mut curl = Command::new("setpriv");
    curl.args([
        "--reuid",
        "65534",
        "--regid",
        "65534",
        "--clear-groups",
        "curl",
        "-s",
    ]);
    let out = curl
        .args(["-w", "\n%{http_code}"])
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

async fn local(more: &[&str]) -> (tempfile::TempDir, Server) {
    let folder = folder();
    let mut serve = command(folder.path(), &["--port", "0", "--stand-in"]);
    let server = start(serve.args(more));
    assert_eq!(server.save(None, "gemini", KEY).await.0, 200);
    (folder, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_process_gets_nothing_in_local_mode() {
    if !is_root() {
        return;
    }
    let (_folder, server) = local(&[]).await;
    let at = |path: &str| format!("{}{path}", server.url);
    let invoke = at("/2015-03-31/functions/open-keys/invocations");
    for args in [
        &[at(IN_CLEAR).as_str()][..],
        &[
            "-6",
            &at(IN_CLEAR).replace("127.0.0.1", "[::ffff:127.0.0.1]"),
        ],
        &["-X", "DELETE", &at(KEYS)],
        &[
            "-d",
            r#"{"token":"x","providers":["gemini"],"purpose":"x"}"#,
            &invoke,
        ],
        &[&at("/")],
    ] {
        let (status, body) = neighbour(args);
        assert_eq!(status, 403, "{args:?}: {body}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["code"], "forbidden");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("--allow-other-users"), "{detail}");
        assert!(!body.contains(KEY));
    }
    assert_eq!(
        server.call("GET", IN_CLEAR, None, None).await.1["api_keys"]["gemini"],
        KEY
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_let_in_where_that_is_asked_for_and_where_people_sign_in() {
    if !is_root() {
        return;
    }
    let (_folder, server) = local(&["--allow-other-users"]).await;
    let (status, body) = neighbour(&[&format!("{}{IN_CLEAR}", server.url)]);
    assert!(status == 200 && body.contains(KEY), "{status} {body}");
    let folder = folder();
    let mut serve = command(
        folder.path(),
        &["--port", "0", "--in-memory", "--production"],
    );
    let server = start(clerk(&mut serve));
    assert_eq!(neighbour(&[&format!("{}{IN_CLEAR}", server.url)]).0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_developers_own_process_is_let_in_over_either_kind_of_socket() {
    let (_folder, server) = local(&[]).await;
    let port = server.address().port();
    for to in [
        format!("127.0.0.1:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let mut stream = TcpStream::connect(to).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let request = format!(
            "GET {IN_CLEAR} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(KEY),
            "{to}: {answer}"
        );
    }
}
