//! The main API, in Metered's shapes.

pub mod app;
pub mod batch;
pub mod rooms;
pub mod tokens;
