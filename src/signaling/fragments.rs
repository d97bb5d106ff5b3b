//! Puts messages together that arrive in fragments, as browsers send long ones.

use actix_ws::Item;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;

use super::protocol::LONGEST_FRAME;

/// The fragments of a message so far.
#[derive(Debug, Default)]
pub struct Fragments {
    bytes: BytesMut,
    is_binary: bool,
}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is longer than a frame may be.
    TooLong,
    /// It is binary.
    Binary,
    /// It is no UTF-8.
    NotText,
}

impl Fragments {
    /// Takes a fragment; with the last one, the whole text. The codec has seen to it that the first comes first.
    ///
    /// # Errors
    ///
    /// What is [`Wrong`] with the message; of a binary one, when it is complete.
    pub fn take(&mut self, item: Item) -> Result<Option<ByteString>, Wrong> {
        let (bytes, is_last) = match item {
            Item::FirstText(bytes) => {
                self.is_binary = false;
                (bytes, false)
            }
            Item::FirstBinary(bytes) => {
                self.is_binary = true;
                (bytes, false)
            }
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        self.push(&bytes)?;
        if !is_last {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.bytes).freeze();
        if self.is_binary {
            return Err(Wrong::Binary);
        }
        ByteString::try_from(whole)
            .map(Some)
            .map_err(|_| Wrong::NotText)
    }

    fn push(&mut self, bytes: &Bytes) -> Result<(), Wrong> {
        if self.bytes.len() + bytes.len() > LONGEST_FRAME {
            return Err(Wrong::TooLong);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_make_one_text_and_what_is_wrong_with_them_is_told() {
        let bytes = Bytes::from_static;
        let mut fragments = Fragments::default();
        for _ in 0..2 {
            // The fragments of a character are not yet text.
            assert_eq!(fragments.take(Item::FirstText(bytes(b"gr\xc3"))), Ok(None));
            assert_eq!(fragments.take(Item::Continue(bytes(b"\xbc"))), Ok(None));
            let whole = fragments.take(Item::Last(bytes(b"n")));
            assert_eq!(whole, Ok(Some("grün".into())));
        }
        fragments.take(Item::FirstBinary(bytes(b"a"))).unwrap();
        assert_eq!(fragments.take(Item::Last(bytes(b"b"))), Err(Wrong::Binary));
        fragments.take(Item::FirstText(bytes(b"\xff"))).unwrap();
        assert_eq!(fragments.take(Item::Last(bytes(b""))), Err(Wrong::NotText));
        let long = Bytes::from(vec![b'a'; LONGEST_FRAME]);
        assert_eq!(fragments.take(Item::FirstText(long)), Ok(None));
        assert_eq!(fragments.take(Item::Last(bytes(b"a"))), Err(Wrong::TooLong));
    }
}
