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

    /// Refuses Local mode on a real Lambda, and on what may be one.
    ///
    /// # Errors
    /// [`LocalModeOnLambda`] when one person's keys would be served to everybody.
    pub fn allowed_in(self, place: Place) -> Result<Self, LocalModeOnLambda> {
        match (self, place) {
            (Self::Local, Place::Lambda | Place::PerhapsLambda) => Err(LocalModeOnLambda),
            (mode, _) => Ok(mode),
        }
    }
}

/// Where a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On AWS, whatever variables somebody has set on the function.
    Lambda,
    /// Something that calls itself a function and says neither that it is AWS nor that it is not.
    PerhapsLambda,
    /// An emulator or a test that says so, with `AWS_SAM_LOCAL=true`.
    Emulator,
    /// No function at all.
    Elsewhere,
}

impl Place {
    /// Decides by variables that Lambda reserves: nobody who may call `UpdateFunctionConfiguration` can
    /// set or remove one of them (the list is under "Defined runtime environment variables" in
    /// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>).
    ///
    /// | | AWS | `sam local` 1.170 | its emulator alone | `cargo lambda` 1.9 | ministack 1.5 |
    /// |---|---|---|---|---|---|
    /// | `AWS_LAMBDA_FUNCTION_NAME` | set | set | set | set | set |
    /// | `AWS_LAMBDA_INITIALIZATION_TYPE` | `on-demand`, … | `on-demand` | | | |
    /// | `AWS_EXECUTION_ENV` | `AWS_Lambda_…`, not for `provided.*` | | | | |
    /// | `AWS_LAMBDA_LOG_STREAM_NAME` | `2026/11/25/…[1]0a1b…` | `$LATEST` | `$LATEST` | | a UUID |
    /// | `AWS_SAM_LOCAL` (anybody may set it) | | `true` | | | |
    ///
    /// Sources: that page; `samcli/local/lambdafn/env_vars.py`; the environment that
    /// `aws-lambda-rie-x86_64` of the same package gave to `env`; `cargo-lambda`'s binary, in which the
    /// other names do not occur; `ministack/services/lambda_svc.py`. So AWS is known by what SAM alone
    /// imitates, and SAM by a log stream that AWS never gives.
    pub fn of(lookup: &impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| lookup(name).filter(|value| !value.is_empty());
        let starts_functions = set("AWS_LAMBDA_INITIALIZATION_TYPE").is_some()
            || set("AWS_EXECUTION_ENV").is_some_and(|of| of.starts_with("AWS_Lambda_"));
        let of_emulator = set("AWS_LAMBDA_LOG_STREAM_NAME").as_deref() == Some("$LATEST");
        if starts_functions && !of_emulator {
            return Self::Lambda;
        }
        let says_so = set("AWS_SAM_LOCAL").as_deref() == Some("true");
        match set("AWS_LAMBDA_FUNCTION_NAME").is_some() || starts_functions {
            true if says_so => Self::Emulator,
            true => Self::PerhapsLambda,
            false => Self::Elsewhere,
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

    fn place(set: &[(&str, &str)]) -> Place {
        Place::of(&|name: &str| {
            let found = set.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const NAME: (&str, &str) = ("AWS_LAMBDA_FUNCTION_NAME", "save-keys");
    const STARTED: (&str, &str) = ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand");
    const STREAM: (&str, &str) = (
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "2026/11/25/[$LATEST]0123456789abcdef0123456789abcdef",
    );
    const EMULATED: (&str, &str) = ("AWS_LAMBDA_LOG_STREAM_NAME", "$LATEST");
    const SAM: (&str, &str) = ("AWS_SAM_LOCAL", "true");

    #[test]
    fn aws_is_known_by_what_nobody_can_set_or_remove() {
        for set in [
            &[NAME, STARTED, STREAM][..],
            &[NAME, STARTED, STREAM, SAM],
            // SnapStart has no log stream.
            &[NAME, STARTED, SAM],
            &[
                NAME,
                ("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency"),
                STREAM,
                SAM,
            ],
            &[
                NAME,
                ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023"),
                SAM,
            ],
        ] {
            assert_eq!(place(set), Place::Lambda, "{set:?}");
        }
    }

    #[test]
    fn emulators_are_no_aws() {
        for (set, expected) in [
            // sam local; the emulator alone with and without the mark; cargo lambda; ministack.
            (&[NAME, STARTED, EMULATED, SAM][..], Place::Emulator),
            (&[NAME, EMULATED, SAM], Place::Emulator),
            (&[NAME, EMULATED], Place::PerhapsLambda),
            (&[NAME, SAM], Place::Emulator),
            (&[NAME], Place::PerhapsLambda),
            (
                &[NAME, ("AWS_LAMBDA_LOG_STREAM_NAME", "a-uuid"), SAM],
                Place::Emulator,
            ),
            (&[SAM], Place::Elsewhere),
            (&[("AWS_EXECUTION_ENV", "CloudShell")], Place::Elsewhere),
            (&[], Place::Elsewhere),
        ] {
            assert_eq!(place(set), expected, "{set:?}");
        }
    }

    #[test]
    fn local_mode_on_what_may_be_a_real_lambda_refuses_to_start() {
        for place in [Place::Lambda, Place::PerhapsLambda] {
            assert_eq!(Mode::Local.allowed_in(place), Err(LocalModeOnLambda));
            assert_eq!(Mode::Production.allowed_in(place), Ok(Mode::Production));
        }
        for place in [Place::Emulator, Place::Elsewhere] {
            assert_eq!(Mode::Local.allowed_in(place), Ok(Mode::Local));
        }
    }
}
