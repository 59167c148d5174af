//! Keys of a `.env` file.

use std::path::Path;

use secrecy::SecretString;
use user_api_keys::provider::Provider;

use super::{Found, ImportError};

/// Every provider's variable, and every other one that ends like a key's.
pub(super) fn read(file: &Path, user: &str) -> Result<Vec<Found>, ImportError> {
    // Its errors repeat the line.
    let unreadable = |problem: &str| ImportError::File {
        file: file.to_owned(),
        problem: problem.to_owned(),
    };
    let lines =
        dotenvy::from_path_iter(file).map_err(|_| unreadable("no such file, or no right to"))?;
    let mut found = Vec::new();
    for line in lines {
        let (name, value) = line.map_err(|_| unreadable("a line is not NAME=value"))?;
        let provider = Provider::ALL
            .iter()
            .find(|provider| provider.facts().env == name);
        if provider.is_none() && !name.ends_with("_API_KEY") {
            continue;
        }
        found.push(Found {
            place: format!("{name} of {}", file.display()),
            user: Some(user.to_owned()),
            provider: provider.map_or(name, |provider| provider.name().to_owned()),
            key: SecretString::from(value),
            saved_at: None,
        });
    }
    // Of two lines with one name the last counts, as everywhere here.
    found.reverse();
    Ok(found)
}
