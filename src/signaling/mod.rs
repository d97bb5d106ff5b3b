//! Signaling: the WebSocket between a client and its meeting. [`protocol`] has the frames, [`connection`] one client.
//!
//! The message set is MikroMeet's, with additions for the SFU and for resuming; `openapi/signaling.asyncapi.yaml`
//! describes it.

mod connection;
mod device;
mod meter;
pub mod protocol;

pub use self::{
    connection::{Client, connect},
    device::device,
};
