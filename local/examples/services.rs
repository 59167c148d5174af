//! Embedded DynamoDB, KMS and providers for other processes, with a new KMS key and every row of the
//! data folder under the one before: `cargo run --example services -- <data folder>`. Prints where they
//! are, as settings, and ends with its input.

use std::{io::Write, path::PathBuf};

use embedded::Embedded;
use local::stand_in::StandIn;

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let folder = std::env::args_os().nth(1).ok_or("name a data folder")?;
    let mut services = Embedded::in_folder(&PathBuf::from(folder)).await?;
    services.new_kms_key()?;
    let stand_in = StandIn::start().await?;
    let listening = services.listen_on_loopback().await?;
    let mut settings = serde_json::json!({
        "TABLE_NAME": services.table_name,
        "KMS_KEY_ARN": services.kms_key_arn,
        "KMS_DECRYPT_KEY_ARNS": services.kms_decrypt_key_arns(),
        "GEMINI_BASE_URL": stand_in.base_url(),
        "OPENAI_BASE_URL": stand_in.base_url(),
        "ANTHROPIC_BASE_URL": stand_in.base_url(),
        "MISTRAL_BASE_URL": stand_in.base_url(),
        "TAVILY_BASE_URL": stand_in.base_url(),
        "FIRECRAWL_BASE_URL": stand_in.base_url(),
    });
    for (name, value) in listening.settings(listening.address) {
        settings[name] = value.into();
    }
    writeln!(std::io::stdout(), "{settings}")?;
    let ended =
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await??;
    Ok(())
}
