//! Whose request it is: by a secret key, or by the host that it was sent to.

use std::net::IpAddr;

use actix_web::{FromRequest, HttpRequest, dev::Payload, http::header, web::Data};
use futures_util::future::LocalBoxFuture;

use super::{Shared, error::ApiError};
use crate::{
    apps::{self, App, AppName, SecretKey},
    id::AppId,
};

/// The app whose secret key the request carries, as `?secretKey=` or `Authorization: Bearer`.
///
/// A handler that forgets it does not know the tenant.
#[derive(Clone, Copy, Debug)]
pub struct AuthenticatedApp {
    /// The app.
    pub id: AppId,
}

/// The app on whose host the request came: `{app}.{base domain}`, or the default app on localhost and loopback addresses.
#[derive(Clone, Debug)]
pub struct HostApp(pub App);

impl FromRequest for AuthenticatedApp {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            let key = secret_key(&request).ok_or_else(ApiError::unauthorized)?;
            let app = apps::authenticate(&mut shared.db.system().await?, &key).await?;
            app.map(|app| Self { id: app.id })
                .ok_or_else(ApiError::unauthorized)
        })
    }
}

impl FromRequest for HostApp {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            let app = match tenant(request.full_url().host(), &shared.base_domain) {
                Tenant::Default => shared.default_app.clone(),
                Tenant::Named(name) => apps::find(&mut shared.db.system().await?, &name).await?,
                Tenant::Nobody => None,
            };
            app.map(Self).ok_or_else(ApiError::room_not_found)
        })
    }
}

/// Whose host it is.
#[derive(Debug, PartialEq, Eq)]
enum Tenant {
    Default,
    Named(AppName),
    Nobody,
}

fn tenant(host: Option<url::Host<&str>>, base_domain: &str) -> Tenant {
    match host {
        Some(url::Host::Ipv4(ip)) if IpAddr::V4(ip).is_loopback() => Tenant::Default,
        Some(url::Host::Ipv6(ip)) if IpAddr::V6(ip).is_loopback() => Tenant::Default,
        Some(url::Host::Domain("localhost")) => Tenant::Default,
        Some(url::Host::Domain(domain)) => domain
            .strip_suffix(base_domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .and_then(|name| name.parse().ok())
            .map_or(Tenant::Nobody, Tenant::Named),
        _ => Tenant::Nobody,
    }
}

fn secret_key(request: &HttpRequest) -> Option<SecretKey> {
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    if let Some(key) = bearer.and_then(|value| value.strip_prefix("Bearer ")) {
        return key.trim().parse().ok();
    }
    let query = url::form_urlencoded::parse(request.query_string().as_bytes());
    query
        .into_iter()
        .find(|(name, _)| name == "secretKey")?
        .1
        .parse()
        .ok()
}

fn shared(request: &HttpRequest) -> Result<Data<Shared>, ApiError> {
    request
        .app_data::<Data<Shared>>()
        .cloned()
        .ok_or_else(|| ApiError::internal(&"the server has no shared state"))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    #[test]
    fn the_app_is_the_sub_domain_of_the_base_domain_and_the_default_app_on_loopback() {
        let at = |url: &str| tenant(Url::parse(url).unwrap().host(), "meet.example.com");
        assert_eq!(
            at("http://acme.meet.example.com/x"),
            Tenant::Named("acme".parse().unwrap())
        );
        for loopback in [
            "http://localhost:8080/",
            "http://127.0.0.1/",
            "http://127.9.9.9:1/",
            "http://[::1]:80/",
        ] {
            assert_eq!(at(loopback), Tenant::Default, "{loopback}");
        }
        let foreign = [
            "http://meet.example.com/",
            "http://a.b.meet.example.com/",
            "http://acmemeet.example.com/",
            "http://acme.example.com/",
            "http://10.0.0.1/",
            "http://acme.localhost/",
        ];
        for foreign in foreign {
            assert_eq!(at(foreign), Tenant::Nobody, "{foreign}");
        }
    }
}
