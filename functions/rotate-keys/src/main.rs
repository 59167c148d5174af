//! rotate-keys on Lambda.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use rotate_keys::{Deps, handle};
use serde_json::Value;
use user_api_keys::{aws::Aws, config::Config, invocation::diagnostic, memory, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    memory::keep_to_ourselves();
    let config = Config::from_env()?;
    telemetry::init(&config);
    let deps = &Deps::new(&config, &Aws::adaptive().await?);
    let answer = async |event: LambdaEvent<Value>| {
        let answer = handle(deps, Some(&event.context), event.payload).await;
        answer.map_err(|problem| diagnostic(&problem))
    };
    run(service_fn(answer)).await
}
