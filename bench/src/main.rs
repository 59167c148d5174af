//! Measures; `scripts/bench` says with what, and makes a page of it. Prints JSON.

mod cold;
mod load;
mod relay;
mod rotation;
mod stage;
mod statistics;
mod tls;
mod warm;

use std::{collections::BTreeMap, io::Write, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use embedded::Embedded;
use serde_json::{Value, json};

use crate::{
    stage::{Error, PERSON, Provider, Stage, event},
    warm::{Contestant, Exact, LIST, OPEN, SEQUENCES},
};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Args)]
struct Built {
    /// Folder of the functions' binaries, each by its name, and of floor, clients and bare.
    #[arg(long)]
    binaries: PathBuf,
    /// A Python with boto3.
    #[arg(long)]
    python: Option<String>,
    /// A Node handler in one file.
    #[arg(long)]
    node: Option<String>,
    /// How often.
    #[arg(long, default_value_t = 20)]
    runs: usize,
}

#[derive(Subcommand)]
enum Part {
    /// From exec to the first request, and to the first answer.
    Cold(Built),
    /// First and later requests, against the same calls by hand and in Python.
    Warm(Built),
    /// Instructions and calls of a request against the same calls by hand. Fails where there are more than
    /// there may be.
    Exact(Built),
    /// Wall time with 10 ms for every call.
    Path(Built),
    /// What a request costs with more keys and more people.
    Scale {
        #[command(flatten)]
        built: Built,
        /// People in the table, comma-separated.
        #[arg(long, value_delimiter = ',')]
        people: Vec<usize>,
    },
    /// Clients of a server.
    Load {
        /// Where it is.
        #[arg(long)]
        url: String,
        /// Its process.
        #[arg(long)]
        server: u32,
        /// How many at once, comma-separated.
        #[arg(long, value_delimiter = ',')]
        clients: Vec<usize>,
        /// What they do, comma-separated: list, save, generate.
        #[arg(long, value_delimiter = ',')]
        operations: Vec<String>,
        /// For so long.
        #[arg(long, default_value_t = 3)]
        seconds: u64,
    },
    /// The rotation job against a loop of the same calls.
    Rotation {
        /// Keys, comma-separated.
        #[arg(long, value_delimiter = ',')]
        keys: Vec<usize>,
    },
    /// A provider that answers at once, until its input ends.
    Provider,
    /// DynamoDB and KMS for other processes, until the input ends; prints settings.
    Services,
}

const FUNCTIONS: [(&str, Option<&str>); 7] = [
    (LIST.function, Some(LIST.event)),
    ("save-keys", None),
    ("onboarding", None),
    ("generate-content", None),
    ("open-keys", None),
    ("rotate-keys", None),
    ("check-keys", None),
];

impl Built {
    fn binary(&self, name: &str) -> String {
        self.binaries.join(name).display().to_string()
    }

    fn cold(&self) -> Vec<cold::Contestant> {
        let ours = FUNCTIONS.map(|(name, first)| (name, vec![self.binary(name)], first));
        let plain = ["floor", "clients"].map(|name| (name, vec![self.binary(name)], None));
        let first = Some(LIST.event);
        let node = self.node.as_ref().map(|file| {
            let command = ["/usr/bin/env", "node", file].map(str::to_owned);
            ("node", command.into(), first)
        });
        let python = self
            .python("list")
            .map(|command| ("python", command, first));
        let all = plain.into_iter().chain(ours).chain(python).chain(node);
        let named = all.map(|(name, command, first)| cold::Contestant {
            name: name.to_owned(),
            command,
            first,
        });
        named.collect()
    }

    fn python(&self, sequence: &str) -> Option<Vec<String>> {
        let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/handlers/handler.py");
        let python = self.python.as_deref()?;
        Some([python, handler, sequence].map(str::to_owned).into())
    }

    fn warm(&self, sequence: &str, function: &str) -> Vec<Contestant> {
        let bare = vec![self.binary("bare"), sequence.to_owned()];
        let all = [
            ("ours", Some(vec![self.binary(function)])),
            ("bare", Some(bare)),
            ("python", self.python(sequence)),
        ];
        let there = all.into_iter().filter_map(|(name, command)| {
            let command = command?;
            Some(Contestant { name, command })
        });
        there.collect()
    }

    /// Services with a key that save-keys has saved, so that it opens.
    async fn stage(&self) -> Result<Stage, Error> {
        let stage = Stage::start().await?;
        let save = vec![self.binary("save-keys")];
        let mut running = stage.run("save-keys", &save, &[]).await?;
        running.ready().await?;
        running.call(&event("save-keys/save")?).await?;
        running.end().await?;
        Ok(stage)
    }

    async fn measure_warm(&self) -> Result<Value, Error> {
        let mut all = BTreeMap::new();
        for of in &SEQUENCES {
            let stage = self.stage().await?;
            let contestants = self.warm(of.name, of.function);
            let event = event(of.event)?;
            let measured = warm::measure(&stage, of.function, &event, &contestants, self.runs);
            all.insert(of.name, measured.await?);
        }
        Ok(json!(all))
    }

    async fn measure_exact(&self) -> Result<Value, Error> {
        let (mut all, mut too_much) = (BTreeMap::new(), Vec::new());
        for of in &SEQUENCES {
            let (name, stage) = (of.name, self.stage().await?);
            let command = [self.binary(of.function)];
            let ours = warm::exact(&stage, of.function, of.event, &command).await?;
            let command = [self.binary("bare"), name.to_owned()];
            let bare = warm::exact(&stage, of.function, of.event, &command).await?;
            let ratio = ours.instructions as f64 / bare.instructions as f64;
            if ratio > of.may_take {
                too_much.push(format!("{name} takes {ratio:.3} times the instructions"));
            }
            let may = of.calls.iter().map(|(call, n)| ((*call).to_owned(), *n));
            let may: BTreeMap<_, _> = may.collect();
            if ours.calls != may {
                let calls = &ours.calls;
                too_much.push(format!("{name} calls {calls:?} and may call {may:?}"));
            }
            let both: BTreeMap<_, Exact> = [("ours", ours), ("bare", bare)].into();
            all.insert(name, both);
        }
        if !too_much.is_empty() {
            return Err(format!("{}\n{}", json!(all), too_much.join("\n")).into());
        }
        Ok(json!(all))
    }

    async fn measure_path(&self) -> Result<Value, Error> {
        let takes = Duration::from_millis(10);
        let mut all = BTreeMap::new();
        for of in &SEQUENCES {
            let Some(rounds) = of.rounds else {
                continue;
            };
            let stage = self.stage().await?;
            let command = [self.binary(of.function)];
            let ms = warm::path(&stage, of.function, of.event, &command, takes, self.runs).await?;
            all.insert(of.name, json!({"theory_ms": rounds * 10, "ms": ms}));
        }
        Ok(json!(all))
    }

    /// A list and an open, with more and more people in the table, and with one key and ten.
    async fn measure_scale(&self, people: &[usize]) -> Result<Value, Error> {
        let (mut all, stage, mut there) = (Vec::new(), self.stage().await?, 0);
        for &people in people {
            rotation::strangers(&stage.services, there..people).await?;
            there = people;
            for keys in [1, 10] {
                rotation::keys_of(&stage.services, PERSON, keys).await?;
                for of in [&LIST, &OPEN] {
                    let contestants = [Contestant {
                        name: "ours",
                        command: vec![self.binary(of.function)],
                    }];
                    let event = event(of.event)?;
                    let measured =
                        warm::measure(&stage, of.function, &event, &contestants, self.runs);
                    let warm = measured.await?.remove("ours");
                    all.push(
                        json!({"people": people, "keys": keys, "sequence": of.name, "warm": warm}),
                    );
                }
            }
        }
        Ok(json!(all))
    }
}

async fn until_the_end_of_input() -> Result<(), Error> {
    let ended = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(ended).await??;
    Ok(())
}

fn say(value: &Value) -> Result<(), Error> {
    let mut out = std::io::stdout();
    writeln!(out, "{value}")?;
    Ok(out.flush()?)
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let results = match Arguments::parse().part {
        Part::Cold(built) => {
            let stage = Stage::start().await?;
            json!(cold::measure(&stage, &built.cold(), built.runs).await?)
        }
        Part::Warm(built) => built.measure_warm().await?,
        Part::Exact(built) => built.measure_exact().await?,
        Part::Path(built) => built.measure_path().await?,
        Part::Scale { built, people } => built.measure_scale(&people).await?,
        Part::Load {
            url,
            server,
            clients,
            operations,
            seconds,
        } => {
            load::prepare(&url, clients.iter().copied().max().unwrap_or_default()).await?;
            let time = Duration::from_secs(seconds);
            let mut all = Vec::new();
            for operation in &operations {
                for &clients in &clients {
                    all.push(load::measure(&url, operation, clients, time, server).await?);
                }
            }
            json!(all)
        }
        Part::Rotation { keys } => {
            let mut all = Vec::new();
            for keys in keys {
                all.push(rotation::measure(keys).await?);
            }
            json!(all)
        }
        Part::Provider => {
            say(&json!({"GEMINI_BASE_URL": Provider::default().start().await?}))?;
            return until_the_end_of_input().await;
        }
        Part::Services => {
            let services = Embedded::in_memory().await?;
            let listening = services.listen_on_loopback().await?;
            let mut settings = json!({
                "TABLE_NAME": services.table_name, "KMS_KEY_ARN": services.kms_key_arn,
            });
            for (name, value) in listening.settings(listening.address) {
                settings[name] = json!(value);
            }
            say(&settings)?;
            return until_the_end_of_input().await;
        }
    };
    say(&results)
}
