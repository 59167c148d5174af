//! The functions in Production mode on a free port, on wires to DynamoDB and KMS that fail at random, for
//! `torture::crowd`: `cargo run --example stormy -- <faults of 1,000>`. Prints its address; when its input
//! ends, a line for each prompt that reached a provider, with the key it came with.

use std::{io::Write, sync::Arc, time::Duration};

use aws_sdk_dynamodb::config::retry::RetryConfig;
use embedded::Embedded;
use local::{app::App, stack::embedded_setting, stand_in::StandIn};
use user_api_keys::{config::Config, telemetry};

#[path = "../tests/it/wire.rs"]
#[expect(
    clippy::unwrap_used,
    dead_code,
    reason = "a helper of tests, which use the rest of it"
)]
mod wire;

use wire::{Fault, Wire};

type Error = Box<dyn std::error::Error>;

const FAULTS: [Fault; 6] = [
    Fault::AnswerLost,
    Fault::Reset,
    Fault::Throttled,
    Fault::Failed,
    Fault::Slow,
    Fault::AnswerHangs,
];

#[tokio::main]
async fn main() -> Result<(), Error> {
    let per_mille = std::env::args()
        .nth(1)
        .ok_or("say how many of 1,000")?
        .parse()?;
    let services = Embedded::in_memory().await?;
    let stand_in = StandIn::start().await?;
    let base_url = stand_in.base_url();
    let config = Config::from_lookup(|name| {
        let value = match name {
            "DEPLOY_ENV" => "crowd",
            "CHECK_ON_SAVE" => "format",
            name if name.starts_with("RATE_LIMIT") => "1000000",
            name => return embedded_setting(name, &services, &base_url),
        };
        Some(value.to_owned())
    })?;
    telemetry::init(&config);
    let attempt = Some(Duration::from_secs(1));
    let (aws, [dynamodb, kms]) = Wire::between(&services, RetryConfig::standard(), attempt).await;
    dynamodb.storm(&FAULTS, per_mille, 1);
    kms.storm(&FAULTS, per_mille, 2);
    let address = Arc::new(App::new(&config, &aws)?).spawn().await?;
    writeln!(
        std::io::stdout(),
        "http://{address}/ stop with the end of its input\nstop "
    )?;
    let ended = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(ended).await??;
    let mut out = std::io::stdout();
    for seen in stand_in.seen() {
        writeln!(out, "{}\t{}", seen.key, seen.prompt)?;
    }
    writeln!(out, "met\t{}", dynamodb.calm() + kms.calm())?;
    Ok(())
}
