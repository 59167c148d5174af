//! 50 people on 64 connections, everything at once, while services fail at random: every answer, every line
//! of the log and every call of a provider belongs to its person.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use local::token;
use reqwest::Client;
use serde_json::{Value, json};
use user_api_keys::telemetry::hashed_text;

use super::{CANARY, KEYS, Place, times};
use crate::harness::key_for;

const PEOPLE: usize = 50;
const CONNECTIONS: usize = 64;

fn person(n: usize) -> String {
    format!("user_crowd{n:04}")
}

/// Keys of the person, which end in their number.
fn key(n: usize, round: u64) -> String {
    format!("AQ.{CANARY}-p{n:04}-{round}-{n:04}")
}

/// What one person did, as the log says it: route, status.
type Done = BTreeMap<(String, u16), usize>;

struct Crowd {
    url: String,
    client: Client,
    done: Mutex<BTreeMap<usize, Done>>,
    wrong: Mutex<Vec<String>>,
    kids: Mutex<BTreeMap<String, usize>>,
}

impl Crowd {
    async fn call(
        &self,
        n: usize,
        method: &str,
        path: &str,
        route: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let mut request = self
            .client
            .request(method.parse().unwrap(), format!("{}{path}", self.url));
        request = request.bearer_auth(token::sign_for(&person(n), 600).unwrap());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        let mut done = self.done.lock().unwrap();
        *done
            .entry(n)
            .or_default()
            .entry((format!("{method} {route}"), status))
            .or_default() += 1;
        if status >= 400 && !matches!(status, 409 | 502 | 503) {
            self.wrong(format!("{method} {path} of {n}: {status} {text}"));
        }
        // Nobody's name and nobody's key but one's own.
        for other in (0..PEOPLE).filter(|other| *other != n) {
            if text.contains(&person(other))
                || text.contains(&format!("-p{other:04}-"))
                || text.contains(&format!("************{other:04}"))
            {
                self.wrong(format!("{method} {path} of {n} hears of {other}: {text}"));
            }
        }
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }

    /// A key id belongs to whom it was first said to.
    fn owns(&self, n: usize, kid: &Value) {
        if let Some(kid) = kid.as_str() {
            let owner = *self.kids.lock().unwrap().entry(kid.to_owned()).or_insert(n);
            if owner != n {
                self.wrong(format!("{kid} of {owner} is said to {n}"));
            }
        }
    }

    async fn act(&self, n: usize, random: &mut fastrand::Rng) {
        let provider = ["gemini", "copilotkit"][random.usize(..2)];
        match random.u32(..10) {
            0 | 1 => {
                let body = json!({"provider": provider, "api_key": key_for(provider, &key(n, random.u64(..1_000)))});
                let (_, saved) = self.call(n, "POST", KEYS, KEYS, Some(body)).await;
                self.owns(n, &saved["key"]["kid"]);
            }
            2 => {
                let path = format!("{KEYS}/{provider}");
                self.call(n, "DELETE", &path, &format!("{KEYS}/{{provider}}"), None)
                    .await;
            }
            3 | 4 => {
                let (_, list) = self.call(n, "GET", KEYS, KEYS, None).await;
                for one in list["keys"].as_array().into_iter().flatten() {
                    self.owns(n, &one["kid"]);
                }
            }
            5 => {
                let path = format!("{KEYS}/onboarding");
                let (status, shown) = self.call(n, "GET", &path, &path, None).await;
                if let Some(text) = shown["api_keys"]["copilotkit"].as_str()
                    && status == 200
                    && !text.ends_with(&format!("-{n:04}"))
                {
                    self.wrong(format!("{n} is shown {text}"));
                }
            }
            6 => {
                let path = format!("{KEYS}/audit");
                let (_, trail) = self.call(n, "GET", &path, &path, None).await;
                for record in trail["records"].as_array().into_iter().flatten() {
                    self.owns(n, &record["kid"]);
                }
            }
            _ => {
                let body = json!({"prompt": format!("by {n:04}")});
                let (status, answer) = self
                    .call(n, "POST", "/api/generate", "/api/generate", Some(body))
                    .await;
                self.owns(n, &answer["credential"]["kid"]);
                let says = format!("You said: by {n:04}");
                if status == 200
                    && (answer["content"] != says
                        || answer["credential"]["hint"] != format!("{n:04}"))
                {
                    self.wrong(format!("{n} is answered {answer}"));
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_crowd_in_a_storm_nobody_hears_spends_or_is_logged_as_another() {
    let place = Place::new("crowd");
    let log = fs::File::create(place.path().join("log")).unwrap();
    let example = Path::new(env!("CARGO_BIN_EXE_local"))
        .with_file_name("examples")
        .join("stormy");
    let mut stormy = Command::new(&example)
        .arg("30")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("cargo build -p local --examples made it");
    let mut out = BufReader::new(stormy.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let url = line
        .split_whitespace()
        .next()
        .unwrap()
        .trim_end_matches('/')
        .to_owned();
    let crowd = Arc::new(Crowd {
        url,
        client: Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap(),
        done: Mutex::default(),
        wrong: Mutex::default(),
        kids: Mutex::default(),
    });
    // So much is done, however long it takes.
    let acts = times(16, 400);
    let work = (0..CONNECTIONS).map(|connection| {
        let crowd = Arc::clone(&crowd);
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(connection as u64);
            for _ in 0..acts {
                let n = random.usize(..PEOPLE);
                crowd.act(n, &mut random).await;
            }
        })
    });
    for done in futures_util::future::join_all(work).await {
        done.unwrap();
    }
    drop(stormy.stdin.take());
    let mut seen = String::new();
    out.read_to_string(&mut seen).unwrap();
    stormy.wait().unwrap();

    let wrong = crowd.wrong.lock().unwrap();
    assert!(
        wrong.is_empty(),
        "{}:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
    // Each prompt came with a key of its person's.
    let (mut prompts, mut met) = (0, 0);
    for line in seen.lines() {
        match line.split_once('\t') {
            Some(("met", faults)) => met = faults.parse().unwrap(),
            Some((key, prompt)) if prompt.starts_with("by ") => {
                assert!(
                    key.ends_with(&format!("-{}", &prompt[3..])),
                    "{prompt} was paid by {key}"
                );
                prompts += 1;
            }
            _ => {}
        }
    }
    // The log has each request once, under its person's mark.
    let marks: BTreeMap<String, usize> = (0..PEOPLE)
        .map(|n| (hashed_text("crowd", &person(n)), n))
        .collect();
    let mut logged: BTreeMap<usize, Done> = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for line in fs::read_to_string(place.path().join("log"))
        .unwrap()
        .lines()
    {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["message"] != "request" {
            continue;
        }
        assert!(
            ids.insert(line["request_id"].as_str().unwrap().to_owned()),
            "{line}"
        );
        let n = marks[line["user"].as_str().unwrap()];
        let route = format!(
            "{} {}",
            line["method"].as_str().unwrap(),
            line["route"].as_str().unwrap()
        );
        let status = u16::try_from(line["status"].as_u64().unwrap()).unwrap();
        *logged
            .entry(n)
            .or_default()
            .entry((route, status))
            .or_default() += 1;
    }
    assert_eq!(logged, *crowd.done.lock().unwrap());
    let requests: usize = logged.values().flat_map(BTreeMap::values).sum();
    assert!(
        requests > 300 && prompts > 30 && met > 10,
        "{requests} requests, {prompts} prompts, {met} faults"
    );
    place.keep(
        "counts",
        &format!("{requests} requests, {prompts} prompts paid by their own, {met} faults met"),
    );
}
