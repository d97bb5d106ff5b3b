//! What is written to people, from the templates in `templates/mail/`: each in plain text and in HTML.

use askama::Template;
use chrono::{DateTime, SecondsFormat, Utc};

use crate::id::EndpointId;

/// A message, by its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing more is sent to an endpoint.
    WebhookDisabled(WebhookDisabled),
}

/// A webhook endpoint was disabled, and not by its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookDisabled {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its URL, without what may be a secret.
    pub url: String,
    /// Whether it answered 410 Gone, as against: has failed for too long.
    pub is_gone: bool,
    /// When the first attempt failed after which none succeeded.
    pub failing_since: DateTime<Utc>,
    /// When it was disabled.
    pub disabled_at: DateTime<Utc>,
    /// Why the last attempt failed.
    pub error: String,
}

/// A message as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: String,
}

impl Message {
    /// The message to the people of the app of this name.
    pub(super) fn render(&self, app: &str) -> askama::Result<Rendered> {
        match self {
            Self::WebhookDisabled(message) => message.render(app),
        }
    }
}

#[derive(Template)]
#[template(path = "mail/webhook_disabled.txt", escape = "none")]
struct WebhookDisabledText<'a> {
    app: &'a str,
    endpoint: EndpointId,
    url: &'a str,
    is_gone: bool,
    failing_since: &'a str,
    disabled_at: &'a str,
    error: &'a str,
}

#[derive(Template)]
#[template(path = "mail/webhook_disabled.html")]
struct WebhookDisabledHtml<'a> {
    subject: &'a str,
    app: &'a str,
    endpoint: EndpointId,
    url: &'a str,
    is_gone: bool,
    failing_since: &'a str,
    disabled_at: &'a str,
    error: &'a str,
}

impl WebhookDisabled {
    fn render(&self, app: &str) -> askama::Result<Rendered> {
        let subject = format!("{app}: a webhook endpoint was disabled");
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (failing_since, disabled_at) = (time(self.failing_since), time(self.disabled_at));
        let text = WebhookDisabledText {
            app,
            endpoint: self.endpoint,
            url: &self.url,
            is_gone: self.is_gone,
            failing_since: &failing_since,
            disabled_at: &disabled_at,
            error: &self.error,
        };
        let html = WebhookDisabledHtml {
            subject: &subject,
            app,
            endpoint: self.endpoint,
            url: &self.url,
            is_gone: self.is_gone,
            failing_since: &failing_since,
            disabled_at: &disabled_at,
            error: &self.error,
        };
        let (text, html) = (text.render()?, html.render()?);
        Ok(Rendered {
            subject,
            text,
            html,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(is_gone: bool) -> Message {
        let at = |seconds: i64| DateTime::from_timestamp(1_900_000_000 + seconds, 0).unwrap();
        Message::WebhookDisabled(WebhookDisabled {
            endpoint: EndpointId::from_bytes([10; 12]),
            url: "https://example.com/<hooks>?…".to_owned(),
            is_gone,
            failing_since: at(0),
            disabled_at: at(5 * 24 * 3600),
            error: "answered 500 & only 2xx is success".to_owned(),
        })
    }

    #[test]
    fn both_parts_say_what_happened_where_since_when_and_what_to_do() {
        let Rendered {
            subject,
            text,
            html,
        } = message(false).render("acme").unwrap();
        assert_eq!(subject, "acme: a webhook endpoint was disabled");
        for part in [&text, &html] {
            for said in [
                "acme",
                "2030-03-17T17:46:40Z",
                "2030-03-22T17:46:40Z",
                "PATCH /api/v1/webhooks/0a0a0a0a0a0a0a0a0a0a0a0a",
                "POST /api/v1/webhooks/0a0a0a0a0a0a0a0a0a0a0a0a/resend",
                "five days",
            ] {
                assert!(part.contains(said), "{said}: {part}");
            }
            assert!(!part.contains("410"), "{part}");
        }
        assert!(text.contains("https://example.com/<hooks>?…") && text.contains("500 & only"));
        assert!(
            html.contains("/&#60;hooks&#62;?") && html.contains("500 &#38; only"),
            "{html}"
        );
        assert!(
            !text.contains("\n\n\n") && text.lines().all(|line| line.len() <= 130),
            "{text}"
        );
    }

    #[test]
    fn an_endpoint_that_is_gone_is_said_to_be_so() {
        let Rendered { text, html, .. } = message(true).render("acme").unwrap();
        assert!(text.contains("410 Gone") && html.contains("410 Gone"));
        assert!(!text.contains("five days") && !html.contains("five days"));
    }
}
