//! The functions in Production mode on a free port, on wires to DynamoDB and KMS that fail at random, for
//! `torture::crowd`: `cargo run --example stormy -- <faults of 1,000>`. Prints its address; when its input
//! ends, a line for each prompt that reached a provider, with the key it came with.

use std::{io::Write, sync::Arc, time::Duration};

use aws_sdk_dynamodb::config::{retry::RetryConfig, timeout::TimeoutConfig};
use embedded::Embedded;
use local::{app::App, stand_in::StandIn, token};
use user_api_keys::{aws::Aws, config::Config, telemetry};

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
            "TABLE_NAME" => &services.table_name,
            "KMS_KEY_ARN" => &services.kms_key_arn,
            "CLERK_JWT_KEY" => token::PUBLIC_KEY,
            "CLERK_ISSUER" => token::ISSUER,
            "CLERK_AUTHORIZED_PARTIES" => token::PARTY,
            "CHECK_ON_SAVE" => "format",
            name if name.starts_with("RATE_LIMIT") => "1000000",
            name if name.ends_with("_BASE_URL") => &base_url,
            _ => return None,
        };
        Some(value.to_owned())
    })?;
    telemetry::init(&config);
    let retry = RetryConfig::standard().with_initial_backoff(Duration::from_millis(5));
    let timeouts = TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(1))
        .build();
    let (dynamodb, kms) = (
        Wire::to(services.dynamodb_address).await,
        Wire::to(services.kms_address).await,
    );
    dynamodb.storm(&FAULTS, per_mille, 1);
    kms.storm(&FAULTS, per_mille, 2);
    let through = services
        .dynamodb
        .config()
        .to_builder()
        .endpoint_url(format!("http://{}", dynamodb.address));
    let to_dynamodb = through
        .retry_config(retry.clone())
        .timeout_config(timeouts.clone())
        .build();
    let through = services
        .kms
        .config()
        .to_builder()
        .endpoint_url(format!("http://{}", kms.address));
    let to_kms = through.retry_config(retry).timeout_config(timeouts).build();
    let aws = Aws::new(
        &aws_sdk_dynamodb::Client::from_conf(to_dynamodb),
        &aws_sdk_kms::Client::from_conf(to_kms),
    );
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
