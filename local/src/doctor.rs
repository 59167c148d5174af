//! `doctor`: why a key is not found, another one is used, or nothing is written to `.env`; each finding
//! with what mends it. Changes nothing, and shows no key.

mod files;
mod people;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use embedded::{Embedded, StartError};
use futures_util::{StreamExt, stream};
use secrecy::SecretString;
use time::{
    OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem,
    macros::format_description,
};
use ulid::Ulid;
use user_api_keys::{
    api_key::ApiKey,
    auth::{Auth, TrustedCaller},
    aws::Aws,
    config::{Clerk, ClerkKeys, Config, ConfigError},
    https::Https,
    key_table::{KeyLister, TableError},
    mode::Mode,
    provider::Provider,
    sealing::{Binding, Opener, Sealer, SealingError},
    user::User,
};

use crate::{chosen_mode::ChosenMode, serve};

/// How long a provider may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How far a clock may be off, as tokens' times are checked.
const CLOCK_S: i64 = 10;
/// A `Date` header.
const HTTP_DATE: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
);
/// The person in whose name the KMS key is tried; no key is saved for them.
const NOBODY: &str = "user_doctor00000000";

/// What `doctor` takes from the command line.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Production mode: the stack on AWS that TABLE_NAME and KMS_KEY_ARN name, with your credentials;
    /// without them the embedded services of --data-dir.
    #[arg(long)]
    production: bool,
    /// What this person has.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Folder of the embedded database and KMS key.
    #[arg(long, env = "USER_API_KEYS_DATA_DIR", default_value = ".local")]
    data_dir: PathBuf,
    /// Port of the server.
    #[arg(long, env = "USER_API_KEYS_PORT", default_value_t = 8787)]
    port: u16,
    /// Leave out whether the providers can be reached.
    #[arg(long)]
    offline: bool,
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    lines: Vec<String>,
    wrong: usize,
}

impl Findings {
    /// As it should be.
    pub(crate) fn good(&mut self, what: impl std::fmt::Display) {
        self.lines.push(format!("ok     {what}"));
    }

    /// Works, and may surprise.
    pub(crate) fn odd(&mut self, what: impl std::fmt::Display, mend: impl std::fmt::Display) {
        self.lines.push(format!("odd    {what}\n       {mend}"));
    }

    /// Does not work.
    pub(crate) fn wrong(&mut self, what: impl std::fmt::Display, mend: impl std::fmt::Display) {
        self.wrong += 1;
        self.lines.push(format!("WRONG  {what}\n       {mend}"));
    }
}

/// Looks at everything, and prints it.
///
/// # Errors
/// When the terminal is gone.
pub async fn doctor(args: &DoctorArgs) -> std::io::Result<ExitCode> {
    let mut findings = Findings::default();
    look(args, &mut findings).await;
    let mut out = std::io::stdout().lock();
    for line in &findings.lines {
        writeln!(out, "{line}")?;
    }
    match findings.wrong {
        0 => writeln!(out, "nothing is wrong")?,
        n => writeln!(out, "{n} to mend")?,
    }
    out.flush()?;
    Ok(match findings.wrong {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

async fn look(args: &DoctorArgs, findings: &mut Findings) {
    let mut environment = environment();
    let on_aws = args.production
        && ["TABLE_NAME", "KMS_KEY_ARN"]
            .iter()
            .all(|name| environment.contains_key(*name));
    if !on_aws {
        // What the server would take from backend/.env.
        let chosen = ChosenMode::read(false);
        for name in ["DEBUG", "DEPLOY_ENV"] {
            let value = chosen
                .setting(name)
                .flatten()
                .filter(|value| !value.is_empty());
            environment.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    let services = match on_aws {
        true => None,
        false => match data_folder(args, findings).await {
            Some(services) => Some(services),
            None => return settings_without_services(args, &environment, findings),
        },
    };
    let config = match &services {
        Some(services) => serve::config(args.production, services, None, |_| None),
        None => Config::from_env(),
    };
    let Some(config) = settings(config, findings) else {
        return;
    };
    mode(&config, args, &environment, findings);
    clerk(&config, findings).await;
    if config.mode == Mode::Local {
        files::look(&config, &environment, findings);
    }
    let aws = match &services {
        Some(services) => Aws::new(&services.dynamodb, &services.kms),
        None => match Aws::of_operator().await {
            Ok(aws) => aws,
            Err(error) => {
                findings.wrong(error, "name one, or unset it");
                return;
            }
        },
    };
    kms(&config, &aws, findings).await;
    table(&config, &aws, findings).await;
    if let Some(user) = &args.user {
        people::look(user, &config, &aws, findings).await;
    }
    if !on_aws {
        port(args, findings);
    }
    if !args.offline {
        providers(&config, findings).await;
    }
}

/// Every variable that settings are made of and that is set, by what reading them asks for.
fn environment() -> BTreeMap<String, String> {
    let seen = RefCell::new(BTreeMap::new());
    // Whether they are complete is looked at later.
    let _ = Config::from_env_with(|name, value| {
        if let Some(value) = value.clone().filter(|value| !value.is_empty()) {
            seen.borrow_mut().insert(name.to_owned(), value);
        }
        value
    });
    seen.into_inner()
}

async fn data_folder(args: &DoctorArgs, findings: &mut Findings) -> Option<Embedded> {
    let folder = args.data_dir.display();
    if !args.data_dir.exists() {
        findings.good(format_args!(
            "{folder}/ is not there yet; nothing was saved here"
        ));
        let services = Embedded::in_memory().await;
        return services.ok();
    }
    match Embedded::in_folder(&args.data_dir).await {
        Ok(services) => {
            findings.good(format_args!("{folder}/ opens"));
            Some(services)
        }
        Err(error @ StartError::InUse(_)) => {
            findings.odd(
                error,
                "stop the server and ask again: its table and KMS key are left out",
            );
            None
        }
        Err(error) => {
            findings.wrong(error, "no saved key can be opened until then");
            None
        }
    }
}

/// What can be said while the table cannot be looked at.
fn settings_without_services(
    args: &DoctorArgs,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    let chosen = ChosenMode::read(args.production);
    let config = Config::from_env_with(|name, value| match name {
        "TABLE_NAME" => Some("-".to_owned()),
        "KMS_KEY_ARN" => Some("arn:aws:kms:us-east-1:000000000000:key/-".to_owned()),
        "AWS_LAMBDA_FUNCTION_NAME" => None,
        "DEBUG" | "DEPLOY_ENV" => chosen.setting(name)?,
        _ => value,
    });
    if let Some(config) = settings(config, findings) {
        mode(&config, args, environment, findings);
        if config.mode == Mode::Local {
            files::look(&config, environment, findings);
        }
    }
}

fn settings(config: Result<Config, ConfigError>, findings: &mut Findings) -> Option<Config> {
    match config {
        Ok(config) => Some(config),
        Err(ConfigError::Incomplete(all)) => {
            for one in all {
                findings.wrong(one, "README.md, Configuration, says what it takes");
            }
            None
        }
        Err(error) => {
            findings.wrong(error, "a function runs in Production mode on AWS");
            None
        }
    }
}

fn mode(
    config: &Config,
    args: &DoctorArgs,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    let is = |name: &str, value: &str| environment.get(name).is_some_and(|v| v == value);
    let stack = environment.get("DEPLOY_ENV");
    match config.mode {
        Mode::Local if is("DEBUG", "true") && stack.is_some_and(|stack| stack != "local") => findings.odd(
            "Local mode, since DEBUG is true, although DEPLOY_ENV names a stack",
            "for Production mode take DEBUG away; keys are shared by everybody on this machine now",
        ),
        Mode::Local => findings.good(
            "Local mode, since DEPLOY_ENV names no stack: keys come from the environment, then .env, \
             then the table",
        ),
        Mode::Production if args.production && stack.is_none() => findings.good(format_args!(
            "Production mode, since --production says so; the stack is called {}",
            config.deploy_env
        )),
        Mode::Production => findings.good(format_args!(
            "Production mode, stack {}: every key comes from the table, never from the environment or .env",
            config.deploy_env
        )),
    }
}

async fn clerk(config: &Config, findings: &mut Findings) {
    let Some(clerk) = &config.clerk else {
        return findings.good("nobody signs in: one developer, without Clerk");
    };
    match Auth::new(config.mode, Some(clerk)) {
        Ok(_) => findings.good(format_args!(
            "Clerk's keys are read; issuer {}",
            clerk.issuer
        )),
        Err(error) => findings.wrong(
            error,
            "copy it from Clerk's dashboard, API keys, JWKS Public Key; line breaks as \\n",
        ),
    }
    parties(clerk, config, findings);
    if let ClerkKeys::Jwks(url) = &clerk.keys {
        match reach(url).await {
            Some(_) => findings.good("CLERK_JWKS_URL answers"),
            None => findings.wrong(
                "CLERK_JWKS_URL does not answer",
                "is it the JWKS URL of Clerk's dashboard? CLERK_JWT_KEY needs no network",
            ),
        }
    }
}

fn parties(clerk: &Clerk, config: &Config, findings: &mut Findings) {
    let missing = |from: &[String], of: &[String]| -> Vec<String> {
        from.iter()
            .filter(|origin| !of.contains(origin))
            .cloned()
            .collect()
    };
    let refused = missing(&config.allowed_origins, &clerk.authorized_parties);
    if !refused.is_empty() && config.mode == Mode::Production {
        findings.odd(
            format_args!("people at {} may call, and their tokens are refused", refused.join(", ")),
            "put these origins into CLERK_AUTHORIZED_PARTIES, too, or take them off ALLOWED_ORIGINS",
        );
    }
    if config.mode == Mode::Production && config.allowed_origins.is_empty() {
        findings.wrong(
            "ALLOWED_ORIGINS is empty, so no browser may call",
            "set it to the front end's origin, such as https://app.example.com",
        );
    }
}

/// The person with this id, whom the operator asks about.
fn person(id: &str, config: &Config) -> Option<User> {
    let mut config = config.clone();
    config.open_keys_trust_caller = true;
    TrustedCaller::new(&config)?.user(id).ok()
}

/// Seals and opens a text that is no key; nothing is stored.
async fn kms(config: &Config, aws: &Aws, findings: &mut Findings) {
    let user = person(NOBODY, config);
    let key = ApiKey::parse(SecretString::from("doctors-trial-of-kms"));
    let (Some(user), Ok(key)) = (user, key) else {
        return;
    };
    let kid = Ulid::new().to_string();
    let binding = Binding {
        user: user.id(),
        provider: Provider::Gemini,
        kid: &kid,
    };
    let sealed = Sealer::new(aws.kms.clone(), config)
        .seal(&key, &binding)
        .await;
    let opened = match &sealed {
        Ok(sealed) => Opener::new(aws.kms.clone(), config, Provider::ALL)
            .open(sealed, &binding)
            .await
            .err(),
        Err(_) => None,
    };
    match sealed.err().or(opened) {
        None => findings.good("the KMS key seals and opens"),
        Some(SealingError::KeyRefused("access denied")) => findings.odd(
            "KMS does not let you use the KMS key",
            "that is as it should be on AWS: its policy lets the functions' roles, and nobody else",
        ),
        Some(error) => findings.wrong(error, "docs/operations.md, sealing failures"),
    }
}

async fn table(config: &Config, aws: &Aws, findings: &mut Findings) {
    let lister = KeyLister::new(aws.dynamodb.clone(), config.table_name.clone());
    let Some(user) = person(NOBODY, config) else {
        return;
    };
    match lister.list(&user).await {
        Ok(_) => findings.good("the table answers"),
        Err(error) => findings.wrong(format_args!("the table: {error}"), table_mend(&error)),
    }
}

fn table_mend(error: &TableError) -> &'static str {
    match error {
        TableError::Unavailable(code) if code == "ResourceNotFoundException" => {
            "TABLE_NAME names no table of this account and region"
        }
        TableError::Unavailable(code) if code.contains("AccessDenied") => {
            "your credentials may not Query it"
        }
        TableError::Unavailable(code) if code == "no answer" => {
            "are there credentials and a region? Behind a proxy, set NO_PROXY=127.0.0.1"
        }
        _ => "docs/operations.md says more",
    }
}

fn port(args: &DoctorArgs, findings: &mut Findings) {
    if args.port != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).is_err() {
        findings.odd(
            format_args!("something listens on port {}", args.port),
            "if it is not this server, choose another with --port",
        );
    }
}

/// Whether anything answers there, and by how many seconds its clock is ahead of this one.
async fn reach(url: &str) -> Option<Option<i64>> {
    // Whatever it answers, it is there.
    let answer = Https::new()
        .ok()?
        .get(url)
        .timeout(PATIENCE)
        .send()
        .await
        .ok()?;
    let date = answer
        .headers()
        .get("date")
        .and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| PrimitiveDateTime::parse(date, HTTP_DATE).ok());
    Some(date.map(|date| (date.assume_utc() - OffsetDateTime::now_utc()).whole_seconds()))
}

/// Tokens live a minute, and AWS takes no signature that is minutes off.
fn clock(ahead_s: &[i64], findings: &mut Findings) {
    let mut ahead_s = ahead_s.to_vec();
    ahead_s.sort_unstable();
    // Of several the middle one: one of them may be wrong itself.
    match ahead_s.get(ahead_s.len() / 2) {
        Some(off) if off.abs() > CLOCK_S => findings.wrong(
            format_args!("this machine's clock is {} s off", off.abs()),
            "set it (timedatectl set-ntp true): tokens count as expired or not yet valid until then",
        ),
        Some(_) => findings.good("the clock is right"),
        None => {}
    }
}

async fn providers(config: &Config, findings: &mut Findings) {
    let asked = Provider::ALL
        .iter()
        .filter(|provider| !config.base_url(**provider).is_empty());
    let answers = stream::iter(asked)
        .map(async |provider| (provider, reach(config.base_url(*provider)).await))
        .buffered(Provider::ALL.len());
    let answers: Vec<_> = answers.collect().await;
    let ahead: Vec<_> = answers.iter().filter_map(|(_, there)| (*there)?).collect();
    clock(&ahead, findings);
    if answers.iter().all(|(_, there)| there.is_none()) {
        return findings.wrong(
            "no provider can be reached",
            "is there a way to the internet? --offline leaves this out",
        );
    }
    for (provider, there) in answers {
        let (name, url) = (provider.facts().title, config.base_url(*provider));
        match there {
            Some(_) => findings.good(format_args!("{name} can be reached")),
            None => findings.wrong(
                format_args!("{name} cannot be reached at {url}"),
                "its page says whether it is down; --offline leaves this out",
            ),
        }
    }
}
