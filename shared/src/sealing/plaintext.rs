//! What KMS encrypts: a key behind the binding it was sealed for.
//!
//! `ReEncrypt` can give a ciphertext another encryption context and never another plaintext, so the
//! plaintext names its owner as well. Byte for byte, in this order:
//!
//! | bytes | content |
//! |---|---|
//! | 1 | [`VERSION`] |
//! | 2 + n | `DEPLOY_ENV` |
//! | 2 + n | user id |
//! | 2 + n | provider |
//! | 2 + n | kid |
//! | 2 + n | the key |
//!
//! Each length is in bytes, unsigned, the higher byte first. Nothing follows the key.

use secrecy::SecretString;
use zeroize::Zeroizing;

use super::{Binding, SealingError};
use crate::api_key::ApiKey;

/// First byte of every plaintext. No `kms1` plaintext began with it: those were the key alone, in
/// printable ASCII.
const VERSION: u8 = 2;
/// What KMS `Encrypt` takes at most.
const MAX_BYTES: usize = 4_096;

/// The bytes to encrypt. Reserved as a whole, so that growing leaves no copy of the key behind.
///
/// # Errors
/// [`SealingError::Unexpected`] when KMS would not take so much.
pub(super) fn write(
    deploy_env: &str,
    binding: &Binding<'_>,
    key: &ApiKey,
) -> Result<Zeroizing<Vec<u8>>, SealingError> {
    // EXPOSE: the plaintext KMS encrypts; wiped when it is dropped.
    let key = key.expose();
    let bound = bound(deploy_env, binding);
    let whole = bound.as_ref().map(|bound| bound.len() + 2 + key.len());
    match (bound, length(key), whole) {
        (Some(bound), Some(length), Some(whole)) if whole <= MAX_BYTES => {
            let mut plaintext = Zeroizing::new(Vec::with_capacity(whole));
            plaintext.extend_from_slice(&bound);
            plaintext.extend_from_slice(&length);
            plaintext.extend_from_slice(key.as_bytes());
            Ok(plaintext)
        }
        _ => Err(SealingError::Unexpected("more than KMS encrypts")),
    }
}

/// The key, if it was sealed for exactly this binding.
///
/// # Errors
/// [`SealingError::InnerBinding`] for any other byte, a missing and a trailing one included.
pub(super) fn read(
    plaintext: &Zeroizing<Vec<u8>>,
    deploy_env: &str,
    binding: &Binding<'_>,
) -> Result<ApiKey, SealingError> {
    let bound = bound(deploy_env, binding).ok_or(SealingError::InnerBinding)?;
    let key = plaintext
        .strip_prefix(bound.as_slice())
        .and_then(<[u8]>::split_first_chunk)
        .filter(|(length, key)| usize::from(u16::from_be_bytes(**length)) == key.len())
        .map(|(_, key)| key)
        .ok_or(SealingError::InnerBinding)?;
    let text = str::from_utf8(key).map_err(|_| SealingError::DoesNotOpen("not text"))?;
    ApiKey::parse(SecretString::from(text)).map_err(|_| SealingError::DoesNotOpen("not a key"))
}

/// All that stands before the key; `None` for a part that has no length in two bytes.
fn bound(deploy_env: &str, binding: &Binding<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION];
    for part in [
        deploy_env,
        binding.user.as_str(),
        binding.provider.name(),
        binding.kid,
    ] {
        bytes.extend_from_slice(&length(part)?);
        bytes.extend_from_slice(part.as_bytes());
    }
    Some(bytes)
}

fn length(part: &str) -> Option<[u8; 2]> {
    Some(u16::try_from(part.len()).ok()?.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::{provider::Provider, user::UserId};

    const KID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    fn api_key(text: &str) -> ApiKey {
        ApiKey::parse(SecretString::from(text)).ok().unwrap()
    }

    fn opened(read: Result<ApiKey, SealingError>) -> Option<String> {
        match read {
            // EXPOSE: the test compares it with what was sealed.
            Ok(key) => Some(key.expose().to_owned()),
            Err(SealingError::InnerBinding) => None,
            Err(error) => unreachable!("{error}"),
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let user = UserId::clerk("user_2abcDEF9").unwrap();
        let binding = Binding {
            user: &user,
            provider: Provider::Gemini,
            kid: KID,
        };
        let plaintext = write("prod", &binding, &api_key("AQ.frozen")).unwrap();
        let expected = b"\x02\0\x04prod\0\x0duser_2abcDEF9\0\x06gemini\
            \0\x1a01ARZ3NDEKTSV4RRFFQ69G5FAV\0\x09AQ.frozen";
        assert_eq!(*plaintext, expected);
    }

    #[test]
    fn the_longest_of_everything_fits_and_what_kms_would_refuse_is_not_sent() {
        let user = UserId::clerk(&format!("user_{}", "a".repeat(64))).unwrap();
        let longest = Provider::ALL.iter().max_by_key(|p| p.name().len()).unwrap();
        let binding = Binding {
            user: &user,
            provider: *longest,
            kid: KID,
        };
        let key = api_key(&"k".repeat(crate::api_key::MAX_BYTES));
        // A stack's name has at most 128 characters.
        let deploy_env = "s".repeat(128);
        let plaintext = write(&deploy_env, &binding, &key).unwrap();
        assert!(plaintext.len() <= MAX_BYTES, "{}", plaintext.len());
        for kid in ["k".repeat(MAX_BYTES), "k".repeat(65_536)] {
            let other = Binding {
                kid: &kid,
                ..binding
            };
            let refused = write(&deploy_env, &other, &key).err();
            assert!(matches!(refused, Some(SealingError::Unexpected(_))));
            let refused = read(&plaintext, &deploy_env, &other).err();
            assert!(matches!(refused, Some(SealingError::InnerBinding)));
        }
    }

    #[test]
    fn a_plaintext_of_the_first_form_does_not_open() {
        let user = UserId::clerk("user_2abcDEF9").unwrap();
        let binding = Binding {
            user: &user,
            provider: Provider::Gemini,
            kid: KID,
        };
        for plaintext in ["AQ.the-key-and-nothing-else", "", "\x02"] {
            let plaintext = Zeroizing::new(plaintext.as_bytes().to_vec());
            assert_eq!(opened(read(&plaintext, "prod", &binding)), None);
        }
    }

    prop_compose! {
        fn bindings()(
            deploy_env in "[!-~]{1,128}",
            user in "user_[A-Za-z0-9]{8,64}",
            provider in select(Provider::ALL),
            kid in "[!-~]{1,64}",
        ) -> (String, UserId, Provider, String) {
            (deploy_env, UserId::clerk(&user).unwrap(), provider, kid)
        }
    }

    fn keys() -> impl Strategy<Value = String> {
        "k[0-9A-Za-z._-]{0,1023}".prop_filter("a template's", |text| {
            ApiKey::parse(SecretString::from(text.as_str())).is_ok()
        })
    }

    proptest! {
        // Each case of the last tries every byte.
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_sealed_opens_for_its_own_binding(
            (deploy_env, user, provider, kid) in bindings(),
            key in keys(),
        ) {
            let binding = Binding { user: &user, provider, kid: &kid };
            let plaintext = write(&deploy_env, &binding, &api_key(&key)).unwrap();
            prop_assert_eq!(opened(read(&plaintext, &deploy_env, &binding)), Some(key));
        }

        #[test]
        fn what_is_sealed_opens_for_no_other_binding(
            (deploy_env, user, provider, kid) in bindings(),
            (other_env, other_user, other_provider, other_kid) in bindings(),
            key in keys(),
        ) {
            let own = Binding { user: &user, provider, kid: &kid };
            let plaintext = write(&deploy_env, &own, &api_key(&key)).unwrap();
            let mut others = vec![
                (&other_env, own),
                (&deploy_env, Binding { user: &other_user, ..own }),
                (&deploy_env, Binding { kid: &other_kid, ..own }),
                (&other_env, Binding { user: &other_user, provider: other_provider, kid: &other_kid }),
            ];
            if other_provider != provider {
                others.push((&deploy_env, Binding { provider: other_provider, ..own }));
            }
            for (deploy_env, binding) in others {
                prop_assert_eq!(opened(read(&plaintext, deploy_env, &binding)), None);
            }
        }

        /// Of the version, of each length and of each part, to any other value; a byte less and a byte
        /// more at every place.
        #[test]
        fn no_byte_of_the_binding_may_differ(
            (deploy_env, user, provider, kid) in bindings(),
            key in keys(),
            other in any::<u8>(),
        ) {
            let binding = Binding { user: &user, provider, kid: &kid };
            let plaintext = write(&deploy_env, &binding, &api_key(&key)).unwrap();
            // Then the key's length, and its bytes, which are KMS' to protect.
            let bound = plaintext.len() - key.len() - 2;
            let changed = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut bytes = plaintext.clone();
                change(&mut bytes);
                opened(read(&bytes, &deploy_env, &binding))
            };
            for at in 0..bound {
                prop_assert_eq!(changed(&|bytes| drop(bytes.drain(at..=at))), None, "{}", at);
                prop_assert_eq!(changed(&|bytes| bytes.insert(at, other)), None, "{}", at);
            }
            for at in 0..bound + 2 {
                for value in [other, plaintext[at] ^ 1, plaintext[at] ^ 0x80] {
                    if value != plaintext[at] {
                        prop_assert_eq!(changed(&|bytes| bytes[at] = value), None, "{}", at);
                    }
                }
            }
            for at in 0..plaintext.len() {
                prop_assert_eq!(changed(&|bytes| bytes.truncate(at)), None, "{}", at);
            }
            for more in [&[other][..], &[other; 300]] {
                let mut bytes = plaintext.clone();
                bytes.extend_from_slice(more);
                prop_assert_eq!(opened(read(&bytes, &deploy_env, &binding)), None);
            }
        }
    }
}
