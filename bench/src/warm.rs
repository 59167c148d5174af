//! Requests of a function that runs: the first one, later ones, against the same SDK calls by hand and in
//! Python; wall time, time on a processor, instructions and calls.

use std::{collections::BTreeMap, process::Command, time::Duration};

use serde::Serialize;

use crate::{
    relay::Relay,
    stage::{Error, Running, Stage, event},
    statistics::Spread,
};

/// What is measured, and what it may cost.
pub(crate) struct Sequence {
    pub(crate) name: &'static str,
    pub(crate) function: &'static str,
    pub(crate) event: &'static str,
    /// What one request calls, and how often.
    pub(crate) calls: &'static [(&'static str, u64)],
    /// Round trips before the answer; of generate, before the provider. `None` is not looked at.
    pub(crate) rounds: Option<u32>,
    /// At most so many times the instructions of the same calls by hand.
    pub(crate) may_take: f64,
}

/// The goal of 1.25, and a little for what differs from run to run.
const MAY_TAKE: f64 = 1.3;

pub(crate) const LIST: Sequence = Sequence {
    name: "list",
    function: "fetch-keys",
    event: "fetch-keys/list",
    calls: &[("UpdateItem", 1), ("Query", 1)],
    rounds: Some(1),
    // Over the goal (docs/benchmarks.md says why), and may not get worse.
    may_take: 1.45,
};

pub(crate) const OPEN: Sequence = Sequence {
    name: "open",
    function: "open-keys",
    event: "open-keys/open",
    // Two limits are counted.
    calls: &[
        ("UpdateItem", 2),
        ("GetItem", 1),
        ("PutItem", 1),
        ("Decrypt", 1),
    ],
    rounds: None,
    may_take: MAY_TAKE,
};

pub(crate) const SEQUENCES: [Sequence; 4] = [
    LIST,
    Sequence {
        name: "save",
        function: "save-keys",
        event: "save-keys/save",
        calls: &[
            ("UpdateItem", 1),
            ("GetItem", 1),
            ("Encrypt", 1),
            ("TransactWriteItems", 1),
        ],
        // KMS waits for the count.
        rounds: Some(3),
        may_take: MAY_TAKE,
    },
    OPEN,
    Sequence {
        name: "generate",
        function: "generate-content",
        event: "generate-content/generate",
        // Two limits and the day's usage are counted.
        calls: &[
            ("UpdateItem", 3),
            ("GetItem", 1),
            ("PutItem", 1),
            ("Decrypt", 1),
        ],
        rounds: Some(2),
        may_take: MAY_TAKE,
    },
];

const ROUND: u32 = 20;

/// Who answers.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) command: Vec<String>,
}

/// One contestant at one sequence.
#[derive(Serialize)]
pub(crate) struct Warm {
    first_ms: Spread,
    first_cpu_ms: Spread,
    warm_ms: Spread,
    warm_cpu_ms: Spread,
}

/// A round of requests; the wall time of each and the time on a processor of one.
async fn round(
    running: &mut Running,
    event: &str,
    requests: u32,
) -> Result<(Vec<f64>, f64), Error> {
    let before = running.cpu_ns()?;
    let mut walls = Vec::new();
    for _ in 0..requests {
        let (sent, at, _) = running.call(event).await?;
        walls.push((at - sent).as_secs_f64() * 1e3);
    }
    let cpu = (running.cpu_ns()? - before) as f64 / 1e6 / f64::from(requests);
    Ok((walls, cpu))
}

/// Every contestant in turn, so that the machine's noise is shared.
pub(crate) async fn measure(
    stage: &Stage,
    function: &str,
    event: &str,
    contestants: &[Contestant],
    runs: usize,
) -> Result<BTreeMap<&'static str, Warm>, Error> {
    let mut firsts: BTreeMap<_, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..runs {
        for contestant in contestants {
            let mut running = stage.run(function, &contestant.command, &[]).await?;
            running.ready().await?;
            let (walls, cpu) = round(&mut running, event, 1).await?;
            let first = firsts.entry(contestant.name).or_default();
            first.0.extend(walls);
            first.1.push(cpu);
            running.end().await?;
        }
    }
    let mut started = Vec::new();
    for contestant in contestants {
        let mut running = stage.run(function, &contestant.command, &[]).await?;
        running.ready().await?;
        round(&mut running, event, ROUND).await?;
        started.push((contestant.name, running));
    }
    let mut warm: BTreeMap<_, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..runs {
        for (name, running) in &mut started {
            let (walls, cpu) = round(running, event, ROUND).await?;
            let of = warm.entry(*name).or_default();
            of.0.extend(walls);
            of.1.push(cpu);
        }
    }
    for (_, running) in started {
        running.end().await?;
    }
    let all = firsts.into_iter().zip(warm);
    let all = all.map(|((name, (first, first_cpu)), (_, (walls, cpu)))| {
        let warm = Warm {
            first_ms: Spread::of(first),
            first_cpu_ms: Spread::of(first_cpu),
            warm_ms: Spread::of(walls),
            warm_cpu_ms: Spread::of(cpu),
        };
        (name, warm)
    });
    Ok(all.collect())
}

/// What one request takes that no noise changes.
#[derive(Serialize)]
pub(crate) struct Exact {
    pub(crate) instructions: u64,
    pub(crate) calls: BTreeMap<String, u64>,
}

const FEW: u64 = 5;
const MANY: u64 = 25;

/// Instructions and calls of one request: between a run of few and one of many.
pub(crate) async fn exact(
    stage: &Stage,
    function: &str,
    event_name: &str,
    command: &[String],
) -> Result<Exact, Error> {
    let dynamodb = Relay::to(&stage.listening, Duration::ZERO)?;
    let kms = Relay::to(&stage.listening, Duration::ZERO)?;
    let more = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url.clone()),
        ("AWS_ENDPOINT_URL_KMS", kms.url.clone()),
    ];
    let event = event(event_name)?;
    let mut seen = Vec::new();
    for requests in [FEW, MANY] {
        let log = tempfile::NamedTempFile::new()?;
        let mut under: Vec<_> = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
        ]
        .map(str::to_owned)
        .into();
        under.push(format!("--log-file={}", log.path().display()));
        under.extend_from_slice(command);
        let mut running = stage.run(function, &under, &more).await?;
        running.ready().await?;
        let mut calls = (dynamodb.take(), kms.take());
        for _ in 0..requests {
            running.call(&event).await?;
            calls = (dynamodb.take(), kms.take());
        }
        let id = running.child.id().unwrap_or_default().to_string();
        Command::new("kill").args(["-TERM", &id]).status()?;
        running.child.wait().await?;
        let log = std::fs::read_to_string(log.path())?;
        let total = log.lines().find_map(|line| line.split_once("Collected : "));
        let total: u64 = total.ok_or("valgrind counted nothing")?.1.trim().parse()?;
        let (mut of_one, kms) = calls;
        of_one.extend(kms);
        seen.push((total, of_one));
    }
    let [(few, _), (many, calls)] = seen.try_into().map_err(|_| "two runs")?;
    Ok(Exact {
        instructions: (many - few) / (MANY - FEW),
        calls,
    })
}

/// Wall times with `takes` for every call of DynamoDB and KMS; of generate, until the provider is asked.
pub(crate) async fn path(
    stage: &Stage,
    function: &str,
    event_name: &str,
    command: &[String],
    takes: Duration,
    runs: usize,
) -> Result<Spread, Error> {
    let dynamodb = Relay::to(&stage.listening, takes)?;
    let kms = Relay::to(&stage.listening, takes)?;
    let more = [
        ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url),
        ("AWS_ENDPOINT_URL_KMS", kms.url),
    ];
    let event = event(event_name)?;
    let mut running = stage.run(function, command, &more).await?;
    running.ready().await?;
    let mut walls = Vec::new();
    for run in 0..runs + 3 {
        let (sent, at, _) = running.call(&event).await?;
        let at = match function {
            "generate-content" => stage.provider.last().ok_or("nobody asked the provider")?,
            _ => at,
        };
        if run >= 3 {
            walls.push((at - sent).as_secs_f64() * 1e3);
        }
    }
    running.end().await?;
    Ok(Spread::of(walls))
}
