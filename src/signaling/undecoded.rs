//! How much a client has sent that is no whole frame yet. The codec waits for the end of a frame however long it claims to
//! be, and keeps all of it until then; a connection that does not end its frame in time is ended here.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use actix_web::{dev::Payload, error::PayloadError};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::protocol::LONGEST_FRAME;

/// Bytes that have come since the last whole frame. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub struct Undecoded(Arc<AtomicUsize>);

impl Undecoded {
    /// What comes by `payload`, until it is too much.
    pub fn watch(&self, payload: Payload) -> Payload {
        let undecoded = self.clone();
        let checked = payload.map(move |bytes| {
            let bytes: Bytes = bytes?;
            undecoded.0.fetch_add(bytes.len(), Relaxed);
            if undecoded.is_full() {
                Err(PayloadError::Overflow)
            } else {
                Ok(bytes)
            }
        });
        // After its first error it is over.
        let ended = checked.scan(false, |failed, bytes| {
            let over = std::mem::replace(failed, bytes.is_err());
            std::future::ready((!over).then_some(bytes))
        });
        Payload::Stream {
            payload: Box::pin(ended) as std::pin::Pin<Box<dyn stream::Stream<Item = _>>>,
        }
    }

    /// A whole frame has come.
    pub fn clear(&self) {
        self.0.store(0, Relaxed);
    }

    /// Whether it is too much.
    pub fn is_full(&self) -> bool {
        self.0.load(Relaxed) > MOST
    }
}

/// The longest frame, and what a socket holds of the next ones.
const MOST: usize = 2 * LONGEST_FRAME;
