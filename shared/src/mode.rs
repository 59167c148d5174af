//! Which of the two modes this process runs in, and whether it may.
//!
//! Owns the rule that decides it; must not know what either mode does.

/// Where keys are read from and saved to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One developer on one machine; keys also live in `.env`.
    Local,
    /// Every signed-in person, fully isolated; keys never touch a file.
    Production,
}

/// A function on a real Lambda found itself in Local mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "refusing to start: Local mode on a real Lambda would serve one person's keys to everybody; \
     set DEPLOY_ENV to the stack's name and remove DEBUG=true"
)]
pub struct LocalModeOnLambda;

impl Mode {
    /// Local when `DEBUG` is `true`, or `DEPLOY_ENV` is unset, empty or `local`; Production otherwise.
    #[must_use]
    pub fn decide(debug: Option<&str>, deploy_env: Option<&str>) -> Self {
        match (debug, deploy_env) {
            (Some("true"), _) | (_, None | Some("" | "local")) => Self::Local,
            _ => Self::Production,
        }
    }

    /// Refuses Local mode on a real Lambda.
    ///
    /// `local_runner` is true under `sam local` (`AWS_SAM_LOCAL=true`) or our own local server.
    ///
    /// # Errors
    /// [`LocalModeOnLambda`] when one person's keys would be served to everybody.
    pub fn allowed_here(
        self,
        lambda_function: Option<&str>,
        local_runner: bool,
    ) -> Result<Self, LocalModeOnLambda> {
        match self {
            Self::Local if lambda_function.is_some() && !local_runner => Err(LocalModeOnLambda),
            mode => Ok(mode),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_unless_debug_is_off_and_deploy_env_names_a_stack() {
        for (debug, deploy_env, mode) in [
            (None, None, Mode::Local),
            (None, Some(""), Mode::Local),
            (None, Some("local"), Mode::Local),
            (Some("false"), None, Mode::Local),
            (Some("true"), Some("render"), Mode::Local),
            (Some("false"), Some("render"), Mode::Production),
            (None, Some("render"), Mode::Production),
            (Some(""), Some("prod"), Mode::Production),
            (Some("TRUE"), Some("prod"), Mode::Production),
        ] {
            assert_eq!(
                Mode::decide(debug, deploy_env),
                mode,
                "{debug:?} {deploy_env:?}"
            );
        }
    }

    #[test]
    fn local_mode_on_a_real_lambda_refuses_to_start() {
        assert_eq!(
            Mode::Local.allowed_here(Some("save-keys"), false),
            Err(LocalModeOnLambda)
        );
        assert_eq!(
            Mode::Local.allowed_here(Some("save-keys"), true),
            Ok(Mode::Local)
        );
        assert_eq!(Mode::Local.allowed_here(None, false), Ok(Mode::Local));
        assert_eq!(
            Mode::Production.allowed_here(Some("save-keys"), false),
            Ok(Mode::Production)
        );
    }
}
