//! Many clients of one server.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use local::token;
use serde::Serialize;
use serde_json::json;

use crate::{
    stage::{Error, peak_kib},
    statistics::Spread,
};

/// One operation at one number of clients.
#[derive(Serialize)]
pub(crate) struct Load {
    operation: String,
    clients: usize,
    per_second: f64,
    ms: Spread,
    rss_kib: u64,
}

/// `operation` from `clients` at once for `time`, each client a person of their own.
pub(crate) async fn measure(
    url: &str,
    operation: &str,
    clients: usize,
    time: Duration,
    server: u32,
) -> Result<Load, Error> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let begun = Instant::now();
    let work = (0..clients).map(|n| {
        let (client, url, operation) = (client.clone(), url.to_owned(), operation.to_owned());
        tokio::spawn(async move {
            let bearer = token::sign_for(&format!("user_bench{n:04}"), 3_600)?;
            let mut walls = Vec::new();
            while begun.elapsed() < time {
                let sent = Instant::now();
                call(&client, &url, &operation, &bearer).await?;
                walls.push(sent.elapsed().as_secs_f64() * 1e3);
            }
            Ok::<_, Error>(walls)
        })
    });
    let mut walls = Vec::new();
    for done in futures_util::future::join_all(work).await {
        walls.extend(done??);
    }
    let per_second = walls.len() as f64 / begun.elapsed().as_secs_f64();
    let status = PathBuf::from(format!("/proc/{server}/status"));
    Ok(Load {
        operation: operation.to_owned(),
        clients,
        per_second,
        ms: Spread::of(walls),
        rss_kib: peak_kib(&status)?,
    })
}

async fn call(
    client: &reqwest::Client,
    url: &str,
    operation: &str,
    bearer: &str,
) -> Result<(), Error> {
    let keys = format!("{url}/api/onboarding/api-keys");
    let request = match operation {
        "list" => client.get(keys),
        "save" => client
            .post(keys)
            .json(&json!({"provider": "gemini", "api_key": crate::stage::KEY})),
        _ => client
            .post(format!("{url}/api/generate"))
            .json(&json!({"prompt": "Hello"})),
    };
    let answer = request.bearer_auth(bearer).send().await?;
    let status = answer.status();
    let body = answer.bytes().await?;
    match status.is_success() {
        true => Ok(()),
        false => Err(format!("{operation}: {status} {}", String::from_utf8_lossy(&body)).into()),
    }
}

/// Saves a key for each of the people.
pub(crate) async fn prepare(url: &str, clients: usize) -> Result<(), Error> {
    let client = Arc::new(reqwest::Client::builder().no_proxy().build()?);
    for n in 0..clients {
        let bearer = token::sign_for(&format!("user_bench{n:04}"), 3_600)?;
        call(&client, url, "save", &bearer).await?;
    }
    Ok(())
}
