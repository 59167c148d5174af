//! Keeps each person's own AI provider keys encrypted, and uses them on that person's behalf.
//!
//! One room per responsibility; arrows point from handlers to here and nothing points back.
//!
//! ```text
//! auth ─► User ─► UserApiKeys ─► sealing (KMS) · key_table (DynamoDB)
//! ```

pub mod api_key;
pub mod auth;
pub mod config;
pub mod dotenv;
pub mod key_table;
pub mod mode;
pub mod provider;
pub mod sealing;
pub mod user;
pub mod user_api_keys;
