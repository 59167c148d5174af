//! `serve`: every function on one loopback port, with embedded DynamoDB and KMS.

use std::{io::Write, net::Ipv4Addr, path::PathBuf, sync::Arc};

use clap::Args;
use embedded::{Embedded, StartError};
use tokio::{
    net::TcpListener,
    signal::unix::{self, SignalKind},
};
use user_api_keys::{
    aws::Aws,
    config::{Config, ConfigError},
    endpoint::SetupError,
    mode::Mode,
    telemetry,
};

use crate::{app::App, containers, stand_in::StandIn};

/// The stack's name for `--production` when `DEPLOY_ENV` gives none.
const PRODUCTION: &str = "production";

/// What `serve` takes from the command line.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Port on 127.0.0.1; 0 picks a free one.
    #[arg(long, env = "USER_API_KEYS_PORT", default_value_t = 8787)]
    port: u16,
    /// Folder of the embedded database and KMS key.
    #[arg(long, env = "USER_API_KEYS_DATA_DIR", default_value = ".local")]
    data_dir: PathBuf,
    /// Keep nothing, whatever the data folder: everything is gone when the server stops.
    #[arg(long)]
    in_memory: bool,
    /// Production mode on the embedded services, with the environment's Clerk settings.
    #[arg(long)]
    production: bool,
    /// Answer in the providers' place, so that no real key and no network is needed.
    #[arg(long)]
    stand_in: bool,
    /// Let functions in containers (sam local) reach DynamoDB, KMS and the stand-in at this address of
    /// this machine, on three ports from 8788: the Docker bridge's, 172.17.0.1, on Linux; 127.0.0.1 with
    /// Docker Desktop. Whoever reaches them can open every key.
    #[arg(long, value_name = "ADDRESS", value_parser = containers::bridge)]
    sam: Option<Ipv4Addr>,
    /// The first of these ports.
    #[arg(long, env = "USER_API_KEYS_SAM_PORT", default_value_t = 8788)]
    sam_port: u16,
}

/// Why the server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Embedded DynamoDB or KMS.
    #[error(transparent)]
    Embedded(#[from] StartError),
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The functions.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// Port in use.
    #[error("cannot listen on 127.0.0.1:{port}: {source}; choose another with --port")]
    Listen {
        /// Which port.
        port: u16,
        /// What the system said.
        source: std::io::Error,
    },
    /// The terminal or the network.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until Ctrl-C.
///
/// # Errors
/// [`ServeError`]
pub async fn serve(args: &ServeArgs) -> Result<(), ServeError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))
        .await
        .map_err(|source| ServeError::Listen {
            port: args.port,
            source,
        })?;
    let services = match args.in_memory {
        true => Embedded::in_memory().await?,
        false => Embedded::in_folder(&args.data_dir).await?,
    };
    let stand_in = match args.stand_in {
        true => Some(StandIn::start().await?),
        false => None,
    };
    let config = config(args.production, &services, stand_in.as_ref(), |_| None)?;
    telemetry::init(&config);
    let aws = Aws::new(&services.dynamodb, &services.kms);
    let app = Arc::new(App::new(&config, &aws)?);
    let address = listener.local_addr()?.to_string();
    if let Some(bridge) = args.sam {
        let mut to = vec![services.dynamodb_address, services.kms_address];
        to.extend(stand_in.as_ref().map(StandIn::address));
        containers::open(bridge, args.sam_port, &to).await?;
    }
    let stopped = stopped()?;
    introduce(args, &config, &services, &address)?;
    app.serve(listener, stopped).await?;
    writeln!(std::io::stdout(), "stopped")?;
    Ok(())
}

/// The environment, with what this process knows better; `fixed` comes before it.
pub(crate) fn config(
    production: bool,
    services: &Embedded,
    stand_in: Option<&StandIn>,
    fixed: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    Config::from_env_with(|name, value| match name {
        "TABLE_NAME" => Some(services.table_name.clone()),
        "KMS_KEY_ARN" => Some(services.kms_key_arn.clone()),
        "KMS_DECRYPT_KEY_ARNS" => Some(services.kms_decrypt_key_arns()),
        "AWS_LAMBDA_FUNCTION_NAME" => None,
        "DEBUG" if production => None,
        "DEPLOY_ENV" if production => value
            .filter(|stack| !matches!(stack.as_str(), "" | "local"))
            .or_else(|| Some(PRODUCTION.to_owned())),
        name if name.ends_with("_BASE_URL") => stand_in.map(StandIn::base_url).or(value),
        name => fixed(name).or(value),
    })
}

/// What runs here, for the person who started it.
fn introduce(
    args: &ServeArgs,
    config: &Config,
    services: &Embedded,
    address: &str,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let data = match args.in_memory {
        true => "in memory, gone at the end".to_owned(),
        false => format!("{}/", args.data_dir.display()),
    };
    writeln!(out, "user-api-keys on http://{address}/")?;
    match config.mode {
        Mode::Local => {
            writeln!(
                out,
                "mode   Local (one developer; stack \"{}\")",
                config.deploy_env
            )?;
            writeln!(
                out,
                "reads  the environment, {}, the table",
                config.backend_env_file.display()
            )?;
            writeln!(
                out,
                "writes {}, {} (CopilotKit), the table",
                config.backend_env_file.display(),
                config.frontend_env_file.display()
            )?;
        }
        Mode::Production => {
            writeln!(
                out,
                "mode   Production (signed-in people; stack \"{}\")",
                config.deploy_env
            )?;
            writeln!(out, "reads  the table alone")?;
            writeln!(out, "writes the table alone")?;
        }
    }
    writeln!(out, "data   {data}")?;
    if args.stand_in {
        writeln!(
            out,
            "models a stand-in on this machine: no real key needed, nothing is generated"
        )?;
    }
    if let Some(bridge) = args.sam {
        let key = &services.kms_key_arn;
        writeln!(out, "sam    {bridge}, ports from {}; {key}", args.sam_port)?;
    }
    let bearer = match config.clerk {
        Some(_) => " -H \"Authorization: Bearer $TOKEN\"",
        None => "",
    };
    writeln!(
        out,
        "try    curl{bearer} http://{address}/api/onboarding/api-keys"
    )?;
    writeln!(out, "stop   Ctrl-C")?;
    out.flush()
}

/// Done at Ctrl-C, or at SIGTERM from whoever started us; both are caught from here on.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = unix::signal(SignalKind::interrupt())?;
    let mut terminate = unix::signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
