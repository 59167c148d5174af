//! The HTTP contract: shapes, failures, and who sees what.

use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{PERSON, Server, clerk, command, folder, key_for, start};

const OTHER: &str = "user_bbbbbbbb2";
const KEYS: &str = "/api/onboarding/api-keys";
const KEY: &str = "AQ.key-of-person-a-0001";

fn production(folder: &tempfile::TempDir) -> Server {
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    start(clerk(&mut command(folder.path(), &args)))
}

#[tokio::test]
async fn bad_input_gets_the_failure_that_says_which_rule_it_broke() {
    let folder = folder();
    let server = production(&folder);
    let long = "k".repeat(1_025);
    let huge = "k".repeat(17_000);
    for (body, status, code) in [
        (
            json!({"provider": "gemni", "api_key": KEY}),
            400,
            "unknown_provider",
        ),
        (
            json!({"provider": "Gemini", "api_key": KEY}),
            400,
            "unknown_provider",
        ),
        (
            json!({"provider": "gemini", "api_key": ""}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": long}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": "AQ.a b"}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": "AQ.a\nb"}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": "************0001"}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": "your_api_key"}),
            400,
            "invalid_api_key",
        ),
        (
            json!({"provider": "gemini", "api_key": "clé"}),
            400,
            "invalid_api_key",
        ),
        (json!({"provider": "gemini"}), 400, "invalid_request"),
        (
            json!({"provider": "gemini", "api_key": 7}),
            400,
            "invalid_request",
        ),
        (
            json!({"provider": "gemini", "api_key": KEY, "user_id": OTHER}),
            400,
            "invalid_request",
        ),
        (
            json!({"provider": "gemini", "api_key": KEY, "expires_in_days": 0}),
            400,
            "invalid_request",
        ),
        (
            json!({"provider": "gemini", "api_key": KEY, "description": "x".repeat(201)}),
            400,
            "invalid_request",
        ),
        (
            json!({"provider": "gemini", "api_key": huge}),
            413,
            "invalid_request",
        ),
        (json!([]), 400, "invalid_request"),
    ] {
        let (found, answer) = server
            .call("POST", KEYS, Some(PERSON), Some(body.clone()))
            .await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{body}");
        assert!(!answer["detail"].as_str().unwrap().is_empty());
        assert_eq!(answer["status"], status);
    }
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(
        list["configured_providers"],
        json!([]),
        "nothing was stored"
    );
}

#[tokio::test]
async fn only_json_is_read() {
    let folder = folder();
    let server = production(&folder);
    for (content_type, body, status) in [
        (
            "text/plain",
            r#"{"provider":"gemini","api_key":"AQ.x"}"#,
            415,
        ),
        ("application/json", "not JSON", 400),
        (
            "application/json",
            r#"{"provider":"gemini","provider":"exa","api_key":"AQ.x"}"#,
            400,
        ),
        (
            "application/json; charset=utf-8",
            r#"{"provider":"gemini","api_key":"AQ.x"}"#,
            200,
        ),
    ] {
        let request = Client::new().post(format!("{}{KEYS}", server.url));
        let request = request.bearer_auth(local::token::sign(PERSON).unwrap());
        let response = request
            .header("content-type", content_type)
            .body(body)
            .send()
            .await;
        assert_eq!(response.unwrap().status(), status, "{content_type} {body}");
    }
}

#[tokio::test]
async fn a_missing_or_bad_token_is_401_on_every_route_and_always_the_same_body() {
    let folder = folder();
    let server = production(&folder);
    let mut bodies = Vec::new();
    for (method, path) in [
        ("GET", KEYS.to_owned()),
        ("GET", format!("{KEYS}/onboarding")),
        ("POST", KEYS.to_owned()),
        ("DELETE", format!("{KEYS}/gemini")),
        ("POST", "/api/generate".to_owned()),
    ] {
        for token in ["", "Bearer x", "Bearer a.b.c", "Basic dXNlcjpw"] {
            let url = format!("{}{path}", server.url);
            let request = Client::new().request(method.parse().unwrap(), url);
            let response = request.header("authorization", token).send().await.unwrap();
            assert_eq!(response.status(), 401, "{method} {path} {token}");
            assert_eq!(response.headers()["cache-control"], "no-store");
            assert_eq!(
                response.headers()["content-type"],
                "application/problem+json"
            );
            let mut body: Value = response.json().await.unwrap();
            body["request_id"] = Value::Null;
            bodies.push(body);
        }
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]));
}

#[tokio::test]
async fn unknown_routes_are_404_and_wrong_methods_405_with_what_is_allowed() {
    let folder = folder();
    let server = production(&folder);
    assert_eq!(
        server
            .call("GET", "/api/nothing", Some(PERSON), None)
            .await
            .0,
        404
    );
    let url = format!("{}{KEYS}", server.url);
    let response = Client::new().put(url).send().await.unwrap();
    assert_eq!(response.status(), 405);
    assert_eq!(response.headers()["allow"], "POST, DELETE, GET");
}

#[tokio::test]
async fn no_answer_is_stored_anywhere_or_taken_for_another_type() {
    let folder = folder();
    let server = production(&folder);
    let invoke = "/2015-03-31/functions/open-keys/invocations";
    for (method, path) in [
        ("GET", "/"),
        ("GET", KEYS),
        ("OPTIONS", KEYS),
        ("PUT", KEYS),
        ("GET", "/api/nothing"),
        ("POST", invoke),
    ] {
        let url = format!("{}{path}", server.url);
        let request = Client::new().request(method.parse().unwrap(), url);
        let response = request.send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("cache-control"), "no-store", "{method} {path}");
        assert_eq!(
            header("x-content-type-options"),
            "nosniff",
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn a_browser_may_ask_before_it_has_a_token_and_an_allowed_page_hears_so_on_failures_too() {
    let folder = folder();
    let mut command = command(
        folder.path(),
        &["--port", "0", "--in-memory", "--production"],
    );
    let server = start(clerk(command.env("ALLOWED_ORIGINS", "https://app.test")));
    for (method, origin, status, named) in [
        ("OPTIONS", "https://app.test", 204, true),
        ("OPTIONS", "https://evil.test", 204, false),
        ("GET", "https://app.test", 401, true),
        ("GET", "https://evil.test", 401, false),
        ("GET", "https://app.test.evil.test", 401, false),
        ("GET", "null", 401, false),
    ] {
        let request =
            Client::new().request(method.parse().unwrap(), format!("{}{KEYS}", server.url));
        let response = request.header("origin", origin).send().await.unwrap();
        let headers = response.headers();
        assert_eq!(response.status(), status, "{method} {origin}");
        assert_eq!(headers["vary"], "Origin");
        let allowed = headers.get("access-control-allow-origin");
        assert_eq!(
            allowed.is_some_and(|value| value == origin),
            named,
            "{method} {origin}"
        );
        assert!(named || allowed.is_none(), "{origin}");
        assert!(headers.get("access-control-allow-credentials").is_none());
    }
}

#[tokio::test]
async fn a_list_masks_every_key_at_one_length_and_names_every_provider() {
    let folder = folder();
    let server = production(&folder);
    for (provider, key) in [
        ("gemini", KEY),
        ("exa", "short"),
        ("copilotkit", "ck_pub_0123456789abcdef"),
    ] {
        assert_eq!(server.save(Some(PERSON), provider, key).await.0, 200);
    }
    let (status, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(status, 200);
    assert_eq!(list["total_providers"], 11);
    assert_eq!(list["api_keys"].as_object().unwrap().len(), 11);
    assert_eq!(list["api_keys"]["gemini"], "************0001");
    assert_eq!(list["api_keys"]["exa"], "************");
    assert_eq!(list["api_keys"]["openai"], Value::Null);
    assert_eq!(
        list["configured_providers"],
        json!(["gemini", "exa", "copilotkit"])
    );
    let key = &list["keys"][0];
    assert_eq!(
        (&key["provider"], &key["version"], &key["status"]),
        (&json!("gemini"), &json!(1), &json!("unverified"))
    );
    assert_eq!(
        (&key["enabled"], &key["expires_at"]),
        (&json!(true), &Value::Null)
    );
}

#[tokio::test]
async fn nothing_of_one_person_reaches_another_and_no_environment_key_stands_in() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    let mut command = command(folder.path(), &args);
    command.env("GEMINI_API_KEY", "AQ.of-the-operator-9999");
    let server = start(clerk(&mut command));
    server.save(Some(PERSON), "gemini", KEY).await;
    server
        .save(Some(PERSON), "copilotkit", "ck_pub_0123456789abcdef")
        .await;
    let (_, list) = server.call("GET", KEYS, Some(OTHER), None).await;
    assert_eq!(
        (&list["keys"], &list["configured_providers"]),
        (&json!([]), &json!([]))
    );
    assert_eq!(server.copilotkit(OTHER).await, Value::Null);
    let prompt = || Some(json!({"prompt": "Hello"}));
    let (status, answer) = server
        .call("POST", "/api/generate", Some(OTHER), prompt())
        .await;
    assert_eq!((status, &answer["code"]), (409, &json!("no_api_key")));
    server
        .call("DELETE", &format!("{KEYS}/gemini"), Some(OTHER), None)
        .await;
    let (status, answer) = server
        .call("POST", "/api/generate", Some(PERSON), prompt())
        .await;
    assert_eq!(
        (status, &answer["credential"]["hint"]),
        (200, &json!("0001"))
    );
    assert!(
        !folder.path().join("backend").exists(),
        "Production writes no file"
    );
}

#[tokio::test]
async fn in_production_only_the_public_key_comes_back_in_clear_and_in_local_mode_all_do() {
    let folder = folder();
    let path = format!("{KEYS}/onboarding");
    let server = production(&folder);
    server.save(Some(PERSON), "gemini", KEY).await;
    server
        .save(Some(PERSON), "copilotkit", "ck_pub_0123456789abcdef")
        .await;
    let (_, answer) = server.call("GET", &path, Some(PERSON), None).await;
    assert_eq!(
        answer["api_keys"],
        json!({"copilotkit": "ck_pub_0123456789abcdef"})
    );
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    server.save(None, "gemini", KEY).await;
    let (_, answer) = server.call("GET", &path, None, None).await;
    assert_eq!(answer["api_keys"], json!({"gemini": KEY}));
}

#[tokio::test]
async fn a_key_that_browsers_are_given_is_a_public_one_or_refused() {
    let folder = folder();
    std::fs::create_dir(folder.path().join("frontend")).unwrap();
    let in_production = production(&folder);
    let in_local = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    let name = "REACT_APP_COPILOTKIT_API_KEY";
    for secret in [
        "sk-ant-a-secret-key-by-mistake-0001",
        "ck_priv_0123456789abcdef",
        "CK_PUB_0123456789abcdef",
        "ck_pub_",
    ] {
        let line = Some(json!({"key": name, "value": secret}));
        for (status, answer) in [
            in_production.save(Some(PERSON), "copilotkit", secret).await,
            in_local.save(None, "copilotkit", secret).await,
            in_local
                .call("POST", "/api/frontend-env/update", None, line)
                .await,
        ] {
            let (code, detail) = (&answer["code"], answer["detail"].to_string());
            assert_eq!((status, code), (400, &json!("invalid_api_key")));
            assert!(detail.contains("begins with ck_pub_"), "{detail}");
            assert!(secret == "ck_pub_" || !detail.contains(secret), "{detail}");
        }
    }
    for (server, user) in [(&in_production, Some(PERSON)), (&in_local, None)] {
        let (_, list) = server.call("GET", KEYS, user, None).await;
        assert_eq!(list["configured_providers"], json!([]));
    }
    for file in ["backend/.env", "frontend/.env"] {
        assert!(!folder.path().join(file).exists(), "{file}");
    }
}

#[tokio::test]
async fn keys_in_clear_are_one_providers_where_it_is_named() {
    let folder = folder();
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    server.save(None, "gemini", KEY).await;
    let public = "ck_pub_0123456789abcdef";
    server.save(None, "copilotkit", public).await;
    let keys = async |query: &str| {
        let path = format!("{KEYS}/onboarding{query}");
        let (status, answer) = server.call("GET", &path, None, None).await;
        (status, answer["api_keys"].clone())
    };
    let all = json!({"gemini": KEY, "copilotkit": public});
    assert_eq!(keys("").await, (200, all));
    let one = json!({"copilotkit": public});
    assert_eq!(keys("?provider=copilotkit").await, (200, one));
    assert_eq!(keys("?provider=exa").await, (200, json!({})));
    assert_eq!(keys("?provider=nobody").await, (400, Value::Null));
    let server = production(&folder);
    server.save(Some(PERSON), "gemini", KEY).await;
    let path = format!("{KEYS}/onboarding?provider=gemini");
    let (_, answer) = server.call("GET", &path, Some(PERSON), None).await;
    assert_eq!(answer["api_keys"], json!({}), "a secret one stays absent");
}

#[tokio::test]
async fn a_refused_key_an_odd_model_and_an_empty_prompt_each_have_their_failure() {
    let folder = folder();
    let server = production(&folder);
    server
        .save(Some(PERSON), "gemini", "AQ.bad-key-0123456789")
        .await;
    for (body, status, code) in [
        (json!({"prompt": "Hello"}), 422, "provider_rejected_key"),
        (
            json!({"prompt": "Hello", "model": "../x"}),
            400,
            "invalid_request",
        ),
        (json!({"prompt": " "}), 400, "invalid_request"),
        (
            json!({"prompt": "Hello", "temperature": 3}),
            400,
            "invalid_request",
        ),
        (
            json!({"prompt": "Hello", "provider": "exa"}),
            400,
            "invalid_request",
        ),
        (
            json!({"prompt": "Hello", "provider": "nobody"}),
            400,
            "unknown_provider",
        ),
        (
            json!({"prompt": "Hello", "api_key": "AQ.x"}),
            400,
            "invalid_request",
        ),
    ] {
        let (found, answer) = server
            .call("POST", "/api/generate", Some(PERSON), Some(body.clone()))
            .await;
        assert_eq!((found, &answer["code"]), (status, &json!(code)), "{body}");
        assert!(!answer.to_string().contains("AQ."), "{answer}");
    }
}

#[tokio::test]
async fn in_local_mode_a_rebound_host_and_a_hostile_page_are_refused_everywhere() {
    let folder = folder();
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    for path in [
        "/",
        KEYS,
        "/api/onboarding/api-keys/onboarding",
        "/api/nothing",
    ] {
        for (name, value) in [
            ("host", "evil.test"),
            ("origin", "https://evil.test"),
            ("origin", "null"),
        ] {
            let request = Client::new()
                .get(format!("{}{path}", server.url))
                .header(name, value);
            assert_eq!(
                request.send().await.unwrap().status(),
                403,
                "{path} {name} {value}"
            );
        }
    }
    let front_end = "http://localhost:3000";
    let request = Client::new()
        .get(format!("{}{KEYS}", server.url))
        .header("origin", front_end);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], front_end);
}

#[tokio::test]
async fn a_new_save_has_its_own_kid_and_replaces_version_description_and_end() {
    let folder = folder();
    let server = production(&folder);
    let body =
        json!({"provider": "gemini", "api_key": KEY, "expires_in_days": 1, "description": "mine"});
    let (_, first) = server.call("POST", KEYS, Some(PERSON), Some(body)).await;
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert!(list["keys"][0]["expires_at"].is_string());
    assert_eq!(list["keys"][0]["description"], "mine");
    let (_, saved) = server.save(Some(PERSON), "gemini", KEY).await;
    assert_eq!(saved["key"]["version"], 2);
    assert_ne!(
        saved["key"]["kid"], first["key"]["kid"],
        "every save has its own kid"
    );
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(list["keys"][0]["expires_at"], Value::Null);
}

#[tokio::test]
async fn who_impersonates_may_look_and_do_nothing_else_and_is_logged() {
    let folder = folder();
    let server = production(&folder);
    server
        .save(Some(PERSON), "copilotkit", "ck_pub_0123456789abcdef")
        .await;
    for (method, path, status) in [
        ("GET", KEYS.to_owned(), 200),
        ("GET", format!("{KEYS}/onboarding"), 403),
        ("POST", KEYS.to_owned(), 403),
        ("DELETE", format!("{KEYS}/copilotkit"), 403),
        ("POST", "/api/generate".to_owned(), 403),
    ] {
        let url = format!("{}{path}", server.url);
        let token = local::token::sign_as(PERSON, "user_support01").unwrap();
        let request = Client::new().request(method.parse().unwrap(), url);
        let response = request.bearer_auth(token).send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
    }
    assert_eq!(server.copilotkit(PERSON).await, "ck_pub_0123456789abcdef");
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log.matches("\"impersonation\"").count(), 5);
    assert!(!log.contains("user_support01"), "hashed, as users are");
}

#[tokio::test]
async fn a_paused_key_is_not_used_until_it_is_switched_on_again() {
    let folder = folder();
    let server = production(&folder);
    server.save(Some(PERSON), "gemini", KEY).await;
    let path = format!("{KEYS}/gemini");
    let prompt = || Some(json!({"prompt": "Hello"}));
    for (change, status, code) in [
        (json!({"enabled": false}), 409, json!("api_key_paused")),
        (json!({"enabled": true}), 200, Value::Null),
        (
            json!({"expires_at": "2999-01-01T00:00:00+02:00"}),
            200,
            Value::Null,
        ),
        (
            json!({"expires_at": null, "description": "mine"}),
            200,
            Value::Null,
        ),
    ] {
        let (changed, record) = server
            .call("PATCH", &path, Some(PERSON), Some(change.clone()))
            .await;
        assert_eq!(
            (changed, &record["provider"], &record["version"]),
            (200, &json!("gemini"), &json!(1))
        );
        let (used, answer) = server
            .call("POST", "/api/generate", Some(PERSON), prompt())
            .await;
        assert_eq!((used, &answer["code"]), (status, &code), "{change}");
    }
    for change in [
        json!({}),
        json!({"expires_at": "2001-01-01T00:00:00Z"}),
        json!({"expires_at": "tomorrow"}),
        json!({"enabled": "no"}),
        json!({"api_key": KEY}),
        json!({"description": "x".repeat(201)}),
    ] {
        let (status, answer) = server
            .call("PATCH", &path, Some(PERSON), Some(change.clone()))
            .await;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid_request")),
            "{change}"
        );
    }
    let none = server
        .call("PATCH", &path, Some(OTHER), Some(json!({"enabled": true})))
        .await;
    assert_eq!((none.0, &none.1["code"]), (409, &json!("no_api_key")));
    let (_, list) = server.call("GET", KEYS, Some(OTHER), None).await;
    assert_eq!(list["keys"], json!([]), "a change makes no row");
}

#[tokio::test]
async fn a_save_that_names_a_version_replaces_that_version_or_nothing() {
    let folder = folder();
    let server = production(&folder);
    let save = async |if_match: &str, key: &str| {
        let request = Client::new()
            .post(format!("{}{KEYS}", server.url))
            .header("if-match", if_match);
        let request = request.bearer_auth(local::token::sign(PERSON).unwrap());
        let response = request
            .json(&json!({"provider": "gemini", "api_key": key}))
            .send()
            .await
            .unwrap();
        response.status().as_u16()
    };
    assert_eq!(save("\"1\"", KEY).await, 412, "there is no version 1 yet");
    server.save(Some(PERSON), "gemini", KEY).await;
    assert_eq!(save("\"1\"", "AQ.second-key-of-a-0002").await, 200);
    assert_eq!(save("\"1\"", "AQ.third-key-of-aa-0003").await, 412);
    assert_eq!(save("1", KEY).await, 400);
    let (_, list) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(list["api_keys"]["gemini"], "************0002");
}

#[tokio::test]
async fn revoking_all_takes_every_key_of_one_person_and_of_nobody_else() {
    let folder = folder();
    let server = production(&folder);
    for provider in ["gemini", "exa", "wavespeed"] {
        server.save(Some(PERSON), provider, KEY).await;
        server.save(Some(OTHER), provider, KEY).await;
    }
    assert_eq!(server.call("DELETE", KEYS, Some(PERSON), None).await.0, 204);
    assert_eq!(server.call("DELETE", KEYS, Some(PERSON), None).await.0, 204);
    let configured = async |user| {
        let (_, list) = server.call("GET", KEYS, Some(user), None).await;
        list["configured_providers"].as_array().unwrap().len()
    };
    assert_eq!((configured(PERSON).await, configured(OTHER).await), (0, 3));
}

#[tokio::test]
async fn validate_looks_at_the_required_three_and_answers_get_and_post() {
    let folder = folder();
    let server = production(&folder);
    let path = format!("{KEYS}/validate");
    let (_, none) = server.call("GET", &path, Some(PERSON), None).await;
    assert_eq!(none["missing_keys"], json!(["gemini", "exa", "copilotkit"]));
    assert_eq!(
        (&none["all_valid"], &none["total_providers"]),
        (&json!(false), &json!(11))
    );
    assert_eq!(
        none["validation_results"]["gemini"],
        json!({"valid": false, "status": "missing", "checked_at": null})
    );
    for provider in ["gemini", "exa", "copilotkit"] {
        let key = key_for(provider, KEY);
        assert_eq!(server.save(Some(PERSON), provider, &key).await.0, 200);
    }
    let (status, all) = server
        .call("POST", &path, Some(PERSON), Some(json!({})))
        .await;
    assert_eq!(
        (status, &all["all_valid"], &all["missing_keys"]),
        (200, &json!(true), &json!([]))
    );
    assert!(!all.to_string().contains("0001"), "not even a hint");
    let pause = Some(json!({"enabled": false}));
    server
        .call("PATCH", &format!("{KEYS}/exa"), Some(PERSON), pause)
        .await;
    let (_, paused) = server.call("GET", &path, Some(PERSON), None).await;
    assert_eq!(
        (&paused["all_valid"], &paused["missing_keys"]),
        (&json!(false), &json!([]))
    );
}

#[tokio::test]
async fn setup_says_where_to_get_a_key() {
    let folder = folder();
    let server = production(&folder);
    let path = "/api/onboarding/providers/copilotkit/setup";
    let (_, setup) = server.call("GET", path, Some(PERSON), None).await;
    assert_eq!(setup["env_var"], "COPILOTKIT_API_KEY");
    assert_eq!(
        (&setup["required"], &setup["browser_safe"]),
        (&json!(true), &json!(true))
    );
    let path = "/api/onboarding/providers/nobody/setup";
    assert_eq!(server.call("GET", path, Some(PERSON), None).await.0, 400);
}

#[tokio::test]
async fn the_front_end_file_takes_its_one_line_in_local_mode_and_is_not_there_in_production() {
    let folder = folder();
    let path = "/api/frontend-env/update";
    let body = |key: &str| Some(json!({"key": key, "value": "ck_pub_0123456789abcdef"}));
    let name = "REACT_APP_COPILOTKIT_API_KEY";
    let server = production(&folder);
    assert_eq!(
        server.call("POST", path, Some(PERSON), body(name)).await.0,
        404
    );
    std::fs::create_dir(folder.path().join("frontend")).unwrap();
    let server = start(&mut command(folder.path(), &["--port", "0", "--in-memory"]));
    for other in ["PATH", "REACT_APP_API_URL", "COPILOTKIT_API_KEY", ""] {
        assert_eq!(
            server.call("POST", path, None, body(other)).await.0,
            400,
            "{other}"
        );
    }
    let (status, answer) = server.call("POST", path, None, body(name)).await;
    assert_eq!(
        (status, &answer["env_files"]),
        (200, &json!(["frontend/.env"]))
    );
    let file = std::fs::read_to_string(folder.path().join("frontend/.env")).unwrap();
    assert_eq!(file, format!("{name}=ck_pub_0123456789abcdef\n"));
}

#[tokio::test]
async fn a_person_reads_their_own_trail_newest_first_page_by_page() {
    let folder = folder();
    let server = production(&folder);
    server.save(Some(PERSON), "gemini", KEY).await;
    server.save(Some(OTHER), "gemini", KEY).await;
    let prompt = Some(json!({"prompt": "Hello"}));
    server
        .call("POST", "/api/generate", Some(PERSON), prompt)
        .await;
    let path = format!("{KEYS}/gemini");
    let pause = Some(json!({"enabled": false}));
    server.call("PATCH", &path, Some(PERSON), pause).await;
    server.call("DELETE", &path, Some(PERSON), None).await;
    let mut actions = Vec::new();
    let mut cursor = String::new();
    for _ in 0..4 {
        let path = format!("{KEYS}/audit?limit=1{cursor}");
        let (status, page) = server.call("GET", &path, Some(PERSON), None).await;
        assert_eq!(
            (status, page["records"].as_array().unwrap().len()),
            (200, 1)
        );
        let record = &page["records"][0];
        assert_eq!(
            (&record["provider"], &record["outcome"]),
            (&json!("gemini"), &json!("ok"))
        );
        assert!(!record["request_id"].as_str().unwrap().is_empty());
        actions.push((record["action"].clone(), record["function"].clone()));
        cursor = format!(
            "&cursor={}",
            page["next_cursor"].as_str().unwrap_or_default()
        );
    }
    let expected = [
        ("delete", "save-keys"),
        ("change", "save-keys"),
        ("open", "generate-content"),
        ("save", "save-keys"),
    ];
    assert_eq!(actions, expected.map(|(a, f)| (json!(a), json!(f))));
    assert_eq!(cursor, "&cursor=", "the last page has no next");
    for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "cursor="] {
        let path = format!("{KEYS}/audit?{query}");
        assert_eq!(
            server.call("GET", &path, Some(PERSON), None).await.0,
            400,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hundred_calls_at_once_exactly_the_limit_passes() {
    let folder = folder();
    let args = ["--port", "0", "--in-memory", "--production", "--stand-in"];
    // A day cannot turn between two calls as a minute can; the day's limit is the one that binds.
    let mut command = command(folder.path(), &args);
    command
        .env("RATE_LIMIT_GENERATE_PER_DAY", "50")
        .env("RATE_LIMIT_GENERATE_PER_MINUTE", "1000")
        .env("CHECK_ON_SAVE", "live");
    let server = start(clerk(&mut command));
    server.save(Some(PERSON), "gemini", KEY).await;
    let http = Client::new();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let request = http.post(format!("{}/api/generate", server.url));
        let request = request.bearer_auth(local::token::sign(PERSON).unwrap());
        let request = request.json(&json!({"prompt": "Hello"}));
        calls.spawn(async { request.send().await.unwrap() });
    }
    let mut passed = 0;
    for response in calls.join_all().await {
        match response.status().as_u16() {
            200 => passed += 1,
            429 => {
                let header = response.headers()["retry-after"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                assert_eq!(response.headers()["ratelimit-limit"], "50");
                let body: Value = response.json().await.unwrap();
                assert_eq!(body["code"], "rate_limited");
                assert_eq!(body["retry_after"].to_string(), header);
            }
            status => unreachable!("status {status}"),
        }
    }
    assert_eq!(passed, 50);
    // Rows are read beside the count; what is over the limit opens nothing.
    let mut opens = 0;
    let mut cursor = String::new();
    loop {
        let path = format!("{KEYS}/audit?limit=100{cursor}");
        let (_, page) = server.call("GET", &path, Some(PERSON), None).await;
        let records = page["records"].as_array().unwrap();
        opens += records.iter().filter(|r| r["action"] == "open").count();
        let Some(next) = page["next_cursor"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(opens, 50);
    let (status, _) = server.call("GET", KEYS, Some(PERSON), None).await;
    assert_eq!(status, 200, "another class is not touched");
    server.save(Some(OTHER), "gemini", KEY).await;
    let prompt = Some(json!({"prompt": "Hello"}));
    let (status, _) = server
        .call("POST", "/api/generate", Some(OTHER), prompt)
        .await;
    assert_eq!(status, 200, "nor is another person");
}

#[tokio::test]
async fn every_answer_says_what_is_left() {
    let folder = folder();
    let server = production(&folder);
    let request = Client::new().get(format!("{}{KEYS}", server.url));
    let request = request.bearer_auth(local::token::sign(PERSON).unwrap());
    let response = request.send().await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(
        (header("ratelimit-limit"), header("ratelimit-remaining")),
        ("300".to_owned(), "299".to_owned())
    );
    assert!((1..=60).contains(&header("ratelimit-reset").parse::<u32>().unwrap()));
}
