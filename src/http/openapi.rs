//! The OpenAPI document, from the handlers themselves.

use actix_web::App;
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Components, ContentBuilder, HeaderBuilder, Object, Ref, Response, ResponseBuilder,
        schema::Type,
        security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_actix_web::{AppExt, service_config::ServiceConfig};

use super::{error, health, metrics, v1};

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
        (name = "tokens", description = "Who has one may join, with a role and limits; a private room needs one."),
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
            "Your app's secret key. Never send it from a browser.",
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
        .service(v1::rooms::create_room)
        .service(v1::rooms::update_room)
        .service(v1::rooms::get_room)
        .service(v1::rooms::list_rooms)
        .service(v1::batch::create_rooms)
        .service(v1::batch::delete_rooms)
        .service(v1::rooms::delete_room)
        .service(v1::tokens::create_token)
        .service(v1::tokens::validate_token)
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
            let responses = &mut operation.responses.responses;
            // Wherever a key is asked for, requests are counted.
            if responses.contains_key("401") {
                responses.insert("429".to_owned(), rate_limited().into());
            }
        }
    }
    document
}

fn rate_limited() -> Response {
    let header = |text| {
        let schema = Object::with_type(Type::String);
        HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(text))
            .build()
    };
    let error = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Error")))
        .build();
    ResponseBuilder::new()
        .description(
            "`RATE_LIMITED`: too many requests of the app, or too many without a valid key",
        )
        .content("application/json", error)
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
        .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::{apps::AppSettings, rooms};

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
