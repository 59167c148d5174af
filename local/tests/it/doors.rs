//! Which ports are open, and what comes in at those that other processes need.

use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};

use crate::harness::{Server, clerk, command, folder, start};

/// Two free ports in a row.
fn two_ports() -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn serve(folder: &Path, more: &[&str]) -> Server {
    let mut command = command(folder, &["--port", "0"]);
    command.args(more);
    start(clerk_if_production(&mut command, more))
}

fn clerk_if_production<'a>(
    command: &'a mut std::process::Command,
    args: &[&str],
) -> &'a mut std::process::Command {
    match args.contains(&"--production") {
        true => clerk(command),
        false => command,
    }
}

/// How many sockets of the process listen, of TCP or bound for UDP.
fn listening(server: &Server) -> usize {
    let fds = fs::read_dir(format!("/proc/{}/fd", server.child.id())).unwrap();
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let own: HashSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    assert!(!own.is_empty());
    let mut found = 0;
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let table = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let fields = table
            .lines()
            .map(|line| Vec::from_iter(line.split_whitespace()));
        found += fields
            .filter(|fields| fields.get(3) == Some(&state))
            .filter(|fields| fields.get(9).is_some_and(|inode| own.contains(*inode)))
            .count();
    }
    found
}

#[tokio::test]
async fn serve_listens_on_one_port_and_on_two_more_for_containers() {
    for production in [&[][..], &["--production"]] {
        let sam_port = two_ports().to_string();
        let sam = ["--sam", "127.0.0.1", "--sam-port", &sam_port];
        for (more, ports) in [
            (&[][..], 1),
            (&["--stand-in"], 1),
            (&sam, 2),
            (&[&sam[..], &["--stand-in"]].concat(), 3),
        ] {
            let folder = folder();
            let args = [production, more].concat();
            let server = serve(folder.path(), &args);
            // Everything that could open a connection has done so.
            let user = (!production.is_empty()).then_some(crate::harness::PERSON);
            let saved = server.save(user, "gemini", "AQ.some-key-0123456789").await;
            assert_eq!(saved.0, 200, "{args:?}");
            assert_eq!(listening(&server), ports, "{args:?}");
        }
    }
}

/// Sends `head` and `body`; the whole answer.
fn raw(to: SocketAddr, head: &[String], body: &str) -> String {
    let mut stream = TcpStream::connect(to).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let head = head.join("\r\n");
    let length = body.len();
    let request = format!("{head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A server for containers, with a key saved, and its file of settings.
async fn with_sam(production: bool) -> (tempfile::TempDir, Server, Value) {
    let folder = folder();
    let port = two_ports().to_string();
    let mut args = vec!["--stand-in", "--sam", "127.0.0.1", "--sam-port", &port];
    args.extend(production.then_some("--production"));
    let server = serve(folder.path(), &args);
    let user = production.then_some(crate::harness::PERSON);
    assert_eq!(
        server
            .save(user, "gemini", "AQ.some-key-0123456789")
            .await
            .0,
        200
    );
    let settings = fs::read(folder.path().join(".local/sam-env.json")).unwrap();
    let settings: Value = serde_json::from_slice(&settings).unwrap();
    (folder, server, settings["Parameters"].clone())
}

/// Where the address that containers know is, on this machine.
fn here(url: &Value) -> SocketAddr {
    let url = url
        .as_str()
        .unwrap()
        .trim_start_matches("http://host.docker.internal:");
    let port = url.split('/').next().unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_containers_port_answers_nobody_but_who_knows_the_access_key_id() {
    for production in [false, true] {
        let (_folder, _server, settings) = with_sam(production).await;
        let to = here(&settings["AWS_ENDPOINT_URL_DYNAMODB"]);
        let id = settings["AWS_ACCESS_KEY_ID"].as_str().unwrap();
        let signed =
            |id: &str| format!("authorization: AWS4-HMAC-SHA256 Credential={id}/20260101/x");
        let host = format!("host: host.docker.internal:{}", to.port());
        let base = |host: &str, more: &[&str]| {
            let target = "x-amz-target: DynamoDB_20120810.Scan";
            let kind = "content-type: application/x-amz-json-1.0";
            let mut head = vec!["POST / HTTP/1.1".to_owned(), host.to_owned()];
            head.extend(
                [target, kind]
                    .iter()
                    .chain(more)
                    .map(|line| (*line).to_owned()),
            );
            head
        };
        let scan = json!({"TableName": "user-api-keys"}).to_string();
        let own = signed(id);
        let at = format!("host: {to}");
        for host in [&host, &at] {
            let answer = raw(to, &base(host, &[&own]), &scan);
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("USER#"),
                "{answer}"
            );
        }
        let rebound = format!("host: evil.test:{}", to.port());
        let mut preflight = base(&at, &["origin: https://evil.test", &own]);
        "OPTIONS / HTTP/1.1".clone_into(&mut preflight[0]);
        let mut attacks = vec![
            preflight,
            base(&rebound, &[&own]),
            base("host: evil.test", &[&own]),
        ];
        for more in [
            &[][..],
            &["authorization: AWS4-HMAC-SHA256 Credential=test/20260101/x"],
            &[&own, "origin: https://evil.test"],
            &[&own, "origin: null"],
            &[&own, "sec-fetch-site: same-origin"],
            &[&own, "sec-fetch-mode: no-cors"],
            &[&own, &at],
            &[&own, &own],
        ] {
            attacks.push(base(&at, more));
        }
        for attack in attacks {
            let answer = raw(to, &attack, &scan);
            assert!(answer.starts_with("HTTP/1.1 4"), "{attack:?}: {answer}");
            assert!(
                !answer.contains("USER#") && !answer.contains(id),
                "{attack:?}: {answer}"
            );
            assert!(
                !answer.to_lowercase().contains("access-control"),
                "{answer}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stand_in_answers_under_its_own_path_alone_and_never_a_page() {
    let (_folder, server, settings) = with_sam(false).await;
    let url = settings["GEMINI_BASE_URL"].as_str().unwrap();
    let path = url.rsplit('/').next().unwrap();
    let at = here(&settings["GEMINI_BASE_URL"]);
    let ask = |to: SocketAddr, path: &str, more: &str| {
        let line = format!("GET /{path}v1beta/models HTTP/1.1");
        let host = format!("host: {to}");
        raw(
            to,
            &[line, host, format!("x-goog-api-key: some-key{more}")],
            "",
        )
    };
    let path = format!("{path}/");
    for to in [at, server.address()] {
        assert!(ask(to, &path, "").starts_with("HTTP/1.1 200"), "{to}");
        assert!(ask(to, &path, "\r\norigin: https://evil.test").starts_with("HTTP/1.1 403"));
        assert!(ask(to, &path, "\r\nsec-fetch-site: none").starts_with("HTTP/1.1 403"));
        for path in [
            "",
            "stand-in/",
            "stand-in-00000000000040008000000000000000/",
        ] {
            assert!(ask(to, path, "").starts_with("HTTP/1.1 404"), "{to} {path}");
        }
    }
}

#[tokio::test]
async fn the_settings_for_containers_go_into_no_file_that_a_link_leads_to() {
    let folder = folder();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::create_dir(folder.path().join(".local")).unwrap();
    let file = folder.path().join(".local/sam-env.json");
    symlink(&victim, &file).unwrap();
    let server = serve(folder.path(), &["--sam", "127.0.0.1", "--sam-port", "0"]);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    let metadata = fs::symlink_metadata(&file).unwrap();
    assert!(metadata.is_file());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let id = |text: &str| text.split("LOCAL").nth(1).map(|rest| rest[..32].to_owned());
    let first = id(&fs::read_to_string(&file).unwrap()).unwrap();
    drop(server);
    let _server = serve(folder.path(), &["--sam", "127.0.0.1", "--sam-port", "0"]);
    let second = id(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_ne!(first, second, "each start has its own");
}
