//! Prints the token corpus and how we decide it, as JSON, for another verifier to decide too.

use lambda_http::http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::json;
use time::OffsetDateTime;
use user_api_keys::{
    auth::Auth,
    config::{Clerk, ClerkKeys},
    mode::Mode,
};

#[path = "../tests/tokens/corpus.rs"]
mod corpus;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clerk = Clerk {
        keys: ClerkKeys::Pem(corpus::PUBLIC.to_owned()),
        issuer: corpus::ISSUER.to_owned(),
        authorized_parties: vec![corpus::PARTY.to_owned()],
        audience: None,
        only_user: None,
    };
    let auth = Auth::new(Mode::Production, Some(&clerk))?;
    let mut cases = Vec::new();
    for case in corpus::corpus(jsonwebtoken::get_current_timestamp()) {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&case.authorization)?);
        let ours = auth.user(&headers, OffsetDateTime::now_utc()).await.is_ok();
        let wrong = ours != case.admitted;
        cases.push(json!({"name": case.name, "authorization": case.authorization, "ours": ours, "wrong": wrong}));
    }
    let settings = json!({"jwtKey": corpus::PUBLIC, "authorizedParties": [corpus::PARTY]});
    serde_json::to_writer(
        std::io::stdout(),
        &json!({"cases": cases, "settings": settings}),
    )?;
    Ok(())
}
