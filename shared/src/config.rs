//! Everything read from the environment, once, at start.
//!
//! Owns names and defaults of variables; nothing else in the code base reads the environment.

use std::path::PathBuf;

use crate::mode::{LocalModeOnLambda, Mode};

/// Settings of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DEBUG` and `DEPLOY_ENV`.
    pub mode: Mode,
    /// `DEPLOY_ENV`, or `local`: names the stack for life, bound into every ciphertext.
    pub deploy_env: String,
    /// `TABLE_NAME`.
    pub table_name: String,
    /// `KMS_KEY_ARN`: seals.
    pub kms_key_arn: KeyArn,
    /// `KMS_DECRYPT_KEY_ARNS`, comma-separated: may open, besides `KMS_KEY_ARN`.
    pub kms_decrypt_key_arns: Vec<KeyArn>,
    /// How callers are identified; always there in Production.
    pub clerk: Option<Clerk>,
    /// `BACKEND_ENV_FILE`.
    pub backend_env_file: PathBuf,
    /// `FRONTEND_ENV_FILE`.
    pub frontend_env_file: PathBuf,
}

/// What a session token must match.
#[derive(Debug, Clone)]
pub struct Clerk {
    /// `CLERK_JWT_KEY`: PEM public key.
    pub jwt_key: String,
    /// `CLERK_ISSUER`.
    pub issuer: String,
    /// `CLERK_AUTHORIZED_PARTIES`, comma-separated origins.
    pub authorized_parties: Vec<String>,
}

/// ARN of a KMS key, never an alias.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyArn(String);

impl KeyArn {
    /// Accepts `arn:<partition>:kms:<region>:<account>:key/<id>`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", _, "kms", region, account, key]
                if !region.is_empty()
                    && account.len() == 12
                    && account.bytes().all(|b| b.is_ascii_digit())
                    && key.strip_prefix("key/").is_some_and(|id| !id.is_empty()) =>
            {
                Some(Self(text.to_owned()))
            }
            _ => None,
        }
    }

    /// The ARN as KMS writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Everything that is missing or wrong, one line each; values are never shown.
    #[error("configuration is incomplete:\n  {}", .0.join("\n  "))]
    Incomplete(Vec<String>),
    /// Local mode where it must not be.
    #[error(transparent)]
    Mode(#[from] LocalModeOnLambda),
}

impl Config {
    /// Reads the process environment.
    ///
    /// # Errors
    /// All that is missing or wrong, in one message.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// Reads settings from `lookup`, which tests fill without touching the process.
    ///
    /// # Errors
    /// All that is missing or wrong, in one message.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mode = Mode::decide(lookup("DEBUG").as_deref(), lookup("DEPLOY_ENV").as_deref())
            .allowed_here(
                lookup("AWS_LAMBDA_FUNCTION_NAME").as_deref(),
                lookup("AWS_SAM_LOCAL").as_deref() == Some("true"),
            )?;
        let mut reader = Reader {
            lookup,
            wrong: Vec::new(),
        };
        let table_name = reader.required("TABLE_NAME", "the DynamoDB table");
        let kms_key_arn = reader.key_arn("KMS_KEY_ARN");
        let kms_decrypt_key_arns = reader.key_arns("KMS_DECRYPT_KEY_ARNS");
        let clerk = reader.clerk(mode);
        let path = |value: Option<String>, default: &str| {
            PathBuf::from(value.unwrap_or_else(|| default.to_owned()))
        };
        let backend_env_file = path(reader.optional("BACKEND_ENV_FILE"), "backend/.env");
        let frontend_env_file = path(reader.optional("FRONTEND_ENV_FILE"), "frontend/.env");
        let deploy_env = reader
            .optional("DEPLOY_ENV")
            .unwrap_or_else(|| "local".to_owned());
        match (table_name, kms_key_arn, reader.wrong) {
            (Some(table_name), Some(kms_key_arn), wrong) if wrong.is_empty() => Ok(Self {
                mode,
                deploy_env,
                table_name,
                kms_key_arn,
                kms_decrypt_key_arns,
                clerk,
                backend_env_file,
                frontend_env_file,
            }),
            (_, _, wrong) => Err(ConfigError::Incomplete(wrong)),
        }
    }
}

struct Reader<F> {
    lookup: F,
    wrong: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn optional(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &str, what: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.wrong.push(format!("{name} is missing: {what}"));
        }
        value
    }

    fn key_arn(&mut self, name: &str) -> Option<KeyArn> {
        let text = self.required(name, "the ARN of the KMS key that seals")?;
        self.checked_arn(name, &text)
    }

    fn key_arns(&mut self, name: &str) -> Vec<KeyArn> {
        let list = self.optional(name).unwrap_or_default();
        comma_list(&list)
            .iter()
            .filter_map(|text| self.checked_arn(name, text))
            .collect()
    }

    fn checked_arn(&mut self, name: &str, text: &str) -> Option<KeyArn> {
        let arn = KeyArn::parse(text);
        if arn.is_none() {
            self.wrong.push(format!(
                "{name} is not the ARN of a KMS key (an alias or a bare id will not do)"
            ));
        }
        arn
    }

    fn clerk(&mut self, mode: Mode) -> Option<Clerk> {
        if mode == Mode::Local && self.optional("CLERK_JWT_KEY").is_none() {
            return None;
        }
        let jwt_key = self.required("CLERK_JWT_KEY", "the PEM public key of the Clerk instance");
        let issuer = self.required("CLERK_ISSUER", "the Clerk Frontend API URL");
        let parties = self.required(
            "CLERK_AUTHORIZED_PARTIES",
            "origins that may hold tokens, comma-separated",
        );
        Some(Clerk {
            jwt_key: jwt_key?.replace("\\n", "\n"),
            issuer: issuer?,
            authorized_parties: comma_list(&parties?),
        })
    }
}

fn comma_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:us-east-1:000000000000:key/0b1c";

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| {
            pairs
                .iter()
                .find(|(k, _)| *k == name)
                .map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn a_production_start_names_everything_that_is_missing_or_wrong_at_once() {
        let error = read(&[("DEPLOY_ENV", "prod"), ("KMS_KEY_ARN", "alias/mine")])
            .err()
            .map(|e| e.to_string());
        let message = error.unwrap_or_default();
        for name in [
            "TABLE_NAME",
            "KMS_KEY_ARN",
            "CLERK_JWT_KEY",
            "CLERK_ISSUER",
            "CLERK_AUTHORIZED_PARTIES",
        ] {
            assert!(message.contains(name), "{name} not in {message}");
        }
        assert!(!message.contains("alias/mine"), "a value was shown");
    }

    #[test]
    fn local_mode_needs_no_clerk() {
        let config = read(&[("TABLE_NAME", "t"), ("KMS_KEY_ARN", ARN)]);
        assert!(
            config.is_ok_and(|c| c.mode == Mode::Local
                && c.clerk.is_none()
                && c.deploy_env == "local")
        );
    }

    #[test]
    fn local_mode_on_a_real_lambda_is_a_start_up_error_but_not_under_sam_local() {
        let real = [
            ("AWS_LAMBDA_FUNCTION_NAME", "save-keys"),
            ("TABLE_NAME", "t"),
            ("KMS_KEY_ARN", ARN),
        ];
        assert!(matches!(read(&real), Err(ConfigError::Mode(_))));
        let mut sam = real.to_vec();
        sam.push(("AWS_SAM_LOCAL", "true"));
        assert!(read(&sam).is_ok());
    }

    #[test]
    fn only_key_arns_are_key_arns() {
        assert!(KeyArn::parse(ARN).is_some());
        for text in [
            "",
            "0b1c",
            "alias/x",
            "arn:aws:kms:us-east-1:000000000000:alias/x",
            "arn:aws:kms::000000000000:key/x",
            "arn:aws:kms:us-east-1:1:key/x",
            "arn:aws:kms:us-east-1:000000000000:key/",
        ] {
            assert!(KeyArn::parse(text).is_none(), "{text}");
        }
    }
}
