//! What a session token must say, beyond its signature.
//!
//! Stricter than Clerk's own verifier, never looser. Sources: RFC 7515 §4.1 (header), RFC 7519 §4.1
//! (claims), RFC 8725 (what attackers do with both).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use crate::{
    config::Clerk,
    user::{Actor, User, UserId},
};

/// Longest token, in characters.
const MAX_CHARS: usize = 8_192;
/// Clerk's documented clock tolerance.
const LEEWAY_S: f64 = 5.0;
/// Longest time between `iat` and `exp`.
const LIFETIME_MAX_S: f64 = 24.0 * 3_600.0;
/// Clerk's category of session tokens; templates and machine tokens have others.
const SESSION_CATEGORY: &str = "cl_B7d4PD111AAA";

/// A JSON object in which no name stands twice, at any depth: which of the two counts is a matter of
/// the parser, so a token that passes one and means another elsewhere passes nowhere.
pub(super) struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Unique::deserialize(deserializer)?.0 {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(de::Error::custom("not an object")),
        }
    }
}

/// Any JSON value without duplicate names.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> de::Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON without duplicate names")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unique(value)) = access.next_element()? {
            all.push(value);
        }
        Ok(all.into())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((name, Unique(value))) = access.next_entry()? {
            if map.insert(name, value).is_some() {
                return Err(de::Error::custom("duplicate name"));
            }
        }
        Ok(map.into())
    }
}

impl Object {
    /// Absent, or exactly this text.
    fn absent_or(&self, name: &str, text: &str) -> bool {
        self.0.get(name).is_none_or(|value| value == text)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    fn seconds(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }
}

/// Whether the text has a token's form: three base64url parts and nothing else.
pub(super) fn has_form(token: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let mut parts = token.split('.');
    token.len() <= MAX_CHARS
        && token.bytes().all(plain)
        && parts.clone().count() == 3
        && parts.all(|part| !part.is_empty())
}

/// What the header may say; `jku`, `x5u`, `jwk` and `x5c` are never looked at. Returns the `kid`.
pub(super) fn check_header(token: &str) -> Result<Option<String>, &'static str> {
    let encoded = token.split('.').next().unwrap_or_default();
    let bytes = URL_SAFE_NO_PAD
        .decode(encoded)
        .map_err(|_| "header is not base64url")?;
    let header: Object = serde_json::from_slice(&bytes).map_err(|_| "header is not an object")?;
    match () {
        () if header.text("alg") != Some("RS256") => Err("algorithm"),
        () if !header.absent_or("typ", "JWT") => Err("type"),
        () if header.0.contains_key("crit") => Err("critical extension"),
        () if !header.absent_or("cat", SESSION_CATEGORY) => Err("not a session token"),
        () => Ok(header.text("kid").map(str::to_owned)),
    }
}

/// What the claims of a token with a good signature must say at `now_s` (Unix time, seconds).
pub(super) fn check_claims(
    claims: &Object,
    clerk: &Clerk,
    now_s: f64,
) -> Result<User, &'static str> {
    let party = claims.text("azp").ok_or("authorized party is missing")?;
    let (iat, exp) = (claims.seconds("iat"), claims.seconds("exp"));
    let (Some(iat), Some(exp)) = (iat, exp) else {
        return Err("iat or exp is not a number");
    };
    let early = match claims.0.get("nbf") {
        None => false,
        Some(nbf) => nbf.as_f64().ok_or("nbf is not a number")? > now_s + LEEWAY_S,
    };
    let session_id = claims.text("sid").unwrap_or_default();
    match () {
        () if claims.text("iss") != Some(&clerk.issuer) => return Err("issuer"),
        () if !clerk.authorized_parties.iter().any(|p| p == party) => {
            return Err("authorized party");
        }
        () if !audience_matches(claims, clerk) => return Err("audience"),
        () if exp <= now_s - LEEWAY_S => return Err("expired"),
        () if iat > now_s + LEEWAY_S || early => return Err("not yet valid"),
        () if !(0.0..=LIFETIME_MAX_S).contains(&(exp - iat)) => return Err("lifetime"),
        () if !session_id.starts_with("sess_") => return Err("session id"),
        () if !claims.absent_or("sts", "active") => return Err("session is not active"),
        () => {}
    }
    let id = UserId::clerk(claims.text("sub").ok_or("subject is missing")?)
        .map_err(|_| "subject is not a user id")?;
    let actor = claims.0.get("act").map(|act| {
        // The actor may be anybody Clerk lets impersonate; one with another id stays unnamed.
        Actor(act["sub"].as_str().and_then(|sub| UserId::clerk(sub).ok()))
    });
    Ok(User::verified(id, session_id, actor))
}

/// Looked at only where `CLERK_AUDIENCE` is set: Clerk's session tokens carry none by default.
fn audience_matches(claims: &Object, clerk: &Clerk) -> bool {
    let Some(wanted) = &clerk.audience else {
        return true;
    };
    match claims.0.get("aud") {
        Some(Value::String(aud)) => aud == wanted,
        Some(Value::Array(all)) => all.iter().any(|aud| aud == wanted),
        _ => false,
    }
}
