//! fetch-keys on Lambda.

use std::convert::Infallible;

use fetch_keys::{Deps, handle};
use lambda_http::{Error, service_fn};
use user_api_keys::{
    aws::{Aws, Connections},
    config::Config,
    gateway, memory, telemetry,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    memory::keep_to_ourselves();
    let config = Config::from_env()?;
    telemetry::init(&config);
    let aws = Aws::from_env().await?;
    let deps = &Deps::new(&config, &aws)?;
    aws.connect(Connections {
        table: 2,
        kms: false,
    })
    .await;
    let answer = async |request| Ok::<_, Infallible>(handle(deps, request).await);
    gateway::run(service_fn(answer)).await
}
