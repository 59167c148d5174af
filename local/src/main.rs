//! Runs the functions on this machine.

use std::{io::Write, process::ExitCode};

use clap::{Parser, Subcommand};
use local::{
    demo, serve,
    serve::{ServeArgs, ServeError},
    token,
};

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
    /// Print a one-minute session token of the test Clerk instance.
    Token {
        /// Whose: user_ and at least eight letters or digits.
        #[arg(long)]
        user: String,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => serve::serve(&args).await.map_err(|error| error.to_string()),
        Command::Demo => demo::run().await.map_err(|error| error.to_string()),
        Command::Token { user } => print_token(&user).map_err(|error| error.to_string()),
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

fn print_token(user: &str) -> Result<(), ServeError> {
    let token = token::sign(user).map_err(std::io::Error::other)?;
    writeln!(std::io::stdout(), "{token}")?;
    Ok(())
}
