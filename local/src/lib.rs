//! The functions on a developer's machine: the same handlers on one loopback port.
//!
//! Knows how to start and serve them; decides nothing about keys.

pub mod app;
mod chosen_mode;
pub mod containers;
pub mod demo;
pub mod doctor;
pub mod import;
mod neighbours;
pub mod openapi;
pub mod page;
pub mod person;
mod progress;
pub mod rotate;
pub mod serve;
pub mod server;
pub mod stack;
pub mod stand_in;
pub mod token;
