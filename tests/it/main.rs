//! The integration tests: one binary, a real Postgres with a database per test, real HTTP and WebSockets.

#![expect(clippy::unwrap_used, reason = "a test may fail")]

mod admission;
mod app;
mod apps;
mod asyncapi;
mod chaos;
mod cli;
mod contract;
mod database;
mod deadlines;
mod history;
mod hostile;
mod http;
mod keys;
mod lifetime;
mod mail;
mod meetings;
mod moderation;
mod ops;
mod outages;
mod privacy;
mod python;
mod receiver;
mod roles;
mod rooms;
mod sealed;
mod secrets;
#[expect(clippy::large_futures, reason = "those of the webrtc crate are")]
mod sfu;
mod signaling;
mod talk;
mod tokens;
mod webhook_api;
mod webhooks;
