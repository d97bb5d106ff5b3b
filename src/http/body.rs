//! The JSON body of a request.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::{StatusCode, header},
    web::BytesMut,
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use crate::json;

/// A body that has not been read yet: a handler reads it once it knows whose request it is, so that nobody else's is taken in.
pub struct Body {
    request: HttpRequest,
    payload: Payload,
}

/// What a body may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest body, in bytes.
    pub longest: usize,
    /// Longest time that it may take to arrive.
    pub time: Duration,
}

impl FromRequest for Body {
    type Error = Infallible;
    type Future = Ready<Result<Self, Infallible>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        ready(Ok(Self {
            request: request.clone(),
            payload: payload.take(),
        }))
    }
}

impl Body {
    /// The JSON in it, whatever its content type says; no body at all is `{}`.
    ///
    /// # Errors
    ///
    /// `UNSUPPORTED_ENCODING`, `BODY_TOO_LARGE` and `BODY_TOO_SLOW` beyond the [`Limits`], `INVALID_REQUEST` for what cannot be
    /// read as a `T`.
    pub async fn read<T: DeserializeOwned>(self) -> Result<T, ApiError> {
        let Self { request, payload } = self;
        let limits = request.app_data::<Limits>().copied();
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        let encoded = request
            .headers()
            .get_all(header::CONTENT_ENCODING)
            .any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity"));
        if encoded {
            let message = "the body must not be compressed: send it without Content-Encoding";
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UNSUPPORTED_ENCODING",
                message,
            ));
        }
        let limits = limits.ok_or_else(|| ApiError::internal(&"bodies have no limits"))?;
        // Refused before it is sent, where the client waits for that.
        if announced.is_some_and(|length: usize| length > limits.longest) {
            return Err(too_large(limits));
        }
        let read = tokio::time::timeout(limits.time, read(payload, limits));
        let bytes = read.await.unwrap_or_else(|_| {
            let message = format!(
                "the body took longer than {} s to arrive",
                limits.time.as_secs_f32()
            );
            Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "BODY_TOO_SLOW",
                message,
            ))
        })?;
        let text = match bytes.trim_ascii() {
            // PHP writes its empty map as an empty list.
            b"" | b"[]" => b"{}",
            [b'[', ..] => return Err(unreadable(&"it must be a JSON object, not a list")),
            _ => &bytes[..],
        };
        json::read(text).map_err(|error| unreadable(&error))
    }
}

async fn read(mut payload: Payload, limits: Limits) -> Result<BytesMut, ApiError> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk
            .map_err(|error| ApiError::invalid(format!("the body cannot be read: {error}")))?;
        if bytes.len() + chunk.len() > limits.longest {
            return Err(too_large(limits));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large(limits: Limits) -> ApiError {
    let message = format!("the body is longer than {} bytes", limits.longest);
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", message)
}

fn unreadable(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::invalid(format!("Invalid request: the body cannot be read: {why}"))
}
