//! The developer's `.env` files, and what comes before and after them.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use secrecy::SecretString;
use user_api_keys::{api_key::ApiKey, config::Config, dotenv::DotenvFile, provider::Provider};

use super::Findings;

pub(super) fn look(
    config: &Config,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    let backend = DotenvFile::creating_folder(config.backend_env_file.clone());
    file(&backend, findings);
    for provider in Provider::ALL {
        key(*provider, &backend, environment, findings);
    }
    let frontend = DotenvFile::in_existing_folder(config.frontend_env_file.clone());
    browser(&backend, &frontend, findings);
}

/// Whether it can be read and written, and by whom.
fn file(backend: &DotenvFile, findings: &mut Findings) {
    let path = backend.path();
    let shown = path.display();
    match backend.get("GEMINI_API_KEY") {
        Err(error) => findings.wrong(
            format_args!("{shown}: {error}"),
            "keys are not saved to it and not read from it; mend or move the file",
        ),
        Ok(_) if !path.exists() => match writable(path) {
            true => findings.good(format_args!("{shown} is not there yet; the first save makes it")),
            false => findings.wrong(
                format_args!("{shown} cannot be made"),
                "keys are not saved to it; make its folder yours, or name another file in BACKEND_ENV_FILE",
            ),
        },
        Ok(_) if !writable(path) => findings.wrong(
            format_args!("{shown} or its folder cannot be written"),
            "keys are not saved to it; make both yours (chown), or name another file in BACKEND_ENV_FILE",
        ),
        Ok(_) => {
            let mode = fs::metadata(path).map_or(0, |file| file.permissions().mode());
            match mode & 0o077 {
                0 => findings.good(format_args!("{shown} is read and written")),
                _ => findings.odd(
                    format_args!("{shown} can be read by others on this machine"),
                    format_args!("chmod 600 {shown}"),
                ),
            }
        }
    }
}

/// Whether a file can be put there: its nearest folder that exists takes a new file.
fn writable(path: &Path) -> bool {
    let folder = path
        .ancestors()
        .skip(1)
        .find(|folder| folder.as_os_str().is_empty() || folder.is_dir());
    let folder = folder
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    tempfile::tempfile_in(folder).is_ok()
}

/// Which of a provider's keys is used, if it is not the one people think.
fn key(
    provider: Provider,
    backend: &DotenvFile,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) {
    let name = provider.facts().env;
    let in_file = backend
        .get(name)
        .ok()
        .flatten()
        .filter(|text| !text.is_empty());
    let usable = |text: &str| ApiKey::parse(SecretString::from(text.to_owned()));
    if let Some(Err(rule)) = in_file.as_deref().map(usable) {
        findings.odd(
            format_args!("{name} in {} is no key: {rule}", backend.path().display()),
            "it counts as none, so the table's is used; put the key there, or take the line out",
        );
    }
    let Some(set) = environment.get(name) else {
        return;
    };
    match usable(set) {
        Err(rule) => findings.odd(
            format_args!("{name} in the environment is no key: {rule}"),
            format_args!("it counts as none; unset {name}"),
        ),
        Ok(_) if in_file.as_ref().is_some_and(|text| text != set) => findings.odd(
            format_args!("{name} in the environment is another key than in .env, and the environment's is used"),
            format_args!("unset {name} and start the server again, if .env has the right one"),
        ),
        Ok(_) => findings.good(format_args!("{name} comes from the environment")),
    }
}

/// The browser's copy of the public key.
fn browser(backend: &DotenvFile, frontend: &DotenvFile, findings: &mut Findings) {
    for provider in Provider::ALL {
        let Some(name) = provider.facts().frontend_env else {
            continue;
        };
        let ours = backend.get(provider.facts().env).ok().flatten();
        let theirs = frontend.get(name);
        if let Ok(Some(text)) = &theirs {
            public(*provider, text, name, frontend, findings);
        }
        match (ours, theirs) {
            (_, Err(error)) => findings.wrong(
                format_args!("{}: {error}", frontend.path().display()),
                "the browser does not get its key; mend or move the file",
            ),
            (Some(ours), Ok(Some(theirs))) if ours != theirs => findings.odd(
                format_args!(
                    "{name} in {} is another key than the back end's",
                    frontend.path().display()
                ),
                "save the key once more; it is then written to both",
            ),
            _ => {}
        }
    }
}

/// Whether what every visitor's browser gets is meant for it.
fn public(
    provider: Provider,
    text: &str,
    name: &str,
    frontend: &DotenvFile,
    findings: &mut Findings,
) {
    if let Err(rule) = ApiKey::of(provider, SecretString::from(text.to_owned())) {
        findings.wrong(
            format_args!("{name} in {}: {rule}", frontend.path().display()),
            "every visitor of the front end can read it; take the line out and save the public key",
        );
    }
}
