//! Plenum: a hosted, multi-tenant platform for video meetings.
//!
//! A folder is a concept. Around the concepts are thin edges ([`http`], [`signaling`], [`cli`]), below them the ground
//! ([`db`], [`cache`], [`clock`], [`id`], [`json`], [`rate`], [`sealed`]), and beside them the media plane ([`sfu`]), which knows nothing of
//! tenants.

pub mod cli;
pub mod config;

pub mod http;
pub mod signaling;

pub mod apps;
pub mod chat;
pub mod idempotency;
pub mod meetings;
pub mod privacy;
pub mod rooms;
pub mod tokens;
pub mod usage;

pub mod deadlines;
pub mod mail;
pub mod webhooks;

pub mod cache;
pub mod clock;
pub mod db;
pub mod id;
pub mod json;
pub mod rate;
pub mod sealed;

pub mod sfu;
