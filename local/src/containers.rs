//! A way from containers on this machine to the embedded services and the stand-in, and the settings with
//! which SAM's functions find it.

use std::{
    io::{Error, ErrorKind},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use embedded::{Embedded, StartError, write_private};
use serde_json::{Map, Value, json};
use user_api_keys::provider::Provider;

use crate::{
    server::{self, Callers},
    stand_in::StandIn,
};

/// This machine, for a container.
const MACHINE: &str = "host.docker.internal";
/// The file that `sam local --env-vars` reads.
const FILE: &str = "sam-env.json";
/// What functions must not have from the shell that runs SAM, or from its defaults, besides the providers'
/// keys: whoever calls is the one user, and keys come from the table.
const EMPTY: [&str; 5] = [
    "CLERK_JWT_KEY",
    "CLERK_JWKS_URL",
    "CLERK_ISSUER",
    "CLERK_AUTHORIZED_PARTIES",
    "ALLOWED_MODELS",
];

/// An address that a network outside this machine does not reach: loopback, or of 172.16.0.0/12, where
/// Docker puts its bridges.
///
/// # Errors
/// What to give instead.
pub fn bridge(text: &str) -> Result<Ipv4Addr, String> {
    let address: Ipv4Addr = text.parse().map_err(|_| "not an IPv4 address")?;
    let [a, b, ..] = address.octets();
    let docker = a == 172 && (16..32).contains(&b);
    match address.is_loopback() || docker {
        true => Ok(address),
        false => Err("give the Docker bridge's address (172.17.0.1), or 127.0.0.1".to_owned()),
    }
}

/// Listens at `at`, and beside it for the stand-in, and writes this start's settings for SAM into a file in
/// `folder` that its owner alone can read.
///
/// # Errors
/// When one of the two ports is in use, the address is not this machine's, or the file cannot be written.
pub async fn open(
    services: &Embedded,
    stand_in: Option<&StandIn>,
    at: SocketAddr,
    folder: &Path,
) -> Result<PathBuf, OpenError> {
    let listening = services.listen(at).await?;
    let port = listening.address.port();
    let machine = format!("{MACHINE}:{port}");
    listening.expect(&machine);
    let mut parameters = Map::new();
    for (name, value) in listening.settings(&machine) {
        parameters.insert(name.to_owned(), Value::String(value));
    }
    let keys = Provider::ALL.iter().map(|provider| provider.facts().env);
    let empty = EMPTY.into_iter().chain(keys);
    parameters.extend(empty.map(|name| (name.to_owned(), json!(""))));
    for (name, value) in [
        ("DEPLOY_ENV", "local"),
        (
            "ALLOWED_ORIGINS",
            "http://localhost:3000,http://localhost:5173",
        ),
        ("TABLE_NAME", &services.table_name),
        ("KMS_KEY_ARN", &services.kms_key_arn),
        ("KMS_DECRYPT_KEY_ARNS", &services.kms_decrypt_key_arns()),
    ] {
        parameters.insert(name.to_owned(), json!(value));
    }
    if let Some(stand_in) = stand_in {
        let beside = port
            .checked_add(1)
            .ok_or_else(|| Error::from(ErrorKind::AddrNotAvailable))?;
        let beside = SocketAddr::new(at.ip(), beside);
        let beside = server::spawn(beside, Callers::Anybody, stand_in.router()).await?;
        let url = format!("http://{MACHINE}:{}{}", beside.port(), stand_in.path());
        for provider in Provider::ALL {
            parameters.insert(provider.facts().base_url_env.to_owned(), json!(url));
        }
    }
    let text = format!("{:#}\n", json!({"Parameters": parameters}));
    Ok(write_private(folder, FILE, text.as_bytes())?)
}

/// Why containers find nothing.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The ports.
    #[error(
        "cannot listen for containers: {0}; is it the Docker bridge's address? See --sam and --sam-port"
    )]
    Listen(#[from] std::io::Error),
    /// The file.
    #[error(transparent)]
    File(#[from] StartError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_services_are_never_opened_to_a_network() {
        for address in ["127.0.0.1", "172.17.0.1", "172.31.0.1"] {
            assert!(bridge(address).is_ok(), "{address}");
        }
        for address in [
            "0.0.0.0",
            "192.168.1.5",
            "10.0.0.1",
            "172.32.0.1",
            "8.8.8.8",
            "::1",
            "x",
        ] {
            assert!(bridge(address).is_err(), "{address}");
        }
    }
}
