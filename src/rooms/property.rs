//! How the value of a room's property is read from JSON, and what would be right where it cannot be.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A type of properties.
pub trait Property: Sized {
    /// Reads a value that is not `null`.
    ///
    /// # Errors
    ///
    /// What would be right, to follow the property's name: "must be true or false".
    fn read(value: &Value) -> Result<Self, String>;
}

/// An instant, in unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(value_type = i64)]
pub struct UnixSec(#[serde(with = "chrono::serde::ts_seconds")] pub DateTime<Utc>);

/// A length of time of at least one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(value_type = i64)]
pub struct Seconds(u32);

/// Text of 1 to `MOST` characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct Text<const MOST: usize>(String);

/// The address of a page: `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct PageUrl(String);

/// A language tag: two or three lower-case letters, and perhaps a region (`en`, `pt-BR`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = String)]
pub struct Lang(String);

/// A length of time that may be none at all, at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[schema(value_type = i64)]
pub struct Delay(u32);

/// A JSON object of the app's own, at most 16 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(value_type = Object)]
pub struct Metadata(Map<String, Value>);

impl Seconds {
    /// So many seconds.
    pub const fn new(seconds: u32) -> Self {
        Self(seconds)
    }
}

impl Delay {
    /// So many seconds.
    pub const fn new(seconds: u32) -> Self {
        Self(seconds)
    }
}

impl From<Delay> for TimeDelta {
    fn from(delay: Delay) -> Self {
        Self::seconds(delay.0.into())
    }
}

impl From<Seconds> for TimeDelta {
    fn from(seconds: Seconds) -> Self {
        Self::seconds(seconds.0.into())
    }
}

impl Default for Lang {
    fn default() -> Self {
        Self("en".to_owned())
    }
}

impl Property for bool {
    fn read(value: &Value) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| "must be true or false".to_owned())
    }
}

/// Zero means that it is not set, as in Metered's samples.
impl Property for Option<UnixSec> {
    fn read(value: &Value) -> Result<Self, String> {
        let seconds = whole(value, LATEST_UNIX_SEC).ok_or_else(|| {
            format!("must be a whole number from 0 to {LATEST_UNIX_SEC}, a unix time in seconds")
        })?;
        Ok(DateTime::from_timestamp(seconds, 0)
            .filter(|_| seconds != 0)
            .map(UnixSec))
    }
}

impl Property for Option<Seconds> {
    fn read(value: &Value) -> Result<Self, String> {
        let seconds = whole(value, LONGEST_SECONDS).ok_or_else(|| {
            format!("must be a whole number from 0 to {LONGEST_SECONDS}, in seconds")
        })?;
        Ok(u32::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds != 0)
            .map(Seconds))
    }
}

impl Property for Delay {
    fn read(value: &Value) -> Result<Self, String> {
        let seconds = whole(value, LONGEST_DELAY).ok_or_else(|| {
            format!("must be a whole number from 0 to {LONGEST_DELAY}, in seconds")
        })?;
        Ok(Self(u32::try_from(seconds).unwrap_or_default()))
    }
}

impl Property for Option<u32> {
    fn read(value: &Value) -> Result<Self, String> {
        let count = whole(value, MOST_PEOPLE)
            .ok_or_else(|| format!("must be a whole number from 0 to {MOST_PEOPLE}"))?;
        Ok(u32::try_from(count).ok().filter(|count| *count != 0))
    }
}

impl<const MOST: usize> Text<MOST> {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MOST: usize> Property for Option<Text<MOST>> {
    fn read(value: &Value) -> Result<Self, String> {
        let wrong =
            || format!("must be text of at most {MOST} characters, without control characters");
        let text = value.as_str().ok_or_else(wrong)?.trim();
        if text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            return Err(wrong());
        }
        match text.chars().count() {
            0 => Ok(None),
            count if count <= MOST => Ok(Some(Text(text.to_owned()))),
            _ => Err(wrong()),
        }
    }
}

impl PageUrl {
    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Property for Option<PageUrl> {
    fn read(value: &Value) -> Result<Self, String> {
        let wrong = || "must be a URL that starts with http:// or https://".to_owned();
        match value.as_str().ok_or_else(wrong)? {
            text if is_blank(text) => Ok(None),
            text if text.len() <= LONGEST_URL => match url::Url::parse(text) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => {
                    Ok(Some(PageUrl(url.into())))
                }
                _ => Err(wrong()),
            },
            _ => Err(format!("must have at most {LONGEST_URL} characters")),
        }
    }
}

impl Property for Lang {
    fn read(value: &Value) -> Result<Self, String> {
        let tag = value.as_str().unwrap_or_default();
        let (language, region) = tag.split_once('-').unwrap_or((tag, "XX"));
        let fits = (2..=3).contains(&language.len())
            && language.bytes().all(|byte| byte.is_ascii_lowercase())
            && region.len() == 2
            && region.bytes().all(|byte| byte.is_ascii_uppercase());
        if fits {
            Ok(Self(tag.to_owned()))
        } else {
            Err("must be a language tag such as en or pt-BR".to_owned())
        }
    }
}

impl Property for Metadata {
    fn read(value: &Value) -> Result<Self, String> {
        let object = value
            .as_object()
            .ok_or_else(|| "must be a JSON object".to_owned())?;
        if value.to_string().len() > LONGEST_METADATA {
            return Err(format!("must have at most {LONGEST_METADATA} bytes"));
        }
        if !is_stored_as_given(value) {
            return Err("must have no NUL character and no number beyond 1e300".to_owned());
        }
        Ok(Self(object.clone()))
    }
}

/// Whether Postgres gives back what it is given: it has no NUL, and writes large numbers out.
fn is_stored_as_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) => true,
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() <= 1e300),
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => items.iter().all(is_stored_as_given),
        Value::Object(fields) => fields
            .iter()
            .all(|(name, value)| !name.contains('\0') && is_stored_as_given(value)),
    }
}

/// A whole number from 0 to `most`; `None` for anything else.
fn whole(value: &Value, most: i64) -> Option<i64> {
    value.as_i64().filter(|number| (0..=most).contains(number))
}

/// Whether a URL counts as not given: empty, or the `string` that Metered's documentation prints in its place.
pub fn is_blank(url: &str) -> bool {
    matches!(url, "" | "string")
}

/// Longest URL.
pub const LONGEST_URL: usize = 2048;
/// The end of the year 9999. What is later was most likely meant in milliseconds.
const LATEST_UNIX_SEC: i64 = 253_402_300_799;
/// 68 years.
const LONGEST_SECONDS: i64 = i32::MAX as i64;
/// A day.
const LONGEST_DELAY: i64 = 24 * 60 * 60;
/// Beyond what one meeting can hold.
const MOST_PEOPLE: i64 = 100_000;
/// Longest metadata, as JSON.
const LONGEST_METADATA: usize = 16 * 1024;
