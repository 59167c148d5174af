//! Keys of a `.env` file.

use std::{collections::HashSet, path::Path};

use secrecy::SecretString;
use user_api_keys::{
    dotenv::{Assigned, Contents},
    provider::Provider,
};

use super::{
    Found, ImportError,
    report::{Reason, Skipped},
};

/// Every provider's variable, and every other one that ends like a key's; and what is not taken, with
/// its line.
pub(super) fn read(file: &Path, user: &str) -> Result<(Vec<Found>, Skipped), ImportError> {
    let shown = file.display();
    let unreadable = |problem: String| ImportError::File {
        file: file.to_owned(),
        problem,
    };
    let bytes = std::fs::read(file).map_err(|error| unreadable(error.to_string()))?;
    let contents = Contents::parse(bytes).map_err(|error| unreadable(error.to_string()))?;
    let complaints = contents.complaints.into_iter();
    let mut skipped: Skipped = complaints
        .map(|complaint| (format!("{shown}: {complaint}"), Reason::Line))
        .collect();
    let (mut found, mut names) = (Vec::new(), HashSet::new());
    // Of several lines with one name the last counts, as everywhere here.
    for Assigned { name, value, line } in contents.assigned.into_iter().rev() {
        // A byte order mark is not part of what somebody called it.
        let name = name.trim_start_matches('\u{feff}').to_owned();
        let of_name = |provider: &&Provider| provider.facts().env == name;
        let provider = Provider::ALL.iter().find(of_name);
        if provider.is_none() && !name.ends_with("_API_KEY") {
            continue;
        }
        let place = format!("{name}, line {line} of {shown}");
        if !names.insert(name.clone()) {
            skipped.push((place, Reason::Older));
            continue;
        }
        found.push(Found {
            place,
            user: Some(user.to_owned()),
            provider: provider.map_or(name, |provider| provider.name().to_owned()),
            key: SecretString::from(value.unwrap_or_default()),
            saved_at: None,
        });
    }
    Ok((found, skipped))
}
