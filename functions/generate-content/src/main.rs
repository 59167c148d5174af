//! generate-content on Lambda.

use std::convert::Infallible;

use generate_content::{Deps, handle, handle_buffered};
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
        kms: true,
    })
    .await;
    if config.under_sam_local {
        let answer = async |request| Ok::<_, Infallible>(handle_buffered(deps, request).await);
        return gateway::run(service_fn(answer)).await;
    }
    let answer = async |request| Ok::<_, Infallible>(handle(deps, request).await);
    gateway::run_streaming(service_fn(answer)).await
}
