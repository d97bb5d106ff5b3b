//! Where a request came from, behind proxies that are trusted to say so.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::from_utf8,
};

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderMap, HeaderName},
};
use ipnet::IpNet;

/// Where a request came from.
///
/// What the connection itself tells; and where its other end is a trusted proxy, what that proxy forwards: the client is
/// the last address before the trusted ones. What was said further away than that may be anybody's invention and counts
/// for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The client's address; an IPv4 address is never written as IPv6.
    pub address: IpAddr,
    /// The host and port that the client asked for, where a trusted proxy says so; otherwise the request has it.
    pub forwarded_host: Option<String>,
    /// Whether the client came by TLS.
    pub secure: bool,
}

impl Origin {
    /// The origin of `request`, where `proxies` are trusted.
    ///
    /// `X-Forwarded-For`, `-Host` and `-Proto` are read, or where the first of them is absent, `Forwarded` (RFC 7239).
    pub fn of(request: &HttpRequest, proxies: &[IpNet]) -> Self {
        let peer = peer(request);
        let mut origin = Self {
            address: peer,
            forwarded_host: None,
            secure: request.app_config().secure(),
        };
        let is_trusted = |address: IpAddr| proxies.iter().any(|proxy| proxy.contains(&address));
        if !is_trusted(peer) {
            return origin;
        }
        let hops = Hops::of(request.headers());
        let mut depth = 0;
        for (index, stated) in hops.addresses.iter().enumerate() {
            let Some(address) = stated.and_then(address) else {
                break; // the nearest that is known stays
            };
            (origin.address, depth) = (address, index);
            if !is_trusted(address) {
                break;
            }
        }
        origin.forwarded_host = at(&hops.hosts, depth).map(str::to_owned);
        if let Some(scheme) = at(&hops.schemes, depth) {
            let is = |secure: &str| scheme.eq_ignore_ascii_case(secure);
            origin.secure = is("https") || is("wss");
        }
        origin
    }
}

/// Whether the request came from a program on this machine, by its own account too: over loopback, for a host that is
/// loopback, and with nothing in it that a proxy adds.
pub fn is_local(request: &HttpRequest, host: Option<&url::Host>) -> bool {
    let added = [
        X_FORWARDED_FOR,
        X_FORWARDED_HOST,
        X_FORWARDED_PROTO,
        header::FORWARDED,
        header::VIA,
    ];
    let headers = request.headers();
    let for_this_machine = match host {
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        Some(url::Host::Domain(domain)) => domain == "localhost",
        None => false,
    };
    peer(request).is_loopback()
        && for_this_machine
        && !added.iter().any(|name| headers.contains_key(name))
}

/// An address or a network, for `PLENUM_TRUSTED_PROXIES`.
pub fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network = text.parse().or_else(|_| text.parse().map(IpAddr::into));
    network.map_err(|_| "must be an address or a network, such as 10.0.0.0/8".to_owned())
}

/// The other end of the connection.
fn peer(request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map(|peer| peer.ip().to_canonical());
    peer.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

/// What the proxies on the way say, the nearest first.
#[derive(Debug, Default)]
struct Hops<'a> {
    addresses: Vec<Option<&'a str>>,
    hosts: Vec<Option<&'a str>>,
    schemes: Vec<Option<&'a str>>,
}

impl<'a> Hops<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        if headers.contains_key(X_FORWARDED_FOR) || !headers.contains_key(header::FORWARDED) {
            return Self {
                addresses: elements(headers, X_FORWARDED_FOR).map(Some).collect(),
                hosts: elements(headers, X_FORWARDED_HOST).map(Some).collect(),
                schemes: elements(headers, X_FORWARDED_PROTO).map(Some).collect(),
            };
        }
        let mut hops = Self::default();
        for element in elements(headers, header::FORWARDED) {
            let value = |wanted: &str| {
                let mut pairs = rsplit(element, ';').filter_map(|pair| pair.split_once('='));
                let (_, value) =
                    pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))?;
                Some(value.trim().trim_matches('"'))
            };
            hops.addresses.push(value("for"));
            hops.hosts.push(value("host"));
            hops.schemes.push(value("proto"));
        }
        hops
    }
}

/// The elements of all the headers of this name, the last first.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let mut lines: Vec<&str> = headers
        .get_all(name)
        .map(|line| from_utf8(line.as_bytes()).unwrap_or("?"))
        .collect();
    lines.reverse();
    let elements = lines.into_iter().flat_map(|line| rsplit(line, ','));
    elements
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// What stands between separators that are not inside quotation marks, the last first: what a proxy appended is read before
/// anything that a client may have left open.
fn rsplit(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.rsplit(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
}

/// An address as it is forwarded: alone, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let ip: IpAddr = text
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|peer| peer.ip()))
        .or_else(|| bracketed().map(|ip: Ipv6Addr| ip.into()))?;
    Some(ip.to_canonical())
}

/// What the hop at `depth` says. One proxy may write a header that those before it leave as it is: then it speaks for all.
fn at<'a>(stated: &[Option<&'a str>], depth: usize) -> Option<&'a str> {
    stated.get(depth).or(stated.last()).copied().flatten()
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderValue, test::TestRequest};
    use proptest::prelude::*;

    use super::*;

    fn origin(peer: &str, headers: &[(&str, &str)]) -> Origin {
        let proxies = ["10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48"];
        let proxies: Vec<IpNet> = proxies.iter().map(|text| network(text).unwrap()).collect();
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        let mut request = TestRequest::default().peer_addr(peer);
        for (name, value) in headers {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request = request.append_header((*name, value));
        }
        Origin::of(&request.to_http_request(), &proxies)
    }

    fn client(peer: &str, headers: &[(&str, &str)]) -> String {
        origin(peer, headers).address.to_string()
    }

    #[test]
    fn the_client_is_the_last_address_before_the_trusted_proxies() {
        const X: &str = "X-Forwarded-For";
        for (stated, client_is) in [
            ("203.0.113.9", "203.0.113.9"),
            ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
            ("127.0.0.1, 203.0.113.9, 10.1.1.1", "203.0.113.9"),
            ("6.6.6.6,203.0.113.9,192.0.2.7,10.1.1.1", "203.0.113.9"),
            ("10.3.3.3, 10.2.2.2", "10.3.3.3"),
            ("203.0.113.9:4711", "203.0.113.9"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:203.0.113.9", "203.0.113.9"),
            ("203.0.113.9, ::ffff:10.1.1.1", "203.0.113.9"),
            ("203.0.113.9, 2001:db8:ffff::5", "203.0.113.9"),
            ("6.6.6.6,, ,203.0.113.9,", "203.0.113.9"),
            // The proxy does not know, so neither do we: what stands further away is nobody's word.
            ("6.6.6.6, unknown", "10.0.0.1"),
            ("6.6.6.6, _hidden, 10.1.1.1", "10.1.1.1"),
            ("6.6.6.6, 1.2.3.4.5", "10.0.0.1"),
            ("6.6.6.6, 203.0.113.9 203.0.113.8", "10.0.0.1"),
            ("6.6.6.6, é", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[(X, stated)]), client_is, "{stated:?}");
            // A proxy that does not append to the client's header sends one of its own after it.
            let two = [(X, "6.6.6.6"), (X, stated)];
            let client_is = if stated.is_empty() || stated == "10.3.3.3, 10.2.2.2" {
                "6.6.6.6"
            } else {
                client_is
            };
            assert_eq!(client("10.0.0.1", &two), client_is, "{stated:?} in two");
        }
        assert_eq!(client("::ffff:10.0.0.1", &[(X, "6.6.6.6")]), "6.6.6.6");
        assert_eq!(
            client("::ffff:203.0.113.1", &[(X, "6.6.6.6")]),
            "203.0.113.1"
        );
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_writes_it_and_quotes_that_a_client_left_open_hide_nothing() {
        for (stated, client_is) in [
            ("for=203.0.113.9", "203.0.113.9"),
            ("For=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            (
                "for=6.6.6.6;proto=http, for=203.0.113.9;by=10.0.0.1;proto=https",
                "203.0.113.9",
            ),
            (
                "by=10.0.0.1 ; for=203.0.113.9 , for=10.1.1.1",
                "203.0.113.9",
            ),
            ("for=\"6.6.6.6, for=203.0.113.9", "203.0.113.9"),
            ("for=\"6.6.6.6, for=\"203.0.113.9\"", "203.0.113.9"),
            ("for=6.6.6.6, for=unknown", "10.0.0.1"),
            ("for=6.6.6.6, proto=https", "10.0.0.1"),
            ("for", "10.0.0.1"),
        ] {
            assert_eq!(
                client("10.0.0.1", &[("Forwarded", stated)]),
                client_is,
                "{stated:?}"
            );
        }
        // A proxy that writes the one header lets the client's other one through.
        let both = [
            ("Forwarded", "for=6.6.6.6;host=evil.example"),
            ("X-Forwarded-For", "203.0.113.9"),
        ];
        let origin = origin("10.0.0.1", &both);
        assert_eq!(origin.address.to_string(), "203.0.113.9");
        assert_eq!(origin.forwarded_host, None);
    }

    #[test]
    fn host_and_scheme_are_those_that_the_clients_own_proxy_saw() {
        let seen = |headers: &[(&str, &str)]| {
            let origin = origin("10.0.0.1", headers);
            (origin.forwarded_host.unwrap_or_default(), origin.secure)
        };
        let host = |text: &str| text.to_owned();
        assert_eq!(seen(&[]), (host(""), false));
        let both = [
            ("X-Forwarded-Host", "acme.example.com:8443"),
            ("X-Forwarded-Proto", "HTTPS"),
        ];
        assert_eq!(seen(&both), (host("acme.example.com:8443"), true));
        let chain = [
            ("X-Forwarded-For", "6.6.6.6, 203.0.113.9, 10.2.2.2"),
            ("X-Forwarded-Host", "evil.example, acme.example.com, inside"),
            ("X-Forwarded-Proto", "http, https, http"),
        ];
        assert_eq!(seen(&chain), (host("acme.example.com"), true));
        let once = [
            ("X-Forwarded-For", "203.0.113.9, 10.2.2.2"),
            ("X-Forwarded-Host", "acme.example.com"),
        ];
        assert_eq!(seen(&once), (host("acme.example.com"), false));
        let forwarded = "for=6.6.6.6;host=evil.example, for=203.0.113.9;host=\"acme.example.com:1\";proto=https";
        let forwarded = [("Forwarded", forwarded)];
        assert_eq!(seen(&forwarded), (host("acme.example.com:1"), true));
        let silent = "for=6.6.6.6;host=evil.example;proto=https, for=203.0.113.9";
        assert_eq!(seen(&[("Forwarded", silent)]), (host(""), false));
    }

    #[test]
    fn an_address_or_a_network_is_trusted_and_nothing_else_is_one() {
        for good in ["10.0.0.0/8", " 10.0.0.1", "::1", "fd00::/8"] {
            assert!(network(good).is_ok(), "{good:?}");
        }
        for bad in ["", "10.0.0.0/33", "proxy", "10.0.0", "10.0.0.1:80", "*"] {
            assert!(network(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nobody_but_a_trusted_proxy_says_who_they_are(
            last in any::<u8>(), x in "[ -~]{0,60}", host in "[ -~]{0,30}", forwarded in "[ -~]{0,60}",
        ) {
            let peer = format!("203.0.113.{last}");
            let told = origin(&peer, &[
                ("X-Forwarded-For", &x), ("X-Forwarded-Host", &host), ("X-Forwarded-Proto", "https"),
                ("Forwarded", &forwarded),
            ]);
            prop_assert_eq!(told, origin(&peer, &[]));
        }

        #[test]
        fn whatever_a_client_sends_first_its_proxys_word_stands(
            before in "[ -~]{0,80}", lines in prop::collection::vec("[ -~]{0,40}", 0..3), address in any::<IpAddr>(),
        ) {
            let address = address.to_canonical();
            prop_assume!(client(&address.to_string(), &[("X-Forwarded-For", "6.6.6.6")]) != "6.6.6.6");
            let in_forwarded = if address.is_ipv4() { address.to_string() } else { format!("\"[{address}]\"") };
            for (name, own) in [
                ("X-Forwarded-For", format!("{before}, {address}")),
                ("Forwarded", format!("{before}, for={in_forwarded}")),
            ] {
                let mut headers: Vec<(&str, &str)> = lines.iter().map(|line| (name, line.as_str())).collect();
                headers.push((name, &own));
                prop_assert_eq!(client("10.0.0.1", &headers), address.to_string(), "{:?}", headers);
            }
        }
    }
}
