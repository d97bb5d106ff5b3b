//! The main API, in Metered's shapes.

pub mod app;
pub mod batch;
pub mod control;
mod list;
pub mod meetings;
pub mod rooms;
pub mod tokens;
pub mod users;
pub mod webhooks;
