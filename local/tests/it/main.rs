//! The real binary, as a developer runs it.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod api;
mod audit_log;
mod callers;
mod canary;
mod check_keys;
mod checks;
mod description;
mod developer_keys;
mod doctor;
mod doors;
mod ending;
mod faults;
mod generate;
mod harness;
mod identity;
mod jwks;
mod limits;
mod local_user;
mod log;
mod neighbours;
mod onboarding;
mod open_keys;
mod people;
mod person;
mod restore;
mod rotate;
mod rotation;
mod server;
mod torture;
mod wire;
