//! `serve`: every function on one loopback port, with embedded DynamoDB and KMS.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Args;
use embedded::{Embedded, StartError};
use tokio::{
    net::TcpListener,
    signal::unix::{self, Signal, SignalKind},
};
use user_api_keys::{
    aws::Aws,
    config::{Config, ConfigError},
    endpoint::SetupError,
    mode::Mode,
    telemetry,
};

use crate::{
    app::App,
    chosen_mode::ChosenMode,
    containers::{self, OpenError},
    server::{Callers, Server},
    stand_in::StandIn,
};

/// How long the end waits for what is under way.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a shell says of a program that a Ctrl-C ended.
const INTERRUPTED: u8 = 130;

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
    /// this machine: the Docker bridge's, 172.17.0.1, on Linux; 127.0.0.1 with Docker Desktop. What they
    /// need to know is written into sam-env.json in the data folder.
    #[arg(long, value_name = "ADDRESS", value_parser = containers::bridge)]
    sam: Option<Ipv4Addr>,
    /// The port for that; the stand-in's is the next one.
    #[arg(long, env = "USER_API_KEYS_SAM_PORT", default_value_t = 8788)]
    sam_port: u16,
    /// Local mode answers other users of this machine, too (on Linux it does not).
    #[arg(long)]
    allow_other_users: bool,
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
    /// Ports for containers.
    #[error(transparent)]
    Containers(#[from] OpenError),
    /// The terminal or the network.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Serves until Ctrl-C; how it ended.
///
/// # Errors
/// [`ServeError`]
pub async fn serve(args: &ServeArgs) -> Result<ExitCode, ServeError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port))
        .await
        .map_err(|source| ServeError::Listen {
            port: args.port,
            source,
        })?;
    let address = listener.local_addr()?;
    let services = match args.in_memory {
        true => Embedded::in_memory().await?,
        false => Embedded::in_folder(&args.data_dir).await?,
    };
    let stand_in = args.stand_in.then(|| StandIn::at(address));
    let config = config(args.production, &services, stand_in.as_ref(), |_| None)?;
    telemetry::init(&config);
    let app = App::new(&config, &Aws::new(&services.dynamodb, &services.kms))?;
    let callers = match args.allow_other_users {
        true => Callers::Anybody,
        false => app.callers(),
    };
    let mut server = Server::of(listener, callers, Arc::new(app).router());
    if let Some(stand_in) = &stand_in {
        server = server.and(stand_in.router());
    }
    let mut sam = None;
    if let Some(bridge) = args.sam {
        let at = (bridge, args.sam_port).into();
        let stand_in = stand_in.as_ref();
        sam = Some(containers::open(&services, stand_in, at, &args.data_dir).await?);
    }
    let mut signals = Signals::caught()?;
    introduce(args, &config, address, sam.as_deref())?;
    tokio::select! {
        () = server.run() => {}
        () = signals.next() => {}
    }
    end(server, &mut signals).await
}

/// Waits for what is under way, unless that is asked for a second time.
async fn end(server: Server, signals: &mut Signals) -> Result<ExitCode, ServeError> {
    let mut out = std::io::stdout();
    match server.requests() {
        0 => {}
        1 => writeln!(out, "finishing 1 request; Ctrl-C again to stop now")?,
        n => writeln!(out, "finishing {n} requests; Ctrl-C again to stop now")?,
    }
    let cut_off = tokio::select! {
        left = server.finish(PATIENCE) => left,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    match cut_off {
        0 => writeln!(out, "stopped")?,
        n => writeln!(out, "stopped; {n} cut off after {} s", PATIENCE.as_secs())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The environment, with what this process knows better; `fixed` comes before it.
pub(crate) fn config(
    production: bool,
    services: &Embedded,
    stand_in: Option<&StandIn>,
    fixed: impl Fn(&str) -> Option<String>,
) -> Result<Config, ConfigError> {
    let chosen = ChosenMode::read(production);
    Config::from_env_with(|name, value| match name {
        "TABLE_NAME" => Some(services.table_name.clone()),
        "KMS_KEY_ARN" => Some(services.kms_key_arn.clone()),
        "KMS_DECRYPT_KEY_ARNS" => Some(services.kms_decrypt_key_arns()),
        "AWS_LAMBDA_FUNCTION_NAME" => None,
        "DEBUG" | "DEPLOY_ENV" => fixed(name).or_else(|| chosen.setting(name)?),
        name if name.ends_with("_BASE_URL") => stand_in.map(StandIn::base_url).or(value),
        name => fixed(name).or(value),
    })
}

/// What runs here, for the person who started it.
fn introduce(
    args: &ServeArgs,
    config: &Config,
    address: SocketAddr,
    sam: Option<&Path>,
) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let data = match args.in_memory {
        true => "in memory, gone at the end".to_owned(),
        false => format!("{}/", args.data_dir.display()),
    };
    let why = ChosenMode::read(args.production).why();
    writeln!(out, "user-api-keys on http://{address}/")?;
    match config.mode {
        Mode::Local => {
            writeln!(
                out,
                "mode   Local, since {why} (one developer; stack \"{}\")",
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
                "mode   Production, since {why} (signed-in people; stack \"{}\")",
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
    if let Some(file) = sam {
        writeln!(
            out,
            "sam    sam local start-api --env-vars {}",
            file.display()
        )?;
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

/// Ctrl-C, or SIGTERM from whoever started us; both are caught while this is there.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn caught() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
