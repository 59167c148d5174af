//! Who is calling comes from the token alone: every route, as the gateway's own events, with another
//! person's ids in every place an id could go.

use lambda_http::{Request, http::StatusCode, request};
use local::{
    app::{Function, routes},
    token,
};
use serde_json::{Value, json};
use user_api_keys::{endpoint::Route, events::buffered};

use crate::harness::{InProcess, PERSON, key_for};

const OTHER: &str = "user_bbbbbbbb2";
const KEY_OF_OTHER: &str = "AQ.key-of-person-b-7777";

/// What a call with nothing wrong about it sends there.
fn body(route: &Route<Function>) -> Value {
    match (route.method.as_str(), route.path) {
        ("POST", "/api/onboarding/api-keys") => {
            json!({"provider": "gemini", "api_key": "AQ.key-of-person-a-1111"})
        }
        ("PATCH", _) => json!({"description": "mine"}),
        ("POST", "/api/generate") => json!({"prompt": "Hello"}),
        ("POST", "/api/onboarding/step/{n}/complete") => json!({"data": {"seen": true}}),
        _ => Value::Null,
    }
}

/// `segment` in the path's `{name}`.
fn path(route: &Route<Function>, segment: &str) -> String {
    match route.path.split_once('{') {
        Some((before, rest)) => {
            let (_, after) = rest.split_once('}').unwrap();
            format!("{before}{segment}{after}")
        }
        None => route.path.to_owned(),
    }
}

/// A REST API's event, with `id` wherever the gateway, a client or a proxy could put one.
fn event(
    route: &Route<Function>,
    path: &str,
    body: &Value,
    authorization: Option<&str>,
    id: &str,
) -> Request {
    let claims = json!({"sub": id, "user_id": id, "cognito:username": id});
    let mut headers = json!({
        "host": "api.test", "content-type": "application/json", "origin": "https://app.test",
        "cookie": format!("__session={id}; __client_uat=1; user_id={id}"),
        "x-user-id": id, "x-clerk-user-id": id, "x-forwarded-user": id, "x-amzn-oidc-identity": id,
        "x-amzn-oidc-data": id, "x-original-user": id, "x-api-key": id, "from": id,
    });
    if let Some(authorization) = authorization {
        headers["authorization"] = json!(authorization);
    }
    let query = json!({
        "user_id": id, "userId": id, "sub": id, "token": id, "access_token": id, "__session": id,
        "authorization": id, "clerk_user_id": id,
    });
    let event = json!({
        "resource": route.path, "path": path, "httpMethod": route.method.as_str(),
        "headers": headers, "multiValueHeaders": {}, "queryStringParameters": query,
        "multiValueQueryStringParameters": {}, "pathParameters": {"user_id": id, "proxy": id},
        "stageVariables": {"user_id": id},
        "requestContext": {
            "accountId": "000000000000", "resourceId": "x", "stage": "prod", "requestId": "r",
            "identity": {"user": id, "caller": id, "userArn": id, "cognitoIdentityId": id, "sourceIp": "127.0.0.1"},
            "authorizer": {"principalId": id, "claims": claims, "jwt": {"claims": claims}, "user_id": id, "sub": id},
            "resourcePath": route.path, "httpMethod": route.method.as_str(), "apiId": "x",
        },
        "body": if body.is_null() { Value::Null } else { json!(body.to_string()) },
        "isBase64Encoded": false,
    });
    request::from_str(&event.to_string()).unwrap()
}

async fn stage() -> InProcess {
    let stage = InProcess::production().await;
    for (user, key) in [(OTHER, KEY_OF_OTHER), (PERSON, "AQ.key-of-person-a-1111")] {
        for provider in ["gemini", "exa", "copilotkit"] {
            let save = routes().into_iter().find(|route| {
                (route.method.as_str(), route.path) == ("POST", "/api/onboarding/api-keys")
            });
            let save = save.unwrap();
            let body = json!({"provider": provider, "api_key": key_for(provider, key)});
            let bearer = format!("Bearer {}", token::sign(user).unwrap());
            let request = event(&save, save.path, &body, Some(&bearer), "-");
            let answer = buffered(stage.app.answer(request).await).await;
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    stage
}

#[tokio::test]
async fn on_every_route_another_persons_id_in_every_place_changes_and_shows_nothing_of_theirs() {
    let stage = stage().await;
    let before = stage.rows(OTHER).await;
    assert!(before.len() > 6, "keys, checks and counts");
    let token_of_other = token::sign_for(OTHER, 3_600).unwrap();
    let bearer_of_other = format!("Bearer {token_of_other}");
    let bearer = format!("Bearer {}", token::sign_for(PERSON, 3_600).unwrap());
    let mut ok = 0;
    for route in routes() {
        let segment = match route.path.contains("{n}") {
            true => "1",
            false => "gemini",
        };
        for id in [
            OTHER,
            &format!("USER#{OTHER}"),
            &token_of_other,
            &bearer_of_other,
        ] {
            let mut bodies = vec![body(&route)];
            for name in ["user_id", "userId", "sub", "user", "token", "pk", "owner"] {
                let mut body = body(&route);
                if body.is_null() {
                    body = json!({});
                }
                body[name] = json!(id);
                bodies.push(body);
            }
            if route.path.ends_with("complete") {
                bodies.push(json!({"data": {"user_id": id, "sub": id}}));
            }
            for body in bodies {
                for segment in [segment, id, &format!("..%2F{id}"), "../gemini"] {
                    let path = path(&route, segment);
                    let request = event(&route, &path, &body, Some(&bearer), id);
                    let answer = buffered(stage.app.answer(request).await).await;
                    let what = format!("{} {path} {body}", route.method);
                    let text = String::from_utf8_lossy(answer.body().as_ref()).into_owned();
                    assert!(!answer.status().is_server_error(), "{what}: {text}");
                    // The digits alone may stand in a time or an id.
                    for shown in [KEY_OF_OTHER, "\"7777\"", "*7777"] {
                        assert!(!text.contains(shown), "{what}: {text}");
                    }
                    // What a person keeps in a step is theirs, whatever it says.
                    let kept = route.path.contains("step/{n}")
                        || route.path.ends_with("init")
                        || route.path.ends_with("progress");
                    assert!(kept || !text.contains(OTHER), "{what}: {text}");
                    ok += usize::from(answer.status().is_success());
                    // Without a token of their own nobody gets in, whatever the event says.
                    let request = event(&route, &path, &body, None, id);
                    let answer = buffered(stage.app.answer(request).await).await;
                    let refused = [401, 404, 405].contains(&answer.status().as_u16());
                    assert!(refused, "{what}: {}", answer.status());
                }
            }
        }
    }
    assert!(ok > 100, "{ok} calls went through");
    let after = stage.rows(OTHER).await;
    assert!(after == before, "something of theirs has changed");
    let list = routes()
        .into_iter()
        .find(|route| route.path == "/api/onboarding/api-keys/audit");
    let list = list.unwrap();
    // Theirs of before may be over by now.
    let fresh = format!("Bearer {}", token::sign(OTHER).unwrap());
    let request = event(&list, list.path, &Value::Null, Some(&fresh), PERSON);
    let answer = buffered(stage.app.answer(request).await).await;
    let text = String::from_utf8_lossy(answer.body().as_ref()).into_owned();
    assert_eq!(
        text.matches("\"action\":\"save\"").count(),
        3,
        "their own trail: {text}"
    );
    assert_eq!(
        text.matches("\"action\":\"open\"").count(),
        0,
        "nobody used their keys"
    );
}
