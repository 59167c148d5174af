//! Which tokens name a person, decided by the whole of `auth`.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod corpus;

use jsonwebtoken::get_current_timestamp;
use lambda_http::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use time::OffsetDateTime;
use user_api_keys::{
    auth::{Auth, AuthSetupError, Unauthorized},
    config::{Clerk, ClerkKeys},
    mode::Mode,
    user::User,
};

use crate::corpus::{ISSUER, PARTY, PUBLIC, corpus};

fn clerk(jwt_key: &str) -> Clerk {
    Clerk {
        keys: ClerkKeys::Pem(jwt_key.to_owned()),
        issuer: ISSUER.to_owned(),
        authorized_parties: vec!["https://other.test".to_owned(), PARTY.to_owned()],
        audience: None,
        only_user: None,
    }
}

async fn ask(auth: &Auth, values: &[&str]) -> Result<User, Unauthorized> {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    auth.user(&headers, OffsetDateTime::now_utc()).await
}

fn good() -> String {
    let mut cases = corpus(get_current_timestamp()).into_iter();
    let good = cases.find(|case| case.name == "as it is");
    good.unwrap().authorization
}

#[tokio::test]
async fn every_token_of_the_corpus_is_decided_right() {
    let auth = Auth::new(Mode::Production, Some(&clerk(PUBLIC))).unwrap();
    let cases = corpus(get_current_timestamp());
    assert!(cases.len() >= 90, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let decided = ask(&auth, &[&case.authorization]).await;
        if decided.is_ok() != case.admitted {
            wrong.push(format!("{}: {:?}", case.name, decided.err()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn two_headers_and_none_are_no_token() {
    let auth = Auth::new(Mode::Production, Some(&clerk(PUBLIC))).unwrap();
    assert_eq!(
        ask(&auth, &[&good(), &good()]).await.err(),
        Some(Unauthorized::NoToken)
    );
    assert_eq!(ask(&auth, &[]).await.err(), Some(Unauthorized::NoToken));
}

#[tokio::test]
async fn any_of_several_keys_may_have_signed_and_literal_line_breaks_were_read_by_config() {
    let other = include_str!("../keys/other.pub.pem");
    for keys in [format!("{other}{PUBLIC}"), format!("{PUBLIC}\n{other}")] {
        let auth = Auth::new(Mode::Production, Some(&clerk(&keys))).unwrap();
        assert!(ask(&auth, &[&good()]).await.is_ok());
    }
    let auth = Auth::new(Mode::Production, Some(&clerk(other))).unwrap();
    assert_eq!(
        ask(&auth, &[&good()]).await.err(),
        Some(Unauthorized::Token("signature"))
    );
}

#[test]
fn a_short_private_or_unreadable_key_refuses_to_start() {
    let private = include_str!("../keys/clerk-test.pem");
    let short = include_str!("../keys/short.pub.pem");
    let cut = &PUBLIC[..PUBLIC.len() - 60];
    for keys in [
        "",
        "x",
        private,
        short,
        cut,
        &format!("{PUBLIC}{private}"),
        &format!("{PUBLIC}{cut}"),
    ] {
        let auth = Auth::new(Mode::Production, Some(&clerk(keys)));
        assert_eq!(auth.err(), Some(AuthSetupError::JwtKey), "{keys}");
    }
}

#[tokio::test]
async fn an_audience_must_match_where_one_is_set() {
    let mut clerk = clerk(PUBLIC);
    clerk.audience = Some("anybody".to_owned());
    let auth = Auth::new(Mode::Production, Some(&clerk)).unwrap();
    let cases = corpus(get_current_timestamp());
    let with_audience = cases.iter().find(|case| case.name.starts_with("claim aud"));
    assert!(
        ask(&auth, &[&with_audience.unwrap().authorization])
            .await
            .is_ok()
    );
    assert_eq!(
        ask(&auth, &[&good()]).await.err(),
        Some(Unauthorized::Token("audience"))
    );
}
