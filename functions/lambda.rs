//! A function's real binary behind Lambda's Runtime API, as Lambda runs it, with embedded DynamoDB and
//! KMS; for the tests of each function.

use std::{fs, path::PathBuf, process::Stdio, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Response, StatusCode},
    routing::{get, post},
};
use embedded::{Embedded, Listening};
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
    key_table::{KeyWriter, NewKey},
    provider::Provider,
    sealing::{Binding, Sealer},
};

pub(crate) const PERSON: &str = "user_aaaaaaaa1";
pub(crate) const TRACE: &str =
    "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
pub(crate) const REQUEST: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";
const KEY: &str = include_str!("../shared/tests/keys/clerk-test.pem");
const PUBLIC_KEY: &str = include_str!("../shared/tests/keys/clerk-test.pub.pem");

/// Lambda's Runtime API (version 2018-06-01): hands out events and takes answers.
#[derive(Clone)]
struct RuntimeApi {
    events: Arc<Mutex<mpsc::Receiver<Value>>>,
    answers: mpsc::Sender<(HeaderMap, Bytes)>,
}

async fn next(State(api): State<RuntimeApi>) -> Response<String> {
    let event = api.events.lock().await.recv().await;
    // No more events: the runtime waits, as it does on Lambda.
    let Some(event) = event else {
        return std::future::pending().await;
    };
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:under-test";
    Response::builder()
        .header("lambda-runtime-aws-request-id", REQUEST)
        .header("lambda-runtime-trace-id", TRACE)
        .header("lambda-runtime-deadline-ms", "4102444800000")
        .header("lambda-runtime-invoked-function-arn", arn)
        .body(event.to_string())
        .unwrap()
}

async fn answered(State(api): State<RuntimeApi>, headers: HeaderMap, body: Bytes) -> StatusCode {
    api.answers.send((headers, body)).await.unwrap();
    StatusCode::ACCEPTED
}

/// A running function and what it needs.
pub(crate) struct Lambda {
    pub(crate) services: Embedded,
    config: Config,
    events: mpsc::Sender<Value>,
    answers: mpsc::Receiver<(HeaderMap, Bytes)>,
    function: Child,
    log: PathBuf,
}

fn settings(services: &Embedded, listening: &Listening) -> Vec<(&'static str, String)> {
    let ours = [
        ("DEPLOY_ENV", "test"),
        ("TABLE_NAME", &services.table_name),
        ("KMS_KEY_ARN", &services.kms_key_arn),
        ("CLERK_JWT_KEY", PUBLIC_KEY),
        ("CLERK_ISSUER", "https://clerk.test"),
        ("CLERK_AUTHORIZED_PARTIES", "https://app.test"),
        ("ALLOWED_ORIGINS", "https://app.test"),
        ("AWS_LAMBDA_FUNCTION_NAME", env!("CARGO_PKG_NAME")),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let services = listening.settings(listening.address);
    ours.into_iter().chain(services).collect()
}

impl Lambda {
    /// `more` is set besides, or in place of, what every function needs; `name` is the test's.
    pub(crate) async fn start(name: &str, more: &[(&str, &str)]) -> Self {
        let services = Embedded::in_memory().await.unwrap();
        let (events, receiver) = mpsc::channel(1);
        let (sender, answers) = mpsc::channel(1);
        let api = RuntimeApi {
            events: Arc::new(Mutex::new(receiver)),
            answers: sender,
        };
        let answer = "/2018-06-01/runtime/invocation/{id}/response";
        let failure = "/2018-06-01/runtime/invocation/{id}/error";
        let router = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route(answer, post(answered))
            .route(failure, post(answered))
            .with_state(api);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async { axum::serve(listener, router).await });
        let listening = services.listen_on_loopback().await.unwrap();
        let settings = settings(&services, &listening);
        let file = format!(
            "{}-{name}-{}.log",
            env!("CARGO_PKG_NAME"),
            std::process::id()
        );
        let log = std::env::temp_dir().join(file);
        let binary = env!(concat!("CARGO_BIN_EXE_", env!("CARGO_PKG_NAME")));
        let function = Command::new(binary)
            .env_clear()
            .envs(settings.iter().cloned())
            .env("AWS_LAMBDA_RUNTIME_API", address)
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
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
            log,
        }
    }

    /// Saves a key of PERSON's, as save-keys would.
    pub(crate) async fn save(&self, provider: Provider, key: &str) {
        let auth = Auth::new(self.config.mode, self.config.clerk.as_ref()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", bearer().parse().unwrap());
        let now = OffsetDateTime::now_utc();
        let user = auth.user(&headers, now).await.unwrap();
        let key = ApiKey::parse(SecretString::from(key)).ok().unwrap();
        let binding = Binding {
            user: user.id(),
            provider,
            kid: "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        };
        let sealer = Sealer::new(self.services.kms.clone(), &self.config);
        let hint = key.hint();
        let new = NewKey::unverified(
            provider,
            binding.kid,
            sealer.seal(&key, &binding).await.unwrap(),
            &hint,
        );
        let table = self.services.table_name.clone();
        let writer = KeyWriter::new(self.services.dynamodb.clone(), table);
        let before = writer.before(&user, provider).await.unwrap();
        writer.save(&user, before, &new, now).await.unwrap();
    }

    /// One request through API Gateway's event of `events/<name>.json`, from the test's front end, and
    /// what the runtime answers to it.
    pub(crate) async fn send(&mut self, name: &str, authorization: &str) -> (HeaderMap, Bytes) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../events");
        let event = fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
        let mut event: Value = serde_json::from_str(&event).unwrap();
        for (header, value) in [
            ("Authorization", authorization),
            ("Origin", "https://app.test"),
        ] {
            event["headers"][header] = json!(value);
            event["multiValueHeaders"][header] = json!([value]);
        }
        self.invoke(event).await
    }

    /// Any event, and the answer or the failure that the runtime reports.
    pub(crate) async fn invoke(&mut self, event: Value) -> (HeaderMap, Bytes) {
        self.events.send(event).await.unwrap();
        self.answers.recv().await.unwrap()
    }

    /// Ends it; all that was logged, as it is and line by line.
    pub(crate) async fn said(mut self) -> (String, Vec<Value>) {
        self.function.kill().await.unwrap();
        let text = fs::read_to_string(&self.log).unwrap();
        fs::remove_file(&self.log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let lines = lines.collect();
        (text, lines)
    }
}

pub(crate) fn bearer() -> String {
    let now = jsonwebtoken::get_current_timestamp();
    let claims = json!({"sub": PERSON, "iss": "https://clerk.test", "azp": "https://app.test",
        "sid": "sess_test", "iat": now, "nbf": now, "exp": now + 60});
    let key = EncodingKey::from_rsa_pem(KEY.as_bytes()).unwrap();
    let token = jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
    format!("Bearer {token}")
}
