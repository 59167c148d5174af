//! The real binary, as a developer runs it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod api;
mod canary;
mod description;
mod harness;
mod onboarding;
mod open_keys;
mod server;
