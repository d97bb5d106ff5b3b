//! The JSON body of a request.

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::{StatusCode, header},
    web::BytesMut,
};
use futures_util::{StreamExt, future::LocalBoxFuture};
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// A JSON body of at most [`LIMIT`] bytes, whatever its content type says, and not compressed; no body at all is `{}`.
pub struct Body<T>(pub T);

/// Longest body, in bytes.
pub const LIMIT: usize = 1024 * 1024;

impl<T: DeserializeOwned + 'static> FromRequest for Body<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let mut payload = payload.take();
        let encoded = request
            .headers()
            .get_all(header::CONTENT_ENCODING)
            .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        Box::pin(async move {
            if encoded {
                let message = "the body must not be compressed: send it without Content-Encoding";
                return Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UNSUPPORTED_ENCODING",
                    message,
                ));
            }
            let mut bytes = BytesMut::new();
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| {
                    ApiError::invalid(format!("the body cannot be read: {error}"))
                })?;
                if bytes.len() + chunk.len() > LIMIT {
                    let message = format!("the body is longer than {LIMIT} bytes");
                    return Err(ApiError::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "BODY_TOO_LARGE",
                        message,
                    ));
                }
                bytes.extend_from_slice(&chunk);
            }
            let json = match bytes.trim_ascii() {
                // PHP writes its empty map as an empty list.
                b"" | b"[]" => b"{}",
                [b'[', ..] => return Err(unreadable(&"it must be a JSON object, not a list")),
                _ => &bytes[..],
            };
            serde_json::from_slice(json)
                .map(Self)
                .map_err(|error| unreadable(&error))
        })
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("Invalid request: the body cannot be read: {why}"))
}
