//! `demo`: a walk through both modes that checks itself, in memory and on free ports.

use std::{collections::BTreeMap, fs, io::Write, net::SocketAddr, sync::Arc, time::Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use embedded::{Embedded, StartError};
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, task::JoinSet};
use user_api_keys::{
    aws::Aws,
    config::{Config, ConfigError},
    endpoint::SetupError,
};

use crate::{app::App, stand_in::StandIn, token};

const CALLS: usize = 200;
const CONCURRENCY: usize = 16;
const DEVELOPER_KEY: &str = "AQ.demo-developer-0000";
const PEOPLE: [Person; 2] = [
    Person {
        name: "A",
        id: "user_demoAAAA1111",
        keys: [
            ("gemini", "AQ.demo-gemini-of-a-1111"),
            ("exa", "demo-exa-of-person-a-2222"),
            ("copilotkit", "ck_pub_demo-of-person-a-3333"),
        ],
    },
    Person {
        name: "B",
        id: "user_demoBBBB2222",
        keys: [
            ("gemini", "AQ.demo-gemini-of-b-4444"),
            ("exa", "demo-exa-of-person-b-5555"),
            ("copilotkit", "ck_pub_demo-of-person-b-6666"),
        ],
    },
];

struct Person {
    name: &'static str,
    id: &'static str,
    keys: [(&'static str, &'static str); 3],
}

/// Why the demo failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A promise that did not hold.
    #[error("{0}")]
    Broken(String),
    /// Embedded services.
    #[error(transparent)]
    Embedded(#[from] StartError),
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The functions.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Loopback HTTP.
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    /// Files, ports, the terminal.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A token that was not signed.
    #[error(transparent)]
    Token(#[from] jsonwebtoken::errors::Error),
}

fn check(holds: bool, promise: &str) -> Result<(), DemoError> {
    match holds {
        true => Ok(()),
        false => Err(DemoError::Broken(format!("does not hold: {promise}"))),
    }
}

fn say(line: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{line}")
}

/// Runs the walk.
///
/// # Errors
/// The first promise that does not hold.
pub async fn run() -> Result<(), DemoError> {
    let started = Instant::now();
    local_mode().await?;
    let production = Stage::production().await?;
    two_people(&production).await?;
    streamed_and_researched(&production).await?;
    raw_table(&production).await?;
    moved_ciphertext(&production).await?;
    say(&format!(
        "all of it holds ({:.1} s)",
        started.elapsed().as_secs_f32()
    ))?;
    Ok(())
}

/// A running server, its services and the provider it talks to.
struct Stage {
    services: Embedded,
    gemini: StandIn,
    address: SocketAddr,
    http: Client,
}

impl Stage {
    async fn new(settings: &[(&str, &str)]) -> Result<Self, DemoError> {
        let services = Embedded::in_memory().await?;
        let gemini = StandIn::start().await?;
        let base_url = gemini.base_url();
        let own = [
            ("TABLE_NAME", services.table_name.as_str()),
            ("KMS_KEY_ARN", &services.kms_key_arn),
        ];
        // Not the process environment: the developer's real keys stay out of a demo.
        let config = Config::from_lookup(|name| {
            let mut all = own.iter().chain(settings);
            let found = all.find(|(n, _)| *n == name);
            let redirected = name.ends_with("_BASE_URL").then_some(base_url.as_str());
            found
                .map(|(_, value)| *value)
                .or(redirected)
                .map(str::to_owned)
        })?;
        let aws = Aws::new(&services.dynamodb, &services.kms);
        let address = Arc::new(App::new(&config, &aws)?).spawn().await?;
        Ok(Self {
            services,
            gemini,
            address,
            http: Client::new(),
        })
    }

    async fn production() -> Result<Self, DemoError> {
        Self::new(&[
            ("DEPLOY_ENV", "demo"),
            ("RATE_LIMIT_GENERATE_PER_MINUTE", "1000"),
            ("CLERK_JWT_KEY", token::PUBLIC_KEY),
            ("CLERK_ISSUER", token::ISSUER),
            ("CLERK_AUTHORIZED_PARTIES", token::PARTY),
        ])
        .await
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        user_id: Option<&str>,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value), DemoError> {
        let url = format!("http://{}{path}", self.address);
        let mut request = self.http.request(method, url);
        if let Some(user_id) = user_id {
            request = request.bearer_auth(token::sign(user_id)?);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        Ok((response.status(), response.json().await?))
    }

    async fn save(
        &self,
        user_id: Option<&str>,
        provider: &str,
        key: &str,
    ) -> Result<Value, DemoError> {
        let body = json!({"provider": provider, "api_key": key});
        let path = "/api/onboarding/api-keys";
        let (status, answer) = self.call(Method::POST, path, user_id, Some(body)).await?;
        check(status == StatusCode::OK, "a key is saved")?;
        Ok(answer)
    }

    async fn generate(
        &self,
        user_id: Option<&str>,
        prompt: &str,
    ) -> Result<(StatusCode, Value), DemoError> {
        let body = json!({"prompt": prompt});
        self.call(Method::POST, "/api/generate", user_id, Some(body))
            .await
    }

    async fn rows(&self) -> Result<Vec<BTreeMap<String, AttributeValue>>, DemoError> {
        let scan = self
            .services
            .dynamodb
            .scan()
            .table_name(&self.services.table_name);
        let items = scan
            .send()
            .await
            .map_err(|error| DemoError::Broken(error.to_string()))?;
        Ok(items
            .items
            .unwrap_or_default()
            .into_iter()
            .map(|item| item.into_iter().collect())
            .collect())
    }
}

async fn local_mode() -> Result<(), DemoError> {
    let folder = tempfile::tempdir()?;
    let backend = folder.path().join("backend/.env");
    let frontend = folder.path().join("frontend/.env");
    let stage = Stage::new(&[
        ("BACKEND_ENV_FILE", &backend.to_string_lossy()),
        ("FRONTEND_ENV_FILE", &frontend.to_string_lossy()),
    ])
    .await?;
    stage.save(None, "gemini", DEVELOPER_KEY).await?;
    let line = format!("GEMINI_API_KEY={DEVELOPER_KEY}\n");
    check(
        fs::read_to_string(&backend)? == line,
        "the key is in backend/.env",
    )?;
    let rows = stage.rows().await?;
    check(sealed(&rows) == 1, "the key is sealed in the table")?;
    check(
        !holds_key(&rows, DEVELOPER_KEY),
        "the table holds no key in clear",
    )?;
    let (status, answer) = stage.generate(None, "Hello").await?;
    check(
        status == StatusCode::OK && answer["content"] == "You said: Hello",
        "text is generated",
    )?;
    let seen = stage.gemini.seen();
    check(
        seen.len() == 1 && seen[0].key == DEVELOPER_KEY,
        "the developer's key pays",
    )?;
    say(
        "1 Local mode: a key was saved, is in .env and sealed in the table, and paid for a generation",
    )?;
    Ok(())
}

async fn two_people(stage: &Stage) -> Result<(), DemoError> {
    for person in &PEOPLE {
        for (provider, key) in person.keys {
            stage.save(Some(person.id), provider, key).await?;
        }
        let path = "/api/onboarding/api-keys/onboarding";
        let (_, answer) = stage.call(Method::GET, path, Some(person.id), None).await?;
        let shown = json!({"copilotkit": person.keys[2].1});
        check(
            answer["api_keys"] == shown,
            "only the public key comes back in clear, and it is one's own",
        )?;
    }
    let answers = interleaved(stage).await?;
    let seen = stage.gemini.seen();
    check(
        answers == CALLS && seen.len() == CALLS,
        "every generation is one call",
    )?;
    say(&format!(
        "2 Production mode: {CALLS} interleaved generations, {CONCURRENCY} at a time"
    ))?;
    say("  who  key saved  key the provider saw  calls  verdict")?;
    let mut mixed = false;
    for person in &PEOPLE {
        let saved = person.keys[0].1;
        let of_person = |prompt: &str| prompt.starts_with(&format!("{}-", person.name));
        let mut by_key = BTreeMap::<&str, usize>::new();
        for call in seen.iter().filter(|call| of_person(&call.prompt)) {
            *by_key.entry(&call.key).or_default() += 1;
        }
        for (key, calls) in by_key {
            let own = key == saved;
            mixed |= !own;
            let verdict = if own { "own key" } else { "ANOTHER'S KEY" };
            say(&format!(
                "  {:<4} …{:<9} …{:<19} {calls:>5}  {verdict}",
                person.name,
                hint(saved),
                hint(key)
            ))?;
        }
    }
    check(!mixed, "everybody pays with their own key")
}

/// Generations of both people in turn; counts the ones that answer with one's own prompt and hint.
async fn interleaved(stage: &Stage) -> Result<usize, DemoError> {
    let places = Arc::new(Semaphore::new(CONCURRENCY));
    let url = format!("http://{}/api/generate", stage.address);
    let mut tasks = JoinSet::new();
    for n in 0..CALLS {
        let person = &PEOPLE[n % PEOPLE.len()];
        let prompt = format!("{}-{n}", person.name);
        let (http, url, places) = (stage.http.clone(), url.clone(), Arc::clone(&places));
        tasks.spawn(async move {
            let _place = places.acquire().await.map_err(std::io::Error::other)?;
            let request = http.post(url).bearer_auth(token::sign(person.id)?);
            let response = request.json(&json!({"prompt": prompt})).send().await?;
            let answer: Value = response.json().await?;
            let own = answer["content"] == format!("You said: {prompt}")
                && answer["credential"]["hint"] == hint(person.keys[0].1);
            Ok::<_, DemoError>(own)
        });
    }
    let mut own = 0;
    for answer in tasks.join_all().await {
        own += usize::from(answer?);
    }
    Ok(own)
}

/// Both people at once: a text that comes word by word, with sources, and the receipt for both keys.
async fn streamed_and_researched(stage: &Stage) -> Result<(), DemoError> {
    say("3 Streamed, with research, both at once")?;
    let [a, b] = &PEOPLE;
    let (of_a, of_b) = tokio::join!(streamed(stage, a), streamed(stage, b));
    for (person, streamed) in [(a, of_a?), (b, of_b?)] {
        let Streamed {
            words,
            text,
            paid,
            researched,
            sources,
        } = streamed;
        check(
            text == format!("You said: {}-otters [1]", person.name),
            "everybody gets their own text, with its source cited",
        )?;
        check(words > 2, "it comes word by word")?;
        check(
            paid == hint(person.keys[0].1) && researched == hint(person.keys[1].1),
            "everybody pays with their own keys",
        )?;
        say(&format!(
            "  {:<4} {words} pieces, {sources} sources; paid by gemini …{paid} and exa …{researched}",
            person.name
        ))?;
    }
    Ok(())
}

#[derive(Default)]
struct Streamed {
    words: usize,
    text: String,
    paid: String,
    researched: String,
    sources: usize,
}

async fn streamed(stage: &Stage, person: &Person) -> Result<Streamed, DemoError> {
    let url = format!("http://{}/api/generate", stage.address);
    let prompt = format!("{}-otters", person.name);
    let body = json!({"prompt": prompt, "research": true, "stream": true});
    let request = stage.http.post(url).bearer_auth(token::sign(person.id)?);
    let answer = request.json(&body).send().await?.text().await?;
    let mut streamed = Streamed::default();
    for block in answer.split("\n\n") {
        let Some((name, data)) = block.split_once("\ndata: ") else {
            continue;
        };
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        let of = |credential: &str| data[credential]["hint"].as_str().unwrap_or("").to_owned();
        match name {
            "event: start" => {
                streamed.paid = of("credential");
                streamed.researched = of("research_credential");
            }
            "event: sources" => streamed.sources = data["sources"].as_array().map_or(0, Vec::len),
            "event: delta" => {
                streamed.words += 1;
                streamed.text.push_str(data["text"].as_str().unwrap_or(""));
            }
            _ => {}
        }
    }
    check(answer.contains("event: done"), "a stream comes to its end")?;
    Ok(streamed)
}

async fn raw_table(stage: &Stage) -> Result<(), DemoError> {
    let rows = stage.rows().await?;
    let keys = sealed(&rows);
    check(keys == 6, "two people have three sealed keys each")?;
    for (_, key) in PEOPLE.iter().flat_map(|person| person.keys) {
        check(!holds_key(&rows, key), "the table holds no key in clear")?;
    }
    let others = rows.len() - keys;
    check(others >= CALLS, "every use is on the record")?;
    say(&format!(
        "4 The raw table: {keys} sealed keys and {others} records and counts, no key in clear"
    ))?;
    Ok(())
}

async fn moved_ciphertext(stage: &Stage) -> Result<(), DemoError> {
    let [a, b] = &PEOPLE;
    let is_gemini_of_a = |row: &&BTreeMap<String, AttributeValue>| {
        let text = |name| {
            row.get(name)
                .and_then(|value: &AttributeValue| value.as_s().ok())
        };
        text("pk") == Some(&format!("USER#{}", a.id))
            && text("sk").is_some_and(|sk| sk == "KEY#gemini")
    };
    let rows = stage.rows().await?;
    let row = rows.iter().find(is_gemini_of_a);
    let mut row = row
        .ok_or_else(|| DemoError::Broken("A has no row".to_owned()))?
        .clone();
    row.insert("pk".to_owned(), AttributeValue::S(format!("USER#{}", b.id)));
    let table = &stage.services.table_name;
    let put = stage.services.dynamodb.put_item().table_name(table);
    put.set_item(Some(row.into_iter().collect()))
        .send()
        .await
        .map_err(|error| DemoError::Broken(error.to_string()))?;
    let calls = stage.gemini.seen().len();
    let (status, answer) = stage.generate(Some(b.id), "theft").await?;
    check(
        status == StatusCode::INTERNAL_SERVER_ERROR,
        "A's ciphertext does not open in B's row",
    )?;
    check(answer["code"] == "internal", "the failure tells nothing")?;
    check(
        stage.gemini.seen().len() == calls,
        "the provider is not called",
    )?;
    let (status, _) = stage.generate(Some(a.id), "still mine").await?;
    check(status == StatusCode::OK, "A's own row still opens")?;
    say("5 A's ciphertext, copied into B's row, refused to open; the provider was not called")?;
    Ok(())
}

/// How many rows hold a ciphertext.
fn sealed(rows: &[BTreeMap<String, AttributeValue>]) -> usize {
    rows.iter().filter(|row| row.contains_key("ct")).count()
}

fn hint(key: &str) -> &str {
    &key[key.len() - 4..]
}

fn holds_key(rows: &[BTreeMap<String, AttributeValue>], key: &str) -> bool {
    let bytes = |value: &AttributeValue| match value {
        AttributeValue::B(blob) => blob.as_ref().to_vec(),
        other => format!("{other:?}").into_bytes(),
    };
    let mut values = rows.iter().flat_map(|row| row.values());
    values.any(|value| {
        bytes(value)
            .windows(key.len())
            .any(|window| window == key.as_bytes())
    })
}
