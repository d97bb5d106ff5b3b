//! The main API, in Metered's shapes.

pub mod rooms;
