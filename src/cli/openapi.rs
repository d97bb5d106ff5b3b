//! `plenum openapi`

use super::say;
use crate::http;

pub fn run() -> anyhow::Result<()> {
    Ok(say(http::document().to_pretty_json()?)?)
}
