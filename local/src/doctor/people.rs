//! What one person has, and whether it can be used.

use time::OffsetDateTime;
use user_api_keys::{
    aws::Aws,
    config::Config,
    key_table::{KeyLister, KeyReader, Status},
    mode::Mode,
    provider::Provider,
    sealing::{Binding, Opener, SealingError},
    user::User,
};

use super::{Findings, person};

pub(super) async fn look(user: &str, config: &Config, aws: &Aws, findings: &mut Findings) {
    if config.mode == Mode::Local {
        return findings.odd(
            "in Local mode there is one developer and no other person",
            "--production looks at people",
        );
    }
    let Some(user) = person(user, config) else {
        return findings.wrong(
            "--user is no Clerk user id",
            "it is user_ and 8 to 64 letters or digits, as in Clerk's dashboard, every letter as it stands there",
        );
    };
    let lister = KeyLister::new(aws.dynamodb.clone(), config.table_name.clone());
    let records = match lister.list(&user).await {
        Ok(records) => records,
        Err(error) => {
            return findings.wrong(
                format_args!("the person's rows: {error}"),
                "docs/operations.md",
            );
        }
    };
    if records.is_empty() {
        findings.odd(
            "this person has no key in this stack",
            "is it the right id, and the right stack? A key saved in another stack or in Local mode is not here",
        );
    }
    let now = OffsetDateTime::now_utc();
    for record in records {
        let Some(provider) = record.provider() else {
            continue;
        };
        let name = provider.facts().title;
        let hint = &record.hint;
        if !record.enabled {
            findings.odd(
                format_args!("{name}, …{hint}: paused"),
                "the person can switch it on again",
            );
        } else if record.expired(now) {
            findings.odd(
                format_args!("{name}, …{hint}: expired"),
                "the person saves a new one, or takes the end away",
            );
        } else if record.status == Status::Invalid {
            findings.odd(
                format_args!("{name}, …{hint}: its provider refused it"),
                "the person looks at the provider's page, and saves a new one",
            );
        } else {
            let last = record.last_used_at.as_deref().unwrap_or("never");
            findings.good(format_args!(
                "{name}, …{hint}, {}; last used {last}",
                record.status.as_str()
            ));
        }
        opens(&user, provider, config, aws, findings).await;
    }
}

/// Opens it and forgets it.
async fn opens(
    user: &User,
    provider: Provider,
    config: &Config,
    aws: &Aws,
    findings: &mut Findings,
) {
    let name = provider.facts().title;
    let reader = KeyReader::new(aws.dynamodb.clone(), config.table_name.clone());
    let row = match reader.get(user, provider).await {
        Ok(Some(row)) => row,
        Ok(None) => return,
        Err(error) => {
            return findings.wrong(
                format_args!("{name}: {error}"),
                "the person saves the key anew; find out who wrote the row",
            );
        }
    };
    let binding = Binding {
        user: user.id(),
        provider,
        kid: &row.record.kid,
    };
    match Opener::new(aws.kms.clone(), config, Provider::ALL).open(&row.sealed, &binding).await {
        Ok(_) => {}
        Err(SealingError::KeyRefused("access denied")) => findings.odd(
            format_args!("{name}: KMS does not let you open it"),
            "as it should be on AWS: only the functions' roles may",
        ),
        Err(error @ SealingError::DoesNotOpen(_)) => findings.wrong(
            format_args!("{name}: {error}"),
            "is DEPLOY_ENV the stack's name, and every KMS key on the list? Otherwise somebody moved or changed the row: docs/operations.md",
        ),
        Err(error) => findings.wrong(format_args!("{name}: {error}"), "docs/operations.md, sealing failures"),
    }
}
