//! Keeps each person's own AI provider keys encrypted, and uses them on that person's behalf.
//!
//! One room per responsibility; arrows point from handlers to here and nothing points back.
//!
//! ```text
//! endpoint ─► auth ─► User ─► UserApiKeys ─► sealing (KMS) · key_table (DynamoDB)
//! ```

pub mod api_key;
pub mod audit;
pub mod auth;
pub mod aws;
pub mod config;
pub mod developer_keys;
pub mod dotenv;
pub mod endpoint;
pub mod events;
pub mod gateway;
pub mod https;
pub mod invocation;
pub mod key_scan;
pub mod key_table;
pub mod memory;
pub mod mode;
pub mod onboarding;
pub mod open_streams;
pub mod openapi;
pub mod origin;
pub mod plain_text;
pub mod problem;
pub mod provider;
pub mod provider_check;
pub mod rate_limit;
pub mod sealing;
pub mod sweep;
pub mod telemetry;
pub mod tls;
pub mod usage;
pub mod user;
pub mod user_api_keys;
