//! The main API, in Metered's shapes.

pub mod app;
pub mod batch;
mod list;
pub mod meetings;
pub mod rooms;
pub mod tokens;
pub mod users;
pub mod webhooks;
