//! What a path answers to a method that none of its handlers is for.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    http::{
        Method, StatusCode,
        header::{self, HeaderValue},
    },
    web::{self, ServiceConfig},
};
use utoipa::openapi::{OpenApi, PathItem};

use super::error::ApiError;

/// Adds, behind the handlers of every path, the answer for all other methods. Registered after them.
pub fn others(document: &OpenApi) -> impl FnOnce(&mut ServiceConfig) {
    let documented = document.paths.paths.iter();
    let mut paths: Vec<(String, Vec<Method>)> = documented
        .map(|(path, item)| (path.clone(), methods(item)))
        .collect();
    paths.extend(UNDOCUMENTED.map(|(method, path)| (path.to_owned(), vec![method])));
    move |config| {
        for (path, mut allowed) in paths {
            // Whoever answers GET answers HEAD: the server makes the one of the other.
            if let Some(get) = allowed.iter().position(|method| *method == Method::GET) {
                allowed.insert(get + 1, Method::HEAD);
            }
            allowed.push(Method::OPTIONS);
            let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            let allowed = allowed.join(", ");
            let answer = move |request: HttpRequest| {
                let answer = other(&request, &allowed);
                async { answer }
            };
            config.service(web::resource(path).to(answer));
        }
    }
}

/// The answer to a method that the path has no handler for.
fn other(request: &HttpRequest, allowed: &str) -> HttpResponse {
    let mut response = if request.method() == Method::OPTIONS {
        HttpResponse::NoContent().finish()
    } else {
        let message = format!(
            "{} cannot be used here; what can is {allowed}",
            request.method()
        );
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            message,
        )
        .error_response()
    };
    if let Ok(allowed) = HeaderValue::from_str(allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

fn methods(item: &PathItem) -> Vec<Method> {
    let known = [
        (&item.get, Method::GET),
        (&item.post, Method::POST),
        (&item.put, Method::PUT),
        (&item.patch, Method::PATCH),
        (&item.delete, Method::DELETE),
    ];
    known
        .into_iter()
        .filter_map(|(operation, method)| operation.is_some().then_some(method))
        .collect()
}

/// Paths that the OpenAPI document does not have, in the order in which they are tried, each with what it answers.
const UNDOCUMENTED: [(Method, &str); 8] = [
    (Method::GET, "/docs"),
    (Method::GET, "/docs/{_:.*}"),
    (Method::GET, "/openapi.json"),
    (Method::GET, "/ws"),
    (Method::POST, "/api/rooms"),
    (Method::GET, "/config"),
    (Method::GET, "/assets/{path:.*}"),
    (Method::GET, "/{roomName}"),
];
