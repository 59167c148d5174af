//! Cold start: from exec to the first request to Lambda's Runtime API, and to the first answer over TLS.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    stage::{Error, Stage, event},
    statistics::Spread,
    tls,
};

/// Who starts how.
pub(crate) struct Contestant {
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    /// The event that its first request is made of; `None` where only the start is measured.
    pub(crate) first: Option<&'static str>,
}

#[derive(Default)]
struct Measured {
    start_ms: Vec<f64>,
    connected_ms: Vec<f64>,
    first_ms: Vec<f64>,
    peak_kib: u64,
}

/// One contestant's result.
#[derive(Serialize)]
pub(crate) struct Cold {
    /// exec → first request to the Runtime API, nobody there to connect to.
    start_ms: Spread,
    /// The same with DynamoDB and KMS there, behind TLS.
    connected_ms: Spread,
    /// exec → first answer, over TLS.
    first_ms: Option<Spread>,
    peak_kib: u64,
    binary_bytes: Option<u64>,
}

/// All of them in turn, so that the machine's noise is shared.
pub(crate) async fn measure(
    stage: &Stage,
    contestants: &[Contestant],
    runs: usize,
) -> Result<BTreeMap<String, Cold>, Error> {
    let authority = tls::Authority::new()?;
    let dynamodb = authority.relay(&stage.listening).await?;
    let kms = authority.relay(&stage.listening).await?;
    // Nobody listens on port 1.
    let nowhere = "http://127.0.0.1:1".to_owned();
    let alone = [
        ("AWS_ENDPOINT_URL_DYNAMODB", nowhere.clone()),
        ("AWS_ENDPOINT_URL_KMS", nowhere),
    ];
    let file = authority.file();
    let over_tls = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb),
        ("AWS_ENDPOINT_URL_KMS", kms),
        ("SSL_CERT_FILE", file.clone()),
        ("AWS_CA_BUNDLE", file.clone()),
        ("NODE_EXTRA_CA_CERTS", file),
    ];
    let mut all: BTreeMap<&str, Measured> = BTreeMap::new();
    // The first round fills the page cache and does not count.
    for round in 0..=runs {
        for contestant in contestants {
            let (name, command) = (contestant.name.as_str(), &contestant.command);
            let mut running = stage.run(name, command, &alone).await?;
            let start = (running.ready().await? - running.started).as_secs_f64() * 1e3;
            running.end().await?;
            let mut running = stage.run(name, command, &over_tls).await?;
            let connected = (running.ready().await? - running.started).as_secs_f64() * 1e3;
            let first = match contestant.first {
                Some(name) => {
                    let (_, at, _) = running.call(&event(name)?).await?;
                    Some((at - running.started).as_secs_f64() * 1e3)
                }
                None => None,
            };
            let peak_kib = running.peak_kib()?;
            running.end().await?;
            if round == 0 {
                continue;
            }
            let measured = all.entry(name).or_default();
            measured.start_ms.push(start);
            measured.connected_ms.push(connected);
            measured.first_ms.extend(first);
            measured.peak_kib = measured.peak_kib.max(peak_kib);
        }
    }
    let shown = contestants.iter().map(|contestant| {
        let measured = all.remove(contestant.name.as_str()).unwrap_or_default();
        let first = (!measured.first_ms.is_empty()).then(|| Spread::of(measured.first_ms));
        // An interpreter's is not its handler's.
        let binary_bytes = match contestant.command.as_slice() {
            [binary] => std::fs::metadata(binary).map(|file| file.len()).ok(),
            _ => None,
        };
        let cold = Cold {
            start_ms: Spread::of(measured.start_ms),
            connected_ms: Spread::of(measured.connected_ms),
            first_ms: first,
            peak_kib: measured.peak_kib,
            binary_bytes,
        };
        (contestant.name.clone(), cold)
    });
    Ok(shown.collect())
}
