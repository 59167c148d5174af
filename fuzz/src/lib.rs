//! Random input for whatever reads what others wrote; `cargo fuzz run token` and so on, scripts/torture for
//! all. Seeds and what was found are run as tests, too.

pub mod body;
pub mod dotenv;
pub mod item;
pub mod stream;
pub mod token;

use std::sync::Arc;

use embedded::Embedded;
use lambda_http::{Body, http::Request};
use local::{app::App, stack::embedded_setting, stand_in::StandIn, token as clerk};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use user_api_keys::{aws::Aws, config::Config, events::buffered};

/// Rounds after which everything is made anew: each leaves an audit record.
const ROUNDS: u32 = 5_000;

/// The functions in Production mode, with one person's token.
pub struct Stack {
    /// Runs all of it.
    pub runtime: Runtime,
    /// DynamoDB and KMS.
    pub services: Embedded,
    app: Arc<App>,
    rounds: u32,
}

impl Stack {
    /// With an empty table.
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (services, app) = runtime.block_on(async {
            let services = Embedded::in_memory().await.unwrap();
            let provider = StandIn::start().await.unwrap().base_url();
            let config = Config::from_lookup(|name| {
                let value = match name {
                    "DEPLOY_ENV" => "test",
                    "CHECK_ON_SAVE" => "format",
                    name if name.starts_with("RATE_LIMIT") => "1000000",
                    name => return embedded_setting(name, &services, &provider),
                };
                Some(value.to_owned())
            });
            let aws = Aws::new(&services.dynamodb, &services.kms);
            let app = App::new(&config.unwrap(), &aws).unwrap();
            (services, Arc::new(app))
        });
        Self {
            runtime,
            services,
            app,
            rounds: 0,
        }
    }

    /// Whether it has served long enough.
    pub fn is_worn(&mut self) -> bool {
        self.rounds += 1;
        self.rounds > ROUNDS
    }

    /// One request, as the gateway passes it on, of a person who is signed in.
    pub fn call(&self, method: &str, uri: &str, body: &[u8]) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("authorization", format!("Bearer {}", signed()))
            .header("content-type", "application/json")
            .body(Body::Binary(body.to_vec()))
            .unwrap();
        let answer = self
            .runtime
            .block_on(async { buffered(self.app.answer(request).await).await });
        let status = answer.status().as_u16();
        let text = String::from_utf8(answer.body().as_ref().to_vec()).unwrap();
        if status >= 400 {
            let problem: Value = serde_json::from_str(&text).unwrap();
            assert!(problem["code"].is_string() && problem["detail"].is_string());
        }
        (status, text)
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::new()
    }
}

/// The person who is signed in.
pub const PERSON: &str = "user_aaaaaaaa1";

/// A token of theirs; signing takes longer than most of what is tried here, so it is kept for a while.
pub fn signed() -> String {
    thread_local! {
        static TOKEN: std::cell::RefCell<Option<(std::time::Instant, String)>> = Default::default();
    }
    TOKEN.with_borrow_mut(|kept| match kept {
        Some((at, token)) if at.elapsed().as_secs() < 30 => token.clone(),
        _ => {
            let token = clerk::sign(PERSON).unwrap();
            *kept = Some((std::time::Instant::now(), token.clone()));
            token
        }
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    fn all(target: &str, run: fn(&[u8])) {
        let mut inputs = 0;
        for folder in ["seeds", "findings"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(folder)
                .join(target);
            for file in fs::read_dir(folder).into_iter().flatten() {
                run(&fs::read(file.unwrap().path()).unwrap());
                inputs += 1;
            }
        }
        assert!(inputs > 3, "{target} has seeds");
    }

    #[test]
    fn tokens_are_decided_as_the_rules_say() {
        all("token", crate::token::run);
    }

    #[test]
    fn an_edit_of_an_env_file_does_what_it_says_and_nothing_else() {
        all("dotenv", crate::dotenv::run);
    }

    #[test]
    fn a_body_is_no_defect_and_hears_no_key_again() {
        all("body", crate::body::run);
    }

    #[test]
    fn a_stream_is_read_alike_however_it_is_cut() {
        all("stream", crate::stream::run);
    }

    #[test]
    fn a_row_opens_to_what_was_saved_or_to_nothing() {
        all("item", crate::item::run);
    }
}
