//! Runs the functions on this machine.

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};
use local::{
    demo,
    doctor::{self, DoctorArgs},
    import::{self, EnvArgs, PostgresArgs},
    openapi,
    person::{self, EraseArgs, ExportArgs},
    rotate::{self, RotateArgs},
    serve,
    serve::ServeArgs,
    token,
};
use rustix::{fs::Mode, process::umask};
use user_api_keys::memory;

/// Keeps each person's own AI provider keys encrypted, and uses them on that person's behalf.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve every function on one loopback port (the default).
    Serve(ServeArgs),
    /// Walk through both modes and check every step, in memory and on free ports.
    Demo,
    /// Make a new KMS key and move every saved key to it; exit code 0 says that the old one can be
    /// disabled, 2 that it cannot.
    Rotate(RotateArgs),
    /// Look at everything that this needs, and say what is wrong and how to mend it; exit code 1 if
    /// something is.
    Doctor(DoctorArgs),
    /// Seal the keys of a `.env` file for one person.
    ImportEnv(EnvArgs),
    /// Seal the keys of the system before, in PostgreSQL, for their owners.
    ImportPostgres(PostgresArgs),
    /// Print everything of one person as JSON; keys in clear only with --reveal.
    Export(ExportArgs),
    /// Delete everything of one person.
    Erase(EraseArgs),
    /// Print the OpenAPI description, as it stands in openapi.json.
    Openapi,
    /// Print a session token of the test Clerk instance.
    Token {
        /// Whose: user_ and at least eight letters or digits.
        #[arg(long)]
        user: String,
        /// Seconds it lives, a day at most; Clerk's own live one minute.
        #[arg(long, default_value_t = token::LIFETIME_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        lifetime_s: u64,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    memory::keep_to_ourselves();
    // Whatever is made from here on (the data folder, SQLite's files, backend/) is this user's alone.
    umask(Mode::RWXG.union(Mode::RWXO));
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => match serve::serve(&args).await {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
        Command::Rotate(args) => match rotate::rotate(&args).await {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
        Command::Doctor(args) => match doctor::doctor(&args).await {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
        Command::ImportEnv(args) => match import::env(&args).await {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
        Command::ImportPostgres(args) => match import::postgres(&args).await {
            Ok(code) => return code,
            Err(error) => Err(error.to_string()),
        },
        Command::Export(args) => person::export(&args)
            .await
            .map_err(|error| error.to_string()),
        Command::Erase(args) => person::erase(&args)
            .await
            .map_err(|error| error.to_string()),
        Command::Demo => demo::run().await.map_err(|error| error.to_string()),
        Command::Openapi => print(&openapi::description().map_err(|error| error.to_string())),
        Command::Token { user, lifetime_s } => {
            let token = token::sign_for(&user, lifetime_s).map_err(|error| error.to_string());
            print(&token.map(|token| token + "\n"))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell when even this fails.
            writeln!(std::io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn print(text: &Result<String, String>) -> Result<(), String> {
    let text = text.as_ref().map_err(Clone::clone)?;
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())
        .map_err(|error| error.to_string())
}
