//! Which mode a command on this machine runs in, and why.
//!
//! `DEBUG` and `DEPLOY_ENV` come from the environment; what the environment does not have, from
//! `backend/.env`, where the app's back end has them.

use std::path::Path;

use user_api_keys::{config::variable, dotenv::DotenvFile};

/// The stack's name for `--production` when `DEPLOY_ENV` gives none.
const PRODUCTION: &str = "production";

/// One variable: its value and where it stands.
struct Found {
    value: String,
    place: String,
}

/// What decides about the mode.
pub(crate) struct ChosenMode {
    production: bool,
    debug: Option<Found>,
    deploy_env: Option<Found>,
}

impl ChosenMode {
    /// Of this process. `production` comes before everything else.
    pub(crate) fn read(production: bool) -> Self {
        let file = variable("BACKEND_ENV_FILE").filter(|path| !path.is_empty());
        let file = file.unwrap_or_else(|| "backend/.env".to_owned());
        Self::of(production, variable, Path::new(&file))
    }

    fn of(production: bool, environment: impl Fn(&str) -> Option<String>, file: &Path) -> Self {
        let backend = DotenvFile::creating_folder(file.to_owned());
        let find = |name: &str| {
            let found = |value, place| Found { value, place };
            if let Some(value) = environment(name) {
                return Some(found(value, "in the environment".to_owned()));
            }
            // In Local mode a file that cannot be read is in the log as soon as the functions start.
            let value = backend.get(name).ok()??;
            Some(found(value, format!("in {}", file.display())))
        };
        Self {
            production,
            debug: find("DEBUG").filter(|_| !production),
            deploy_env: find("DEPLOY_ENV"),
        }
    }

    /// The setting of this name, if it is one that decides about the mode.
    pub(crate) fn setting(&self, name: &str) -> Option<Option<String>> {
        let value = |found: &Option<Found>| found.as_ref().map(|found| found.value.clone());
        match name {
            "DEBUG" => Some(value(&self.debug)),
            "DEPLOY_ENV" if self.production => Some(Some(
                value(&self.deploy_env)
                    .filter(|stack| !matches!(stack.as_str(), "" | "local"))
                    .unwrap_or_else(|| PRODUCTION.to_owned()),
            )),
            "DEPLOY_ENV" => Some(value(&self.deploy_env)),
            _ => None,
        }
    }

    /// What decided, for the person who started it.
    pub(crate) fn why(&self) -> String {
        if self.production {
            return "--production".to_owned();
        }
        match (&self.debug, &self.deploy_env) {
            (Some(Found { value, place }), _) if value == "true" => format!("DEBUG=true {place}"),
            (_, Some(Found { value, place })) => format!("DEPLOY_ENV={value} {place}"),
            (_, None) => "DEPLOY_ENV is not set".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use user_api_keys::mode::Mode;

    use super::*;

    /// Mode, stack and reason for this environment and this file.
    fn chosen(
        production: bool,
        environment: &[(&str, &str)],
        file: &str,
    ) -> (Mode, Option<String>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, file).unwrap();
        let lookup = |name: &str| {
            let found = environment.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let chosen = ChosenMode::of(production, lookup, &path);
        let debug = chosen.setting("DEBUG").unwrap();
        let stack = chosen.setting("DEPLOY_ENV").unwrap();
        let why = chosen.why().replace(&path.display().to_string(), "FILE");
        (Mode::decide(debug.as_deref(), stack.as_deref()), stack, why)
    }

    #[test]
    fn the_file_says_what_the_environment_does_not() {
        for (environment, file, mode, why) in [
            (&[][..], "", Mode::Local, "DEPLOY_ENV is not set"),
            (&[], "DEBUG=true\n", Mode::Local, "DEBUG=true in FILE"),
            (
                &[],
                "DEPLOY_ENV=render\n",
                Mode::Production,
                "DEPLOY_ENV=render in FILE",
            ),
            (
                &[("DEPLOY_ENV", "render")],
                "DEBUG=true\n",
                Mode::Local,
                "DEBUG=true in FILE",
            ),
            (
                &[("DEBUG", "false")],
                "DEBUG=true\nDEPLOY_ENV=render\n",
                Mode::Production,
                "DEPLOY_ENV=render in FILE",
            ),
            (
                &[("DEPLOY_ENV", "local")],
                "DEPLOY_ENV=render\n",
                Mode::Local,
                "DEPLOY_ENV=local in the environment",
            ),
            (
                &[("DEBUG", "")],
                "DEBUG=true\nDEPLOY_ENV=render\n",
                Mode::Production,
                "DEPLOY_ENV=render in FILE",
            ),
        ] {
            let (found, _, reason) = chosen(false, environment, file);
            assert_eq!(
                (found, reason.as_str()),
                (mode, why),
                "{environment:?} {file}"
            );
        }
    }

    #[test]
    fn production_on_the_command_line_comes_before_both() {
        let (mode, stack, why) = chosen(true, &[("DEBUG", "true")], "DEBUG=true\n");
        assert_eq!(
            (mode, stack.as_deref()),
            (Mode::Production, Some(PRODUCTION))
        );
        assert_eq!(why, "--production");
        let (_, stack, _) = chosen(true, &[], "DEPLOY_ENV=render\n");
        assert_eq!(
            stack.as_deref(),
            Some("render"),
            "its ciphertexts have that name"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_decides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let chosen = ChosenMode::of(false, |_| None, folder.path());
        assert_eq!(chosen.why(), "DEPLOY_ENV is not set");
    }
}
