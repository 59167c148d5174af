//! Many streams at once for a while, and what they leave behind. `scripts/streams` runs it.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use embedded::Embedded;
use local::{app::App, stack::embedded_setting, stand_in::StandIn, token};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use user_api_keys::{aws::Aws, config::Config};

type Failed = Box<dyn std::error::Error + Send + Sync>;

const PEOPLE: usize = 100;

/// Idle connections to providers are kept for half a minute, and looked through twice a minute.
const IDLE: Duration = Duration::from_secs(65);

/// Resident memory of this process in MiB.
fn memory_mib() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0) / 1_024
}

/// Open connections of each server of this process, by its port; the SDK keeps its own for as long as
/// it lives.
fn connections(servers: &[(&str, SocketAddr)]) -> Value {
    let table = fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let open = |address: &SocketAddr| {
        let port = format!(":{:04X}", address.port());
        let lines = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let open = |line: &Vec<&str>| line.len() > 3 && line[1].ends_with(&port) && line[3] == "01";
        lines.filter(open).count()
    };
    let counted = servers
        .iter()
        .map(|(name, address)| ((*name).to_owned(), open(address).into()));
    Value::Object(counted.collect())
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut sizes = std::env::args().skip(1).map(|text| text.parse());
    let streams: usize = sizes.next().unwrap_or(Ok(500))?;
    let seconds: u64 = sizes.next().unwrap_or(Ok(20))? as u64;
    let services = Embedded::in_memory().await?;
    let stand_in = StandIn::start().await?;
    let base_url = stand_in.base_url();
    let config = Config::from_lookup(|name| {
        let value = match name {
            "DEPLOY_ENV" => "streams",
            "CHECK_ON_SAVE" => "format",
            name if name.starts_with("RATE_LIMIT") => "100000000",
            name => return embedded_setting(name, &services, &base_url),
        };
        Some(value.to_owned())
    })?;
    let aws = Aws::new(&services.dynamodb, &services.kms);
    let address = Arc::new(App::new(&config, &aws)?).spawn().await?;
    let url = format!("http://{address}");
    let http = Client::new();
    for n in 0..PEOPLE {
        let body =
            json!({"provider": "gemini", "api_key": format!("key-of-person-number-{}", 1_000 + n)});
        let request = http.post(format!("{url}/api/onboarding/api-keys"));
        let request = request.bearer_auth(token::sign(&format!("user_streams{}", 10 + n))?);
        request.json(&body).send().await?.error_for_status()?;
    }
    let servers = [("ours", address), ("provider", stand_in.address)];
    let before = memory_mib();
    let ends = Instant::now() + Duration::from_secs(seconds);
    let (words, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut running = JoinSet::new();
    for n in 0..streams {
        let (http, url, words, done) = (
            http.clone(),
            format!("{url}/api/generate"),
            Arc::clone(&words),
            Arc::clone(&done),
        );
        running.spawn(async move {
            let person = format!("user_streams{}", 10 + n % PEOPLE);
            for turn in 0.. {
                if Instant::now() >= ends {
                    break;
                }
                let prompt = format!(
                    "stream {n} turn {turn} of {person} {}",
                    "and more ".repeat(20)
                );
                let body = json!({"prompt": prompt, "stream": true});
                let request = http
                    .post(&url)
                    .bearer_auth(token::sign(&person)?)
                    .json(&body);
                let text = request.send().await?.text().await?;
                let (mut said, mut hint) = (String::new(), Value::Null);
                for block in text.split("\n\n") {
                    let Some((name, data)) = block.split_once("\ndata: ") else {
                        continue;
                    };
                    let data: Value = serde_json::from_str(data)?;
                    match name {
                        "event: start" => hint = data["credential"]["hint"].clone(),
                        "event: delta" => {
                            words.fetch_add(1, Ordering::Relaxed);
                            said.push_str(data["text"].as_str().unwrap_or_default());
                        }
                        _ => {}
                    }
                }
                let own = said == format!("You said: {prompt}")
                    && hint == (1_000 + n % PEOPLE).to_string().as_str()
                    && text.contains("event: done");
                if !own {
                    return Err(Failed::from(format!(
                        "another's words, or cut: {person}: {text}"
                    )));
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Failed>(())
        });
    }
    let mut during = Vec::new();
    while Instant::now() < ends {
        sleep(Duration::from_secs(2)).await;
        during.push(memory_mib());
    }
    while let Some(one) = running.join_next().await {
        one??;
    }
    drop(http);
    let ended = connections(&servers);
    sleep(IDLE).await;
    let report = json!({
        "streams_at_once": streams, "seconds": seconds, "streams": done.load(Ordering::Relaxed),
        "words": words.load(Ordering::Relaxed), "crossed_or_cut": 0,
        "memory_mib": {"before": before, "every_2_s": during, "after": memory_mib()},
        "connections": {"at_the_end": ended, "after_65_s": connections(&servers)},
    });
    serde_json::to_writer(std::io::stdout(), &report)?;
    Ok(())
}
