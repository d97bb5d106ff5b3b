//! Lists: a bare array, or with `limit` a page; the next page's cursor in both.

use std::str::FromStr;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HeaderName},
};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::{error::Fields, warnings::Warnings};

/// A page of a list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// What is on it.
    data: Vec<T>,
    /// How many there are on all pages.
    #[schema(example = 1)]
    total_count: i64,
    /// The `cursor` of the next page; null on the last.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A list: an array, or with `limit` a page.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum List<T> {
    /// Without `limit`.
    Array(Vec<T>),
    /// With `limit`.
    Page(Page<T>),
}

/// How much of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut<Id> {
    /// The last one of the page before.
    pub after: Option<Id>,
    /// How many at most.
    limit: i64,
    /// Whether that was said.
    is_page: bool,
}

/// What was found of a list.
pub struct Found<Id, T> {
    /// At most [`Cut::look_for`], in order.
    pub items: Vec<(Id, T)>,
    /// How many there are on all pages.
    pub total_count: i64,
}

impl<Id: FromStr + ToString> Cut<Id> {
    /// Reads the parameters `limit` and `cursor`, and notes what is wrong with them.
    pub fn read(fields: &mut Fields, limit: Option<&String>, cursor: Option<&String>) -> Self {
        let is_page = limit.is_some();
        let limit = limit.and_then(|limit| {
            let limit = limit
                .parse()
                .ok()
                .filter(|limit| (1..=MOST_LISTED).contains(limit));
            let right = || format!("must be from 1 to {MOST_LISTED}");
            fields.take("limit", limit.ok_or_else(right))
        });
        let after = cursor.and_then(|cursor| {
            let cursor = cursor.parse();
            fields.take(
                "cursor",
                cursor.map_err(|_| "must be the nextCursor of a page"),
            )
        });
        Self {
            after,
            limit: limit.unwrap_or(MOST_LISTED),
            is_page,
        }
    }

    /// How many to look for: one more than asked for tells whether there is another page.
    pub fn look_for(&self) -> i64 {
        self.limit + 1
    }

    /// Answers with what was found. `known` are the parameters that the list has, beside those that all lists have.
    pub fn answer<T: Serialize>(
        self,
        request: &HttpRequest,
        found: Found<Id, T>,
        known: &[&str],
    ) -> HttpResponse {
        let Found {
            mut items,
            total_count,
        } = found;
        let asked = usize::try_from(self.limit).unwrap_or_default();
        let is_last = items.len() <= asked;
        items.truncate(asked);
        let next = items.last().filter(|_| !is_last);
        let next_cursor = next.map(|(id, _)| id.to_string());
        let data = items.into_iter().map(|(_, item)| item).collect();

        let mut response = HttpResponse::Ok();
        response.insert_header((HeaderName::from_static("x-total-count"), total_count));
        if let Some(next) = &next_cursor {
            response.insert_header((header::LINK, next_link(request, next)));
        }
        let mut response = response.json(if self.is_page {
            List::Page(Page {
                data,
                total_count,
                next_cursor,
            })
        } else {
            List::Array(data)
        });
        let given = url::form_urlencoded::parse(request.query_string().as_bytes());
        let given: Map<String, Value> = given
            .map(|(name, _)| (name.into_owned(), Value::Null))
            .collect();
        let known = [known, ALL_NAMES].concat();
        Warnings::unknown_fields(&given, &known).tell(response.headers_mut());
        response
    }
}

/// The next page, without the key that the request may have had in its query.
fn next_link(request: &HttpRequest, next: &str) -> String {
    let given = url::form_urlencoded::parse(request.query_string().as_bytes());
    let kept = given.filter(|(name, _)| !matches!(&**name, "secretKey" | "cursor"));
    let query = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(kept)
        .append_pair("cursor", next)
        .finish();
    format!("<{}?{query}>; rel=\"next\"", request.path())
}

/// Parameters of every list.
const ALL_NAMES: &[&str] = &["limit", "cursor", "secretKey"];
/// How many are on a page at most, and without `limit`.
const MOST_LISTED: i64 = 1000;
