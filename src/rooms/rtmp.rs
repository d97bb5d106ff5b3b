//! Where a room's composition is streamed to: server and stream key in one URL, which is a secret.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::{
    id::RoomId,
    sealed::{Place, Secret, Unsealable},
};

/// An `rtmp://` or `rtmps://` URL whose last path segment is the stream key; at most 2,048 characters. It cannot be printed.
#[derive(Clone, Debug)]
pub struct RtmpUrl(SecretString);

/// The text is not such a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be an rtmp:// or rtmps:// URL of at most {LONGEST} characters, with a host and a stream key, such as \
     rtmp://a.rtmp.youtube.com/live2/your-key"
)]
pub struct MalformedRtmpUrl;

impl RtmpUrl {
    /// The URL with its stream key: for whoever holds the app's secret key, and for the stream itself.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    /// The URL without its stream key and its login, for everybody else.
    pub fn masked(&self) -> String {
        let Ok(url) = Url::parse(self.0.expose_secret()) else {
            return MASK.to_owned();
        };
        let host = url.host_str().unwrap_or_default();
        let port = url
            .port()
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let server = url.path().rsplit_once('/').map_or("", |(server, _)| server);
        format!("{}://{host}{port}{server}/{MASK}", url.scheme())
    }
}

/// Where the URL of a room is stored, which is what it is sealed for.
pub(super) fn place(room: &RoomId) -> Place<'_> {
    Place::new("rooms", "rtmp_out_url", room.as_bytes())
}

impl std::str::FromStr for RtmpUrl {
    type Err = MalformedRtmpUrl;

    fn from_str(text: &str) -> Result<Self, MalformedRtmpUrl> {
        let url = Url::parse(text).map_err(|_| MalformedRtmpUrl)?;
        let has_key = url
            .path_segments()
            .and_then(Iterator::last)
            .is_some_and(|key| !key.is_empty());
        let fits = text.len() <= LONGEST
            && matches!(url.scheme(), "rtmp" | "rtmps")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && has_key;
        if fits {
            Ok(Self(text.into()))
        } else {
            Err(MalformedRtmpUrl)
        }
    }
}

impl Secret for RtmpUrl {
    fn from_bytes(bytes: &[u8]) -> Result<Self, Unsealable> {
        let text = std::str::from_utf8(bytes).map_err(|_| Unsealable::Damaged)?;
        Ok(Self(text.into()))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

/// Stands for what is not shown.
const MASK: &str = "********";
/// Longest URL.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_key_is_shown_to_nobody_by_accident() {
        for (url, masked) in [
            (
                "rtmp://a.rtmp.youtube.com/live2/abcd-efgh",
                "rtmp://a.rtmp.youtube.com/live2/********",
            ),
            ("rtmps://h:444/k?key=/abcd", "rtmps://h:444/********"),
            ("rtmp://me:abcd@h/live/k", "rtmp://h/live/********"),
        ] {
            let parsed: RtmpUrl = url.parse().unwrap();
            assert_eq!(parsed.masked(), masked);
            assert_eq!(parsed.reveal(), url);
            assert!(!format!("{parsed:?}").contains("abcd"));
        }
    }

    #[test]
    fn what_has_no_host_or_no_stream_key_is_no_rtmp_url() {
        for wrong in [
            "",
            "https://example.com/live/key",
            "rtmp://",
            "rtmp:live/key",
            "rtmp://host",
            "rtmp://host/",
            "rtmp://host/live/",
            "live2/key",
        ] {
            assert_eq!(
                wrong.parse::<RtmpUrl>().err(),
                Some(MalformedRtmpUrl),
                "{wrong:?}"
            );
        }
    }
}
