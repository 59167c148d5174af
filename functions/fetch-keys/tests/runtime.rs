//! The real binary behind Lambda's Runtime API, as Lambda runs it, with embedded DynamoDB and KMS.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use aws_sdk_dynamodb::{primitives::Blob, types::AttributeValue};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Response, StatusCode},
    routing::{get, post},
};
use embedded::Embedded;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::SecretString;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    net::TcpListener,
    process::{Child, Command},
    sync::{Mutex, mpsc},
};
use user_api_keys::{
    api_key::ApiKey,
    auth::Auth,
    config::Config,
    key_table::{KeyWriter, NewKey, Status},
    provider::Provider,
    sealing::{Binding, Sealer},
};

const PERSON: &str = "user_aaaaaaaa1";
const PUBLIC_KEY: &str = "ck_pub_0123456789abcdef";
const TRACE: &str = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
const REQUEST: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";

/// Lambda's Runtime API (version 2018-06-01): hands out events and takes answers.
#[derive(Clone)]
struct RuntimeApi {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<Value>,
}

async fn next(State(api): State<RuntimeApi>) -> Response<String> {
    let event = api.events.lock().await.recv().await;
    // No more events: the runtime waits, as it does on Lambda.
    let Some(event) = event else {
        return std::future::pending().await;
    };
    Response::builder()
        .header("lambda-runtime-aws-request-id", REQUEST)
        .header("lambda-runtime-trace-id", TRACE)
        .header("lambda-runtime-deadline-ms", "4102444800000")
        .header(
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:us-east-1:000000000000:function:fetch-keys",
        )
        .body(event.to_string())
        .unwrap()
}

async fn answered(State(api): State<RuntimeApi>, body: String) -> StatusCode {
    api.answers
        .send(serde_json::from_str(&body).unwrap())
        .await
        .unwrap();
    StatusCode::ACCEPTED
}

/// A running function and what it needs.
struct Lambda {
    services: Embedded,
    config: Config,
    events: mpsc::Sender<Value>,
    answers: mpsc::Receiver<Value>,
    function: Child,
}

fn settings(services: &Embedded) -> Vec<(&'static str, String)> {
    [
        ("DEPLOY_ENV", "test".to_owned()),
        ("TABLE_NAME", services.table_name.clone()),
        ("KMS_KEY_ARN", services.kms_key_arn.clone()),
        (
            "CLERK_JWT_KEY",
            include_str!("../../../shared/tests/keys/clerk-test.pub.pem").to_owned(),
        ),
        ("CLERK_ISSUER", "https://clerk.test".to_owned()),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.test".to_owned()),
        ("ALLOWED_ORIGINS", "https://app.test".to_owned()),
        (
            "AWS_ENDPOINT_URL_DYNAMODB",
            format!("http://{}", services.dynamodb_address),
        ),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", "fetch-keys".to_owned()),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
    ]
    .into()
}

impl Lambda {
    /// `kms` stands in the KMS's place, where it is given.
    async fn start(log: &Path, kms: Option<SocketAddr>) -> Self {
        let services = Embedded::in_memory().await.unwrap();
        let (events, receiver) = mpsc::channel(1);
        let (sender, answers) = mpsc::channel(1);
        let api = RuntimeApi {
            events: Arc::new(Mutex::new(receiver)),
            answers: sender,
        };
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(
                "/2018-06-01/runtime/invocation/{id}/response",
                post(answered),
            )
            .with_state(api);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        let settings = settings(&services);
        let function = Command::new(env!("CARGO_BIN_EXE_fetch-keys"))
            .env_clear()
            .envs(settings.iter().cloned())
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .env(
                "AWS_ENDPOINT_URL_KMS",
                format!("http://{}", kms.unwrap_or(services.kms_address)),
            )
            .stdout(Stdio::null())
            .stderr(fs::File::create(log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lookup = |name: &str| {
            let found = settings.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| value.clone())
        };
        Self {
            config: Config::from_lookup(lookup).unwrap(),
            services,
            events,
            answers,
            function,
        }
    }

    /// Saves PERSON's CopilotKit key, as save-keys would.
    async fn save(&self) {
        let auth = Auth::new(self.config.mode, self.config.clerk.as_ref()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", bearer().parse().unwrap());
        let now = OffsetDateTime::now_utc();
        let user = auth.user(&headers, now).await.unwrap();
        let key = ApiKey::parse(SecretString::from(PUBLIC_KEY)).ok().unwrap();
        let binding = Binding {
            user: user.id(),
            provider: Provider::CopilotKit,
            kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        };
        let sealer = Sealer::new(self.services.kms.clone(), &self.config);
        let new = NewKey {
            provider: Provider::CopilotKit,
            kid: binding.kid,
            sealed: sealer.seal(&key, &binding).await.unwrap(),
            hint: &key.hint(),
            description: None,
            expires_at: None,
            status: Status::Unverified,
            replaces: None,
        };
        let table = self.services.table_name.clone();
        let writer = KeyWriter::new(self.services.dynamodb.clone(), table);
        writer.save(&user, new, now).await.unwrap();
    }

    /// Puts other bytes where the ciphertext is.
    async fn spoil(&self) {
        let bytes = AttributeValue::B(Blob::new(*b"not a ciphertext of this key"));
        self.services
            .dynamodb
            .update_item()
            .table_name(&self.services.table_name)
            .key("pk", AttributeValue::S(format!("USER#{PERSON}")))
            .key("sk", AttributeValue::S("KEY#copilotkit".to_owned()))
            .update_expression("SET ct = :ct")
            .expression_attribute_values(":ct", bytes)
            .send()
            .await
            .unwrap();
    }

    /// One request through API Gateway's event, and the status and body of its answer.
    async fn get(&mut self, path: &str, authorization: &str) -> (u64, Value) {
        let event = json!({
            "resource": path, "path": path, "httpMethod": "GET",
            "headers": {"authorization": authorization, "origin": "https://app.test"},
            "multiValueHeaders": {}, "queryStringParameters": null,
            "multiValueQueryStringParameters": null, "pathParameters": null, "stageVariables": null,
            "requestContext": {"accountId": "000000000000", "resourceId": "x", "stage": "prod",
                "requestId": "r", "identity": {}, "resourcePath": path, "httpMethod": "GET", "apiId": "x"},
            "body": null, "isBase64Encoded": false,
        });
        self.events.send(event).await.unwrap();
        let answer = self.answers.recv().await.unwrap();
        let headers = &answer["multiValueHeaders"];
        assert_eq!(headers["cache-control"][0], "no-store");
        assert_eq!(
            headers["access-control-allow-origin"][0],
            "https://app.test"
        );
        let body = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        (answer["statusCode"].as_u64().unwrap(), body)
    }
}

fn bearer() -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({"sub": PERSON, "iss": "https://clerk.test", "azp": "https://app.test",
        "sid": "sess_test", "iat": now, "nbf": now, "exp": now + 60});
    let key = include_bytes!("../../../shared/tests/keys/clerk-test.pem");
    let key = EncodingKey::from_rsa_pem(key).unwrap();
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
    format!("Bearer {token}")
}

fn log_file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("fetch-keys-{name}-{}.log", std::process::id()))
}

/// All that was logged, as it is and line by line.
fn said(log: &Path) -> (String, Vec<Value>) {
    let text = fs::read_to_string(log).unwrap();
    fs::remove_file(log).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines = lines.collect();
    (text, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_throttled_attempt_is_counted_and_the_answer_is_503() {
    let throttling = || async {
        let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
        (
            StatusCode::BAD_REQUEST,
            [("content-type", "application/x-amz-json-1.1")],
            body,
        )
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kms = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(throttling)).await });
    let log = log_file("throttled");
    let mut lambda = Lambda::start(&log, Some(kms)).await;
    lambda.save().await;
    let path = "/api/onboarding/api-keys/onboarding";
    let (status, answer) = lambda.get(path, &bearer()).await;
    assert_eq!(
        (status, &answer["code"]),
        (503, &json!("temporarily_unavailable"))
    );
    assert_eq!(answer["retry_after"], 2);
    lambda.function.kill().await.unwrap();
    let (_, lines) = said(&log);
    let attempts = lines.iter().find_map(|line| line["kms"].as_u64());
    let throttles = lines
        .iter()
        .find(|line| !line["throttles"].is_null())
        .unwrap();
    assert_eq!((attempts, &throttles["throttles"]), (Some(3), &json!(3)));
    assert_eq!(throttles["service"], "kms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lambda_answers_logs_its_invocation_and_trace_and_raises_the_alarm_of_a_spoiled_key() {
    let log = log_file("alarm");
    let mut lambda = Lambda::start(&log, None).await;
    lambda.save().await;
    let (status, list) = lambda.get("/api/onboarding/api-keys", &bearer()).await;
    assert_eq!(
        (status, &list["configured_providers"]),
        (200, &json!(["copilotkit"]))
    );
    let path = "/api/onboarding/api-keys/onboarding";
    let (status, shown) = lambda.get(path, &bearer()).await;
    assert_eq!(
        (status, &shown["api_keys"]["copilotkit"]),
        (200, &json!(PUBLIC_KEY))
    );
    let (status, refused) = lambda.get(path, "Bearer x").await;
    assert_eq!((status, &refused["code"]), (401, &json!("unauthorized")));
    lambda.spoil().await;
    let (status, broken) = lambda.get(path, &bearer()).await;
    assert_eq!((status, &broken["code"]), (500, &json!("internal")));
    assert!(
        !broken.to_string().contains("ciphertext"),
        "the caller learns nothing of why"
    );
    lambda.function.kill().await.unwrap();

    let (text, lines) = said(&log);
    let requests: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "request")
        .collect();
    assert_eq!(requests.len(), 4);
    for line in &requests {
        assert_eq!(
            (&line["request_id"], &line["trace_id"]),
            (&json!(REQUEST), &json!(TRACE))
        );
    }
    // Count, Query, GetItem, record, day · Decrypt; later a second record when it did not open.
    let calls = |n: usize| (requests[n]["dynamodb"].clone(), requests[n]["kms"].clone());
    assert_eq!(calls(1), (json!(5), json!(1)));
    assert_eq!(calls(3), (json!(5), json!(1)));
    assert_eq!(requests[3]["event"], "ciphertext_does_not_open");
    let alarms = lines.iter().filter(|line| line["sealing_failures"] == 1);
    let kinds: Vec<_> = alarms.map(|line| line["kind"].clone()).collect();
    assert_eq!(kinds, ["ciphertext_does_not_open"]);
    assert!(!text.contains(PUBLIC_KEY) && !text.contains(PERSON) && !text.contains("arn:aws"));
}
