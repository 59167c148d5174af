//! The stack whose people an operator's command is about: on AWS, or in a data folder.

use std::path::PathBuf;

use clap::Args;
use embedded::{Embedded, StartError};
use user_api_keys::{
    auth::TrustedCaller,
    aws::Aws,
    config::{Config, ConfigError},
    mode::Mode,
    tls::TrustError,
    user::User,
};

use crate::{serve, token};

/// Where the stack is.
#[derive(Debug, Clone, Args)]
pub(crate) struct StackArgs {
    /// The stack on AWS that TABLE_NAME, KMS_KEY_ARN and DEPLOY_ENV name, with your credentials; see
    /// docs/migration.md for the role that they need.
    #[arg(long)]
    aws: bool,
    /// Without --aws: folder of the embedded database and KMS key; no server may be running on it.
    #[arg(long, env = "USER_API_KEYS_DATA_DIR", default_value = ".local")]
    data_dir: PathBuf,
}

/// Why it cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// Embedded DynamoDB or KMS.
    #[error(transparent)]
    Embedded(#[from] StartError),
    /// Settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Nobody to trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Local mode, which has one developer and no people.
    #[error("set DEPLOY_ENV to the stack's name: this is about people who sign in")]
    Mode,
    /// Not a person.
    #[error("no Clerk user id: user_ and 8 to 64 letters or digits")]
    User,
}

/// Settings of a command that nobody calls, so that nobody has to sign in.
pub(crate) fn unattended(name: &str) -> Option<String> {
    let value = match name {
        "CLERK_JWT_KEY" => token::PUBLIC_KEY,
        "CLERK_ISSUER" => token::ISSUER,
        "CLERK_AUTHORIZED_PARTIES" => token::PARTY,
        // In Local mode these are settings for sign-in, too; nobody signs in here either.
        "LOCAL_USER_ID" => "user_nobodyhere",
        "OPEN_KEYS_TRUST_CALLER" => "true",
        _ => return None,
    };
    Some(value.to_owned())
}

/// What a stack on embedded services and a stand-in at `base_url` needs of the environment, with the test
/// Clerk instance; for those who must not read the process's own. Its name and its limits are the caller's.
#[must_use]
pub fn embedded_setting(name: &str, services: &Embedded, base_url: &str) -> Option<String> {
    let value = match name {
        "TABLE_NAME" => &services.table_name,
        "KMS_KEY_ARN" => &services.kms_key_arn,
        "CLERK_JWT_KEY" => token::PUBLIC_KEY,
        "CLERK_ISSUER" => token::ISSUER,
        "CLERK_AUTHORIZED_PARTIES" => token::PARTY,
        name if name.ends_with("_BASE_URL") => base_url,
        _ => return None,
    };
    Some(value.to_owned())
}

/// An open stack.
pub(crate) struct Stack {
    pub(crate) config: Config,
    pub(crate) aws: Aws,
    trusted: TrustedCaller,
    /// Ends with this.
    _services: Option<Embedded>,
}

impl Stack {
    pub(crate) async fn open(args: &StackArgs) -> Result<Self, StackError> {
        let (config, aws, services) = if args.aws {
            let config = Config::from_env_with(|name, value| match name {
                "CLERK_JWKS_URL" => None,
                name => unattended(name).or(value),
            })?;
            (config, Aws::of_operator().await?, None)
        } else {
            let services = Embedded::in_folder(&args.data_dir).await?;
            let config = serve::config(true, &services, None, unattended)?;
            let aws = Aws::new(&services.dynamodb, &services.kms);
            (config, aws, Some(services))
        };
        let trusted = TrustedCaller::new(&config).filter(|_| config.mode == Mode::Production);
        Ok(Self {
            trusted: trusted.ok_or(StackError::Mode)?,
            config,
            aws,
            _services: services,
        })
    }

    /// The person with this id.
    pub(crate) fn person(&self, id: &str) -> Result<User, StackError> {
        self.trusted.user(id).map_err(|_| StackError::User)
    }

    pub(crate) fn table(&self) -> String {
        self.config.table_name.clone()
    }
}
