//! The developer's `.env` files, and what comes before and after them.

use std::collections::BTreeMap;

use secrecy::SecretString;
use user_api_keys::{
    api_key::ApiKey,
    config::Config,
    developer_keys::{self, tidied},
    dotenv::DotenvFile,
    provider::Provider,
};

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
    match backend.contents() {
        Err(error) => {
            return findings.wrong(
                format_args!("{shown}: {error}"),
                "keys are not saved to it and not read from it; mend or move the file",
            );
        }
        Ok(contents) => {
            for complaint in contents.complaints {
                let mend =
                    "python-dotenv does not read it either; mend the line, the others are read";
                findings.odd(format_args!("{shown}: {complaint}"), mend);
            }
        }
    }
    left_behind(backend, findings);
    match (backend.could_write(), path.exists()) {
        (Ok(()), false) => findings.good(format_args!(
            "{shown} is not there yet; the first save makes it"
        )),
        (Err(error), _) => findings.wrong(
            format_args!("{shown} cannot be written: {error}"),
            "keys are not saved to it; make it and its folder yours (chown), or name another file in BACKEND_ENV_FILE",
        ),
        (Ok(()), true) if backend.others_read() => findings.odd(
            format_args!("{shown} can be read by others on this machine"),
            format_args!("chmod 600 {shown}"),
        ),
        (Ok(()), true) => findings.good(format_args!("{shown} is read and written")),
    }
}

/// Files with keys that nobody needs.
fn left_behind(file: &DotenvFile, findings: &mut Findings) {
    let ours: Vec<_> = developer_keys::names().collect();
    for left in file.left_behind(&ours).unwrap_or_default() {
        findings.odd(
            format_args!("{}: a save that was killed left it", left.display()),
            "it may hold keys; the next start of the server takes it away",
        );
    }
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
    let usable = |text: &str| ApiKey::parse(SecretString::from(tidied(text).to_owned()));
    if let Some(text) = &in_file {
        let shown = backend.path().display();
        if let Err(rule) = usable(text) {
            findings.odd(
                format_args!("{name} in {shown} is no key: {rule}"),
                "it counts as none, so the table's is used; put the key there, or take the line out",
            );
        } else if text.contains("${") {
            findings.odd(
                format_args!("{name} in {shown} holds ${{"),
                "python-dotenv's load_dotenv puts a variable in its place, and this server does not",
            );
        }
    }
    let Some(set) = environment.get(name) else {
        return;
    };
    match usable(set) {
        Err(rule) => findings.odd(
            format_args!("{name} in the environment is no key: {rule}"),
            format_args!("it counts as none; unset {name}"),
        ),
        Ok(_) if in_file.as_ref().is_some_and(|text| tidied(text) != tidied(set)) => findings.odd(
            format_args!("{name} in the environment is another key than in .env, and the environment's is used"),
            format_args!("unset {name} and start the server again, if .env has the right one"),
        ),
        Ok(_) if tidied(set) != set => findings.odd(
            format_args!("{name} in the environment has white space or quotes around it"),
            "it is used without them, and other programs may not do so; set it again without",
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
