//! What a browser, a proxy or a frame gets from the running server.

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::harness::{Server, clerk, command, folder, start};

const KEYS: &str = "/api/onboarding/api-keys";
const EXPORT: &str = "/api/onboarding/api-keys/onboarding";
const INVOKE: &str = "/2015-03-31/functions/open-keys/invocations";
const KEY: &str = "AQ.the-local-users-key-0001";
const LOCAL: [&str; 4] = ["--port", "0", "--in-memory", "--stand-in"];
const PRODUCTION: [&str; 5] = ["--port", "0", "--in-memory", "--stand-in", "--production"];

async fn sent(request: RequestBuilder) -> (u16, String) {
    let response: Response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn local() -> (tempfile::TempDir, Server) {
    let folder = folder();
    std::fs::create_dir(folder.path().join("backend")).unwrap();
    let server = start(&mut command(folder.path(), &LOCAL));
    assert_eq!(server.save(None, "gemini", KEY).await.0, 200);
    (folder, server)
}

#[tokio::test]
async fn every_answer_forbids_frames_and_other_sites_in_both_modes() {
    let folder = folder();
    for args in [&LOCAL[..], &PRODUCTION[..]] {
        let mut command = command(folder.path(), args);
        let production = args.contains(&"--production");
        let server = match production {
            true => start(clerk(&mut command)),
            false => start(&mut command),
        };
        for (method, path) in [
            ("GET", "/"),
            ("GET", KEYS),
            ("OPTIONS", KEYS),
            ("PUT", KEYS),
            ("GET", "/api/nothing"),
            ("POST", INVOKE),
            ("POST", "/api/generate"),
        ] {
            let url = format!("{}{path}", server.url);
            let answer = Client::new()
                .request(method.parse().unwrap(), url)
                .send()
                .await
                .unwrap();
            let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            let policy = header("content-security-policy");
            assert!(
                policy.contains("frame-ancestors 'none'"),
                "{method} {path}: {policy}"
            );
            assert!(
                policy.contains("default-src 'none'"),
                "{method} {path}: {policy}"
            );
            assert_eq!(
                header("cross-origin-resource-policy"),
                "same-origin",
                "{method} {path}"
            );
        }
    }
}

#[tokio::test]
async fn a_proxied_or_framed_request_gets_no_key_from_local_mode_and_leaves_no_export() {
    let (_folder, server) = local().await;
    let before = exports(&server).await;
    for headers in [
        &[("x-forwarded-for", "203.0.113.9")][..],
        &[("x-forwarded-host", "keys.example.com")],
        &[("forwarded", "for=203.0.113.9;proto=https")],
        &[("via", "1.1 nginx")],
        &[("cf-connecting-ip", "203.0.113.9")],
        &[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-for", "203.0.113.9"),
        ],
        &[
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-dest", "iframe"),
        ],
        &[("sec-fetch-site", "same-site"), ("sec-fetch-dest", "image")],
        &[("sec-fetch-site", "cross-site"), ("origin", "null")],
    ] {
        for path in ["/", KEYS, EXPORT] {
            let mut request = Client::new().get(format!("{}{path}", server.url));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let (status, text) = sent(request).await;
            assert_eq!(status, 403, "{headers:?} {path}: {text}");
            assert!(!text.contains("0001"), "{headers:?} {path}: {text}");
        }
    }
    assert_eq!(exports(&server).await, before);
    // A front end's development server on another port, and a developer who types the address.
    for headers in [
        &[
            ("sec-fetch-site", "cross-site"),
            ("origin", "http://localhost:3000"),
        ][..],
        &[
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-host", "localhost:3000"),
        ],
        &[("sec-fetch-site", "none"), ("sec-fetch-dest", "document")],
    ] {
        let mut request = Client::new().get(format!("{}{EXPORT}", server.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, text) = sent(request).await;
        assert!(status == 200 && text.contains(KEY), "{headers:?}: {text}");
    }
}

async fn exports(server: &Server) -> usize {
    let (_, page) = server
        .call("GET", &format!("{KEYS}/audit?limit=100"), None, None)
        .await;
    let records = page["records"].as_array().unwrap();
    records
        .iter()
        .filter(|record| record["action"] == "export")
        .count()
}

#[tokio::test]
async fn the_invoke_path_takes_json_from_programs_and_nothing_from_a_browser() {
    let (_folder, server) = local().await;
    let event = json!({"token": "x", "providers": ["gemini"], "purpose": "x"});
    let post = || {
        Client::new()
            .post(format!("{}{INVOKE}", server.url))
            .body(event.to_string())
    };
    let signed =
        "AWS4-HMAC-SHA256 Credential=x/20261125/us-east-1/lambda/aws4_request, Signature=x";
    for (headers, wanted) in [
        (&[("content-type", "application/json")][..], 200),
        (&[("content-type", "application/json; charset=utf-8")], 200),
        // As boto3 and the other SDKs send it.
        (&[("authorization", signed)], 200),
        (
            &[
                ("authorization", signed),
                ("content-type", "application/octet-stream"),
            ],
            200,
        ),
        (&[], 415),
        (&[("content-type", "text/plain")], 415),
        (&[("content-type", "text/plain;x=application/json")], 415),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            415,
        ),
        (&[("content-type", "application/octet-stream")], 415),
        (
            &[("authorization", signed), ("content-type", "text/plain")],
            415,
        ),
        (&[("authorization", "Basic eDp4")], 415),
        (
            &[
                ("content-type", "application/json"),
                ("origin", "http://localhost:3000"),
            ],
            403,
        ),
        (
            &[
                ("content-type", "application/json"),
                ("sec-fetch-site", "same-origin"),
            ],
            403,
        ),
        (
            &[
                ("content-type", "application/json"),
                ("sec-fetch-mode", "no-cors"),
            ],
            403,
        ),
        (
            &[("content-type", "application/json"), ("via", "1.1 nginx")],
            403,
        ),
    ] {
        let mut request = post();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (status, text) = sent(request).await;
        assert_eq!(status, wanted, "{headers:?}: {text}");
        assert_eq!(text.contains(KEY), wanted == 200, "{headers:?}: {text}");
    }
    let problem: Value = serde_json::from_str(&sent(post()).await.1).unwrap();
    assert_eq!(problem["code"], "invalid_request");
}
