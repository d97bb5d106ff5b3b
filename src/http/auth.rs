//! Whose request it is: by a secret key, or by the host that it was sent to.

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::{header, uri::Authority},
    web::Data,
};
use futures_util::future::{LocalBoxFuture, Ready, ready};

use super::{Shared, error::ApiError, limits, peer::Origin};
use crate::{
    apps::{self, App, AppName, SecretKey},
    id::AppId,
};

/// The app whose secret key the request carries, as `?secretKey=` or `Authorization: Bearer`. On the host of an app, only
/// that app's keys are good; on any other host, everybody's.
///
/// A handler that forgets it does not know the tenant.
#[derive(Clone, Debug)]
pub struct AuthenticatedApp {
    /// The app.
    pub id: AppId,
    /// Its name.
    pub name: AppName,
}

/// The app on whose host the request came: `{app}.{base domain}`, or the default app on localhost, loopback addresses and
/// the host of `PLENUM_PUBLIC_URL`, and with `PLENUM_DEFAULT_APP` on every host that names no app.
#[derive(Clone, Debug)]
pub struct HostApp(pub App);

/// The app on whose sub-domain the request came; `None` on a host that all apps share: the base domain, localhost, loopback
/// addresses and the host of `PLENUM_PUBLIC_URL`.
#[derive(Clone, Debug)]
pub struct SubdomainApp(pub Option<App>);

/// The app that the host names as its sub-domain, if it names one.
#[derive(Clone, Debug)]
pub struct NamedApp(pub Option<AppName>);

impl FromRequest for AuthenticatedApp {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            Box::pin(limits::limited(
                &request,
                &shared,
                Self::find(&request, &shared),
            ))
            .await
        })
    }
}

impl AuthenticatedApp {
    async fn find(request: &HttpRequest, shared: &Shared) -> Result<Self, ApiError> {
        let key = secret_key(request).ok_or_else(ApiError::unauthorized)?;
        let credential = shared.keyring.authenticate(&key).await?;
        let credential = credential.ok_or_else(ApiError::unauthorized)?;
        let App { id, name, .. } = &credential.app;
        match whose(request, shared) {
            Tenant::Named(other) if other != *name => {
                Err(ApiError::wrong_host(name, &shared.base_domain))
            }
            _ => Ok(Self {
                id: *id,
                name: name.clone(),
            }),
        }
    }
}

impl FromRequest for HostApp {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            let app = match whose(&request, &shared) {
                Tenant::Named(name) => apps::find(&mut shared.db.system().await?, &name).await?,
                Tenant::Shared | Tenant::Nobody if !shared.default_app_everywhere => None,
                Tenant::Default | Tenant::Shared | Tenant::Nobody => shared.default_app.clone(),
            };
            app.map(Self).ok_or_else(ApiError::room_not_found)
        })
    }
}

impl FromRequest for SubdomainApp {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let shared = shared(&request)?;
            match whose(&request, &shared) {
                Tenant::Default | Tenant::Shared => Ok(Self(None)),
                Tenant::Named(name) => {
                    let app = apps::find(&mut shared.db.system().await?, &name).await?;
                    let app = app.ok_or_else(ApiError::app_not_found)?;
                    Ok(Self(Some(app)))
                }
                Tenant::Nobody if shared.default_app_everywhere => {
                    Ok(Self(shared.default_app.clone()))
                }
                Tenant::Nobody => Err(ApiError::app_not_found()),
            }
        })
    }
}

impl FromRequest for NamedApp {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(shared(request).map(|shared| match whose(request, &shared) {
            Tenant::Named(name) => Self(Some(name)),
            Tenant::Default | Tenant::Shared | Tenant::Nobody => Self(None),
        }))
    }
}

/// Whose host the request was sent to.
fn whose(request: &HttpRequest, shared: &Shared) -> Tenant {
    let host = host(request, &Origin::of(request, &shared.trusted_proxies));
    if host.is_some() && host == shared.public_host {
        return Tenant::Default;
    }
    tenant(host.as_ref(), &shared.base_domain)
}

/// Whose host it is.
#[derive(Debug, PartialEq, Eq)]
enum Tenant {
    /// The default app's: localhost, and the like.
    Default,
    /// This app's, which may not exist.
    Named(AppName),
    /// The base domain itself, which all apps share.
    Shared,
    /// It names no app.
    Nobody,
}

/// The host that the request names: by a trusted proxy, in its target (HTTP/2, proxies), or else in its one `Host` header
/// (RFC 9112, section 3.2).
pub fn host(request: &HttpRequest, origin: &Origin) -> Option<url::Host> {
    let authority = match (&origin.forwarded_host, request.uri().authority()) {
        (Some(forwarded), _) => Authority::try_from(forwarded.as_str()).ok()?,
        (None, Some(authority)) => authority.clone(),
        (None, None) => {
            let mut given = request.headers().get_all(header::HOST);
            let (Some(host), None) = (given.next(), given.next()) else {
                return None;
            };
            Authority::try_from(host.as_bytes()).ok()?
        }
    };
    let (host, rest) = (authority.host(), authority.as_str());
    let port = rest.strip_prefix(host)?; // and nobody's name before it
    if !port.is_empty() && authority.port_u16().is_none() {
        return None;
    }
    // A dot at the end says that the name is whole (RFC 1034, section 3.1).
    url::Host::parse(host.strip_suffix('.').unwrap_or(host)).ok()
}

fn tenant(host: Option<&url::Host>, base_domain: &str) -> Tenant {
    match host {
        Some(url::Host::Ipv4(ip)) if ip.is_loopback() => Tenant::Default,
        Some(url::Host::Ipv6(ip)) if ip.is_loopback() => Tenant::Default,
        Some(url::Host::Domain(domain)) if domain == "localhost" => Tenant::Default,
        Some(url::Host::Domain(domain)) if domain == base_domain => Tenant::Shared,
        Some(url::Host::Domain(domain)) => domain
            .strip_suffix(base_domain)
            .and_then(|rest| rest.strip_suffix('.'))
            .and_then(|name| name.parse().ok())
            .map_or(Tenant::Nobody, Tenant::Named),
        _ => Tenant::Nobody,
    }
}

/// The credential of the `Bearer` scheme, whose case does not matter (RFC 9110, section 11.1).
pub fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let (scheme, credential) = value.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("Bearer")
        .then_some(credential.trim())
}

fn secret_key(request: &HttpRequest) -> Option<SecretKey> {
    if let Some(key) = bearer(request) {
        return key.parse().ok();
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
    use actix_web::test::TestRequest;

    use super::*;

    fn host_of(request: TestRequest) -> Option<url::Host> {
        let request = request.to_http_request();
        host(&request, &Origin::of(&request, &[]))
    }

    fn at(authority: &str) -> Tenant {
        let request = TestRequest::default().insert_header((header::HOST, authority));
        let host = host_of(request);
        tenant(host.as_ref(), "meet.example.com")
    }

    #[test]
    fn the_app_is_the_sub_domain_of_the_base_domain_and_the_default_app_on_loopback() {
        for named in [
            "acme.meet.example.com",
            "acme.meet.example.com:8443",
            "ACME.Meet.example.com",
            "acme.meet.example.com.",
            "Acme.meet.example.com.:8443",
        ] {
            assert_eq!(
                at(named),
                Tenant::Named("acme".parse().unwrap()),
                "{named:?}"
            );
        }
        for loopback in [
            "localhost:8080",
            "LOCALHOST.",
            "127.0.0.1",
            "127.9.9.9:1",
            "[::1]:80",
        ] {
            assert_eq!(at(loopback), Tenant::Default, "{loopback}");
        }
        assert_eq!(at("Meet.example.com:80"), Tenant::Shared);
        let foreign = [
            "a.b.meet.example.com",
            "acmemeet.example.com",
            "acme.example.com",
            "10.0.0.1",
            "acme.localhost",
        ];
        for foreign in foreign {
            assert_eq!(at(foreign), Tenant::Nobody, "{foreign}");
        }
    }

    #[test]
    fn a_text_that_is_no_host_is_nobodys() {
        for wrong in [
            "",
            "[",
            "[::1",
            "::1",
            "a b",
            "%",
            ":80",
            "localhost:x",
            "localhost:99999",
            "ann@localhost",
            "localhost/x",
            ".",
            "localhost..",
        ] {
            assert_eq!(at(wrong), Tenant::Nobody, "{wrong:?}");
        }
    }

    #[test]
    fn the_target_of_a_request_goes_before_its_host_header() {
        let request = TestRequest::with_uri("http://acme.meet.example.com:80/standup")
            .insert_header((header::HOST, "localhost"));
        let host = host_of(request);
        let named = Tenant::Named("acme".parse().unwrap());
        assert_eq!(tenant(host.as_ref(), "meet.example.com"), named);
    }
}
