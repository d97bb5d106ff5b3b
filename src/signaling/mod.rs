//! Signaling: the WebSocket between a client and its meeting. [`protocol`] has the frames, [`connection`] one client.
//!
//! The message set is MikroMeet's, with additions for the SFU and for resuming; `openapi/signaling.asyncapi.yaml`
//! describes it.

mod connection;
mod device;
mod fragments;
mod meter;
pub mod protocol;
mod undecoded;

pub use self::{
    connection::{Client, Config, Socket, connect},
    device::device,
    protocol::render,
    undecoded::Undecoded,
};
