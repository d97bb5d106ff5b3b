//! The OpenAPI document, from the handlers themselves.

use actix_web::App;
use serde_json::{Value, json};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Components, ContentBuilder, Header, HeaderBuilder, Object, Ref, RefOr, ResponseBuilder,
        schema::Type,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

use super::{
    error::{self, ApiError, Fields},
    health, metrics, v1,
};
use crate::{meetings::Denial, rooms, tokens, webhooks};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Plenum",
        description = "Create a room with one call, send people its link, and hear by signed webhooks what happens in it.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(),
    ),
    tags(
        (name = "rooms", description = "Named, reusable places with rules. Meetings come and go in them."),
        (name = "meetings", description = "The runs of rooms, live and over, and who was in them, for how long."),
        (name = "users", description = "People, by your own ids of them: what is known of one can be removed."),
        (name = "live meetings", description = "What you may do to a meeting while it runs: what moderators may, and more."),
        (name = "tokens", description = "Who has one may join, with a role and limits; a private room needs one."),
        (name = "webhooks", description = "Your systems are told what happens: signed, at least once, in the order of each meeting."),
        (name = "app", description = "What your app has set: how its pages look, who may embed them, what new rooms are like."),
        (name = "service", description = "Whether the server lives."),
    ),
    components(schemas(error::ApiError, error::FieldError)),
    modifiers(&Credentials),
)]
struct Base;

struct Credentials;

impl Modify for Credentials {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_with(Components::new);
        let query = ApiKeyValue::with_description(
            "secretKey",
            "Your app's secret key. Keep it on your servers; from here it goes to this server alone.",
        );
        components.add_security_scheme("secretKey", SecurityScheme::ApiKey(ApiKey::Query(query)));
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("Your app's secret key."))
            .build();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
    }
}

/// The routes that the document describes.
pub(super) fn routes(config: &mut ServiceConfig) {
    config
        .service(v1::app::get_app)
        .service(v1::app::update_app)
        .service(v1::control::eject)
        .service(v1::control::end)
        .service(v1::control::mute)
        .service(v1::control::change_participant)
        .service(v1::control::message)
        .service(v1::control::extend)
        .service(v1::control::lock)
        .service(v1::control::unlock)
        .service(v1::control::waiting)
        .service(v1::control::admit)
        .service(v1::control::reject)
        .service(v1::rooms::create_room)
        .service(v1::rooms::update_room)
        .service(v1::rooms::get_room)
        .service(v1::rooms::list_rooms)
        .service(v1::batch::create_rooms)
        .service(v1::batch::delete_rooms)
        .service(v1::rooms::delete_room)
        .service(v1::meetings::list_meetings)
        .service(v1::meetings::get_meeting)
        .service(v1::meetings::list_participants)
        .service(v1::meetings::list_present)
        .service(v1::meetings::get_participant)
        .service(v1::users::erase_user)
        .service(v1::rooms::start_meeting)
        .service(v1::tokens::create_token)
        .service(v1::tokens::validate_token)
        .service(v1::webhooks::create_webhook)
        .service(v1::webhooks::list_webhooks)
        .service(v1::webhooks::rotate_room_secret) // before those of which it could be the id
        .service(v1::webhooks::get_webhook)
        .service(v1::webhooks::update_webhook)
        .service(v1::webhooks::delete_webhook)
        .service(v1::webhooks::rotate_webhook)
        .service(v1::webhooks::test_webhook)
        .service(v1::webhooks::list_deliveries)
        .service(v1::webhooks::get_delivery)
        .service(v1::webhooks::resend_delivery)
        .service(v1::webhooks::resend_deliveries)
        .configure(monitoring);
}

/// Those of them that tell how the server is.
pub(super) fn monitoring(config: &mut ServiceConfig) {
    config
        .service(health::health)
        .service(health::ready)
        .service(metrics::metrics);
}

/// The OpenAPI 3.1 document of the server.
pub fn document() -> utoipa::openapi::OpenApi {
    let mut document = App::new()
        .into_utoipa_app()
        .openapi(Base::openapi())
        .configure(routes)
        .split_for_parts()
        .1;
    for item in document.paths.paths.values_mut() {
        let methods = [
            &mut item.get,
            &mut item.post,
            &mut item.put,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in methods.into_iter().flatten() {
            let has_body = operation.request_body.is_some();
            let responses = &mut operation.responses.responses;
            let is_keyed = responses.contains_key("401");
            let mut add = |status: &str, response: ResponseBuilder| {
                responses.insert(status.to_owned(), response.build().into());
            };
            if is_keyed {
                add("403", refusal("`WRONG_HOST`: the host is another app's"));
            }
            if has_body {
                add("408", refusal("`BODY_TOO_SLOW`"));
                add("413", refusal("`BODY_TOO_LARGE`"));
                add(
                    "415",
                    refusal("`UNSUPPORTED_ENCODING`: the body is compressed"),
                );
            }
            if is_keyed || has_body {
                add("429", rate_limited());
                add("503", unavailable());
            }
            for response in responses.values_mut() {
                let RefOr::T(response) = response else {
                    continue;
                };
                let Some(example) = example(&response.description) else {
                    continue;
                };
                for content in response.content.values_mut() {
                    if let RefOr::T(content) = content {
                        content.example = Some(example.clone());
                    }
                }
            }
        }
    }
    document
}

/// The error that a response's description names first, by its code; `None` where it names none.
fn example(description: &str) -> Option<Value> {
    let code = description.split('`').nth(1)?;
    let is_code = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
    if !code.bytes().all(is_code) {
        return None;
    }
    let error = match code {
        "INVALID_REQUEST" => {
            let mut fields = Fields::default();
            fields.wrong("maxParticipants", "must be a whole number from 0 to 100000");
            fields.check().err()?
        }
        "UNAUTHORIZED" => ApiError::unauthorized(),
        "ROOM_NAME_TAKEN" => rooms::Error::NameTaken.into(),
        "ROOM_NOT_FOUND" => ApiError::room_not_found(),
        "MEETING_NOT_FOUND" => ApiError::meeting_not_found(),
        "PARTICIPANT_NOT_FOUND" => ApiError::participant_not_found(),
        "WEBHOOK_NOT_FOUND" => ApiError::webhook_not_found(),
        "DELIVERY_NOT_FOUND" => ApiError::delivery_not_found(),
        "TOO_MANY_WEBHOOKS" => webhooks::Error::TooManyEndpoints.into(),
        "TOO_MANY_SECRETS" => webhooks::Error::TooManySecrets.into(),
        "WEBHOOK_OF_ROOM" => webhooks::Error::OfRoom.into(),
        "WEBHOOK_DISABLED" => webhooks::Error::Disabled.into(),
        "NO_LIVE_MEETING" => Denial::MeetingEnded.into(),
        "TARGET_NOT_FOUND" => Denial::TargetNotFound.into(),
        "ROOM_EXPIRED" => rooms::Error::Expired.into(),
        "ROOM_CHANGED" => rooms::Error::Changed.into(),
        "IDEMPOTENCY_KEY_REUSED" => ApiError::idempotency_key_reused(),
        "TOKEN_INVALID" => tokens::Error::Invalid.into(),
        "RATE_LIMITED" => ApiError::rate_limited(1),
        // Said in the description, in words of its own.
        _ => ApiError::invalid(description.replace('`', "")),
    };
    let mut example = serde_json::to_value(error).ok()?;
    example["code"] = json!(code);
    example["requestId"] = json!("f0c8a2d95b3e4d17");
    Some(example)
}

/// An error that is the same wherever it may come.
fn refusal(description: &str) -> ResponseBuilder {
    let error = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Error")))
        .build();
    ResponseBuilder::new()
        .description(description)
        .content("application/json", error)
}

fn unavailable() -> ResponseBuilder {
    refusal("`UNAVAILABLE`: the server starts, stops or is without its database")
        .header("Retry-After", header("Seconds after which to try again"))
}

fn rate_limited() -> ResponseBuilder {
    refusal("`RATE_LIMITED`: too many requests of the app, or too many with a wrong key or token from this address")
        .header(
            "Retry-After",
            header("Seconds after which there is room for the request"),
        )
        .header(
            "RateLimit-Policy",
            header("The limit: `\"app\";q=1000;w=10` is 1000 requests, back within 10 s"),
        )
        .header(
            "RateLimit",
            header(
                "What is left of it: `\"app\";r=999;t=1` is 999 requests, and all of them in 1 s",
            ),
        )
}

fn header(description: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(Object::with_type(Type::String)))
        .description(Some(description))
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::apps::AppSettings;

    #[test]
    fn each_refusal_has_an_example_of_its_own_code() {
        let document = serde_json::to_value(document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.values().flat_map(|item| item.as_object().unwrap());
        let mut seen = 0;
        for (_, operation) in operations {
            for (status, response) in operation["responses"].as_object().unwrap() {
                let description = response["description"].as_str().unwrap();
                let example = &response["content"]["application/json"]["example"];
                if status.as_str() >= "400" && description.starts_with('`') {
                    let code = description.split('`').nth(1).unwrap();
                    assert_eq!(example["code"], code, "{status} {description}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn properties_and_their_words_are_described_as_they_are_on_the_wire() {
        let document = serde_json::to_value(document()).unwrap();
        let schema = |name: &str| &document["components"]["schemas"][name];
        let described = |name: &str| -> BTreeSet<String> {
            schema(name)["properties"]
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect()
        };
        let rules = rooms::NAMES.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(described("Rules"), rules);
        let settings = AppSettings::default().document();
        assert_eq!(described("AppSettings"), settings.keys().cloned().collect());
        let branding = settings["branding"].as_object().unwrap();
        assert_eq!(described("Branding"), branding.keys().cloned().collect());
        let words = &schema("DuplicateUser")["enum"];
        assert_eq!(words, &json!(["replace", "refuse", "allow"]));
    }
}
