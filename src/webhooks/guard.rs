//! Requests to URLs that customers chose, kept away from everything that is not on the public internet.
//!
//! A literal address is judged before anything else happens, a name is resolved once, and the connection goes to an
//! address that was judged: there is no second look-up whose answer could differ. Redirects are not followed, and no
//! proxy is taken from the environment.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use url::{Host, Url};

/// Which addresses a request may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those of the public internet.
    Public,
    /// All, private networks and this machine included: for development.
    Anywhere,
}

/// Why no request goes to a URL; the message is for whoever wrote the URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Longer than [`MAX_URL_LEN`].
    #[error("is too long: a webhook URL has at most {MAX_URL_LEN} bytes")]
    TooLong,
    /// Not an absolute URL with a host.
    #[error("is not a URL ({0}): write it in full, such as https://example.com/webhooks")]
    Malformed(String),
    /// Neither `https` nor `http`.
    #[error("starts with {0}: where a webhook URL starts with https:// or http://")]
    Scheme(String),
    /// A user name or a password stands before the host.
    #[error(
        "contains a user name or password: leave it out, and check the webhook-signature header instead"
    )]
    Credentials,
    /// Another protocol's port, mail above all.
    #[error("names port {0}, which is not a web server's: use 443, 80 or one such as 8443")]
    Port(u16),
    /// The host is, or resolves to, an address of a private or special network.
    #[error(
        "leads to {0}, which is not on the public internet: use a host that can be reached from there"
    )]
    NotPublic(String),
}

/// Checks what can be known of a webhook URL without a look-up: form, length, scheme, port, and a literal address.
///
/// # Errors
///
/// A [`UrlError`] that reads as the continuation of the field's name.
pub fn check_url(text: &str, reach: Reach) -> Result<Url, UrlError> {
    if text.len() > MAX_URL_LEN {
        return Err(UrlError::TooLong);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Malformed("it contains white space".to_owned()));
    }
    let url = Url::parse(text).map_err(|error| UrlError::Malformed(error.to_string()))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(UrlError::Scheme(url.scheme().to_owned()));
    }
    if url.as_str().len() > MAX_URL_LEN {
        return Err(UrlError::TooLong);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(UrlError::Credentials);
    }
    match url.port() {
        Some(port) if BAD_PORTS.contains(&port) => return Err(UrlError::Port(port)),
        _ => {}
    }
    let public = match url.host() {
        None => return Err(UrlError::Malformed("it has no host".to_owned())),
        Some(Host::Ipv4(address)) => is_public_v4(address),
        Some(Host::Ipv6(address)) => is_public_v6(address),
        Some(Host::Domain(name)) => !is_local_name(name),
    };
    if !public && reach == Reach::Public {
        return Err(UrlError::NotPublic(
            url.host_str().unwrap_or_default().to_owned(),
        ));
    }
    Ok(url)
}

/// Host and port of a webhook URL: what one receiver is told from another by, and all of a URL that logs may hold.
pub fn receiver(url: &str) -> String {
    match Url::parse(url) {
        Ok(url) => {
            let port = url.port_or_known_default().unwrap_or_default();
            format!("{}:{port}", url.host_str().unwrap_or_default())
        }
        Err(_) => String::new(),
    }
}

/// A webhook URL with `…` for its query, which may hold a secret.
pub fn without_query(url: &str) -> String {
    match url.split_once(['?', '#']) {
        Some((before, _)) => format!("{before}?…"),
        None => url.to_owned(),
    }
}

/// Whether an address is a host's on the public internet.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|net| net.contains(&address))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    GLOBAL_UNICAST.contains(&address) && !SPECIAL_V6.iter().any(|net| net.contains(&address))
}

/// Names that always mean the machine itself (RFC 6761, section 6.3), whatever a resolver says.
fn is_local_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// Sends requests within its [`Reach`].
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    reach: Reach,
    timeout: Duration,
}

/// What a receiver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The `Retry-After` header, as it came.
    pub retry_after: Option<String>,
    /// The first KiB of the body, as text: what is not UTF-8, and NUL, is replaced.
    pub body: String,
}

/// Why there is no [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The request was not allowed.
    #[error("the URL {0}")]
    Refused(#[from] UrlError),
    /// It took longer than one request may.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// The name could not be resolved, nobody listens, or TLS failed.
    #[error("could not connect: {0}")]
    Connect(String),
    /// The exchange broke off, or was not HTTP.
    #[error("the exchange failed: {0}")]
    Exchange(String),
}

impl Client {
    /// A client whose requests take at most `timeout` each, look-up and answer included.
    ///
    /// # Errors
    ///
    /// When the system's root certificates cannot be read.
    pub fn new(reach: Reach, timeout: Duration) -> reqwest::Result<Self> {
        Self::with_lookup(reach, timeout, Arc::new(|name| Box::pin(look_up(name))))
    }

    fn with_lookup(reach: Reach, timeout: Duration, lookup: Lookup) -> reqwest::Result<Self> {
        let http = reqwest::Client::builder()
            .user_agent(concat!("Plenum/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            // Webhooks to one receiver are seconds apart: an idle connection would more often fail than serve.
            .pool_max_idle_per_host(0)
            .dns_resolver(Guard { reach, lookup })
            .build()?;
        Ok(Self {
            http,
            reach,
            timeout,
        })
    }

    /// Posts `body`, which is JSON, to `url`.
    ///
    /// # Errors
    ///
    /// A [`Failure`] when no answer came; every status is an [`Answer`].
    pub async fn post_json(
        &self,
        url: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, Failure> {
        let url = check_url(url, self.reach)?;
        let request = self
            .http
            .post(url)
            .headers(headers)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(body);
        let mut response = request.send().await.map_err(|error| self.failure(&error))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let mut start = Vec::new();
        // The status is the answer. A body that breaks off, stalls or goes on for ever does not change it.
        while start.len() < ANSWER_LEN
            && let Ok(Some(chunk)) = response.chunk().await
        {
            start.extend_from_slice(&chunk[..chunk.len().min(ANSWER_LEN - start.len())]);
        }
        Ok(Answer {
            status,
            retry_after,
            body: text(&start),
        })
    }

    fn failure(&self, error: &reqwest::Error) -> Failure {
        let causes = || std::iter::successors(error.source(), |&cause| cause.source());
        if let Some(refused) = causes().find_map(|cause| cause.downcast_ref::<UrlError>()) {
            return Failure::Refused(refused.clone());
        }
        // The outer errors only say what was being done; and they name the URL, whose query may hold a secret.
        let root = causes().last().map_or_else(
            || "the connection broke".to_owned(),
            |cause| cause.to_string(),
        );
        if error.is_timeout() {
            Failure::Timeout(self.timeout)
        } else if error.is_connect() {
            Failure::Connect(root)
        } else {
            Failure::Exchange(root)
        }
    }
}

fn text(start: &[u8]) -> String {
    // A character that the limit cut in two is left out.
    let whole = match std::str::from_utf8(start) {
        Err(error) if error.error_len().is_none() => &start[..error.valid_up_to()],
        _ => start,
    };
    // Postgres stores no NUL in a text.
    String::from_utf8_lossy(whole).replace('\0', "\u{fffd}")
}

/// Turns a name into addresses.
type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

async fn look_up(name: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((name, 0))
        .await?
        .map(|address| address.ip())
        .collect())
}

/// The only way from a name to an address: what it lets through is what is connected to.
struct Guard {
    reach: Reach,
    lookup: Lookup,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, name) = (self.reach, name.as_str().to_owned());
        let found = (self.lookup)(name.clone());
        Box::pin(async move {
            let mut addresses = found.await?;
            if addresses.is_empty() {
                return Err(io::Error::other(format!("{name} has no address")).into());
            }
            if reach == Reach::Public {
                addresses.retain(|address| is_public(*address));
                if addresses.is_empty() {
                    // Without the address, which may be of a private network of ours.
                    return Err(UrlError::NotPublic(name).into());
                }
            }
            // Port 0 stands for the URL's.
            let addresses: Addrs = Box::new(
                addresses
                    .into_iter()
                    .map(|address| SocketAddr::new(address, 0)),
            );
            Ok(addresses)
        })
    }
}

/// Longest URL, in bytes: what servers commonly take.
pub const MAX_URL_LEN: usize = 2048;

/// How much of an answer's body is read, in bytes: enough to see what went wrong.
const ANSWER_LEN: usize = 1024;

/// Ports where a request's text could be taken for another protocol: those that browsers refuse (Fetch, "bad port"),
/// and further ones of mail and of line-based stores.
const BAD_PORTS: &[u16] = &[
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101,
    102, 103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427,
    465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990,
    993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667,
    6668, 6669, 6679, 6697, 10080, // Fetch
    26, 2525, // mail
    6379, 11211, // stores
];

/// Where hosts of the public internet have their IPv6 addresses (RFC 4291, section 2.4). Loopback, IPv4-mapped, NAT64
/// (64:ff9b::/96, 64:ff9b:1::/48), unique local, link-local and multicast addresses lie outside.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// What is special within [`GLOBAL_UNICAST`] (IANA's registry, RFC 6890).
const SPECIAL_V6: [Ipv6Net; 4] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocols: Teredo, benchmarking, ORCHID
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4: an IPv4 address within
    Ipv6Net::new_assert(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// IPv4 networks whose addresses are no public host's (IANA's registry, RFC 6890).
const SPECIAL_V4: [Ipv4Net; 16] = [
    Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8), // this network
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8), // private
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10), // carriers' NAT; a cloud's metadata
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), // loopback
    Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32), // a cloud's platform services, despite its public range
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local; clouds' metadata
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),     // protocols; a cloud's metadata
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    Ipv4Net::new_assert(Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarking
    Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    Ipv4Net::new_assert(Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, broadcast
];

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// Each leads somewhere that is not the public internet; those of them that have no port are tried with one that listens.
    const SPECIAL: &[&str] = &[
        // this machine
        "http://localhost/",
        "http://LOCALHOST:8080/",
        "http://localhost./",
        "http://app.localhost/",
        "http://127.0.0.1/",
        "http://127.0.0.1./",
        "http://127.8.9.10/",
        "http://127.1/",
        "http://127.0.1/",
        "http://2130706433/",
        "http://017700000001/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0X7F.0.0.1/",
        "http://0177.0.0.1/",
        "http://0177.0.0.0x1/",
        "http://%31%32%37.0.0.1/",
        "http://127%2e0%2e0%2e1/",
        "http://127。0。0。1/",
        "http://127.0.0.1/",
        "http://①②⑦.⓪.⓪.①/",
        "http:127.0.0.1/",
        "http:\\\\127.0.0.1\\",
        "http:///127.0.0.1/",
        "http://0/",
        "http://0.0.0.0/",
        "http://0x0/",
        "http://0.1.2.3/",
        "http://[::1]/",
        "http://[::]/",
        "http://[0:0:0:0:0:0:0:1]/",
        "http://[0000::0001]:8080/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::ffff:0:127.0.0.1]/",
        // private networks, and other networks' private halves
        "http://10.0.0.1/",
        "http://10.1/",
        "http://0xa.1/",
        "http://167772161/",
        "http://012.0.0.1/",
        "http://172.16.0.1/",
        "http://172.31.255.255/",
        "http://192.168.1.1/",
        "http://192.168.257/",
        "http://3232235777/",
        "http://[::ffff:10.0.0.1]/",
        "http://[::ffff:c0a8:101]/",
        "http://[fc00::1]/",
        "http://[fd12:3456::1]/",
        "http://[fe80::1]/",
        "http://[fec0::1]/",
        "http://100.64.0.1/",
        "http://100.127.255.254/",
        // clouds' metadata
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://0251.0376.0251.0376/",
        "http://169.254.43518/",
        "http://[::ffff:169.254.169.254]/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://192.0.0.192/",
        "http://168.63.129.16/",
        // ways from IPv6 to IPv4
        "http://[64:ff9b::7f00:1]/",
        "http://[64:ff9b::10.0.0.1]/",
        "http://[64:ff9b::8.8.8.8]/",
        "http://[64:ff9b:1::a00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[2002:a9fe:a9fe::1]/",
        "http://[2001:0:7f00:1::1]/",
        "http://[2001::1]/",
        "http://192.88.99.1/",
        // nobody's
        "http://192.0.2.1/",
        "http://198.51.100.7/",
        "http://203.0.113.9/",
        "http://[2001:db8::1]/",
        "http://[3fff:1::1]/",
        "http://198.18.0.1/",
        "http://198.19.255.255/",
        "http://[2001:2::1]/",
        "http://[100::1]/",
        "http://[5f00::1]/",
        "http://224.0.0.1/",
        "http://239.255.255.250/",
        "http://[ff02::1]/",
        "http://240.0.0.1/",
        "http://255.255.255.255/",
        "http://4294967295/",
        "http://[4000::1]/",
        // names in other guises
        "http://ｌｏｃａｌｈｏｓｔ/",
        "http://loc%61lhost/",
        "http://LocalHost./",
        "http://a.b.localhost./",
        "http://１２７.０.０.１/",
        "http://0177.1/",
        "http://0x7f.0x0.0x0.0x1/",
        "http://00000177.0.0.1/",
        "http://127.0.0.1:80/",
        "https://127.0.0.1:443/",
        "http://[0:0:0:0:0:ffff:127.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[64:ff9b:1:ffff::7f00:1]/",
        "http://[2001:0:53aa:64c:0:0:80ff:fffe]/",
        "http://[fe80::a9fe:a9fe]/",
        "http://[ff05::1:3]/",
        "http://metadata.localhost/",
    ];

    #[test]
    fn no_spelling_of_a_special_address_is_accepted() {
        assert!(SPECIAL.len() >= 60);
        for spelling in SPECIAL {
            let refused = check_url(spelling, Reach::Public);
            assert!(
                matches!(refused, Err(UrlError::NotPublic(_))),
                "{spelling} {refused:?}"
            );
            assert!(
                check_url(spelling, Reach::Anywhere).is_ok(),
                "{spelling} is meant to be refused for its address alone"
            );
        }
    }

    /// `url` with this port, however it is spelled, unless it has one.
    fn with_port(url: &str, port: u16) -> String {
        let (scheme, rest) = url.split_once(':').unwrap();
        let start = rest.len() - rest.trim_start_matches(['/', '\\']).len();
        let end = rest[start..]
            .find(['/', '\\'])
            .map_or(rest.len(), |at| start + at);
        let host = &rest[start..end];
        if host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
            && !host.ends_with(']')
        {
            return url.to_owned();
        }
        format!("{scheme}:{}{host}:{port}{}", &rest[..start], &rest[end..])
    }

    #[tokio::test]
    async fn no_spelling_makes_a_connection() {
        // On each of this machine's addresses that a spelling can mean, and each on two ports.
        let mut receivers = Vec::new();
        for address in ["127.0.0.1:0", "[::1]:0", "127.0.0.1:0", "0.0.0.0:0"] {
            receivers.push(listening(TcpListener::bind(address).await.unwrap(), OK));
        }
        let (lookup, asked) = scripted(&[&["127.0.0.1"], &["8.8.8.8"]]);
        let public = Client::with_lookup(Reach::Public, TIMEOUT, lookup).unwrap();
        for (port, _) in &receivers {
            for spelling in SPECIAL {
                let url = with_port(spelling, *port);
                let refused = post(&public, &url).await;
                assert!(
                    matches!(refused, Err(Failure::Refused(UrlError::NotPublic(_)))),
                    "{url} {refused:?}"
                );
            }
            for malformed in [
                format!("http://user@127.0.0.1:{port}/"),
                format!("http://8.8.8.8@127.0.0.1:{port}/"),
                format!("http://127.0.0.1:{port}@8.8.8.8:25/"),
                format!("http://[::1%25lo]:{port}/"),
                format!("http://[fe80::1%lo]:{port}/"),
                format!("http://127.0.0.1 :{port}/"),
                format!("http://[127.0.0.1]:{port}/"),
                format!("http://127.0.0.1\u{0}:{port}/"),
                format!("ftp://127.0.0.1:{port}/"),
                "http://127.0.0.1:25/".to_owned(),
                "https://8.8.8.8:587/".to_owned(),
            ] {
                let refused = post(&public, &malformed).await;
                assert!(
                    matches!(refused, Err(Failure::Refused(_))),
                    "{malformed} {refused:?}"
                );
            }
        }
        let made = |receivers: &[(u16, Arc<AtomicUsize>)]| -> Vec<usize> {
            receivers
                .iter()
                .map(|(_, connections)| connections.load(SeqCst))
                .collect()
        };
        assert_eq!((made(&receivers), asked.load(SeqCst)), (vec![0; 4], 0));

        // Whoever listens is reached by these spellings where the guard is lifted.
        let anywhere = Client::new(Reach::Anywhere, TIMEOUT).unwrap();
        for (index, spelling) in [
            (0, "http://2130706433/"),
            (0, "http://0x7f.1/"),
            (0, "http://１２７.０.０.１/"),
            (1, "http://[0:0:0:0:0:0:0:1]/"),
            (2, "http://[::ffff:7f00:1]/"),
            (3, "http://0/"),
        ] {
            let url = with_port(spelling, receivers[index].0);
            assert_eq!(post(&anywhere, &url).await.unwrap().status, 200, "{url}");
        }
        assert_eq!(made(&receivers), [3, 1, 1, 1]);
    }

    /// The environment is a process's: the test runs itself again in one that names proxies.
    #[tokio::test]
    async fn no_proxy_of_the_environment_is_asked() {
        const TARGET: &str = "PLENUM_TEST_TARGET";
        if let Ok(target) = std::env::var(TARGET) {
            let client = Client::new(Reach::Anywhere, TIMEOUT).unwrap();
            assert_eq!(post(&client, &target).await.unwrap().status, 200);
            let public = Client::new(Reach::Public, TIMEOUT).unwrap();
            assert!(matches!(
                post(&public, &target).await,
                Err(Failure::Refused(_))
            ));
            return;
        }
        let (proxy, asked) = receiver(OK).await;
        let (target, reached) = receiver(OK).await;
        let mut again = tokio::process::Command::new(std::env::current_exe().unwrap());
        again.args([
            "--exact",
            "webhooks::guard::tests::no_proxy_of_the_environment_is_asked",
        ]);
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            again.env(name, format!("http://127.0.0.1:{proxy}"));
            again.env(name.to_uppercase(), format!("http://127.0.0.1:{proxy}"));
        }
        again
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .env_remove("REQUEST_METHOD");
        let output = again
            .env(TARGET, format!("http://127.0.0.1:{target}/"))
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert_eq!((asked.load(SeqCst), reached.load(SeqCst)), (0, 1));
    }

    #[test]
    fn what_is_no_webhook_url_is_refused_whatever_the_reach() {
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL_LEN));
        let grows = format!("https://example.com/{}", "é".repeat(600)); // three bytes for each of its own, once escaped
        let cases = [
            ("", "is not a URL"),
            ("example.com/hook", "is not a URL"),
            ("//example.com/hook", "is not a URL"),
            ("https://", "is not a URL"),
            ("https://exa mple.com/", "white space"),
            ("https://example.com/\r\nx: y", "white space"),
            (" https://example.com/", "white space"),
            ("http://256.256.256.256/", "is not a URL"),
            ("http://1.2.3.4.5/", "is not a URL"),
            ("http://[::1/", "is not a URL"),
            ("http://[fe80::1%25eth0]/", "is not a URL"),
            ("https://example.com:99999/", "is not a URL"),
            ("ftp://example.com/", "https:// or http://"),
            ("file:///etc/passwd", "https:// or http://"),
            ("gopher://example.com:70/", "https:// or http://"),
            ("javascript:alert(1)", "https:// or http://"),
            ("https://user@example.com/", "user name or password"),
            (
                "https://user:password@example.com/",
                "user name or password",
            ),
            ("https://:password@example.com/", "user name or password"),
            ("https://127.0.0.1@example.com/", "user name or password"),
            ("http://example.com:25/", "port 25"),
            ("https://example.com:465/", "port 465"),
            ("http://example.com:587/", "port 587"),
            ("http://example.com:2525/", "port 2525"),
            ("http://example.com:22/", "port 22"),
            ("http://example.com:6379/", "port 6379"),
            ("http://example.com:0/", "port 0"),
            (&long, "too long"),
            (&grows, "too long"),
        ];
        for (url, says) in cases {
            for reach in [Reach::Public, Reach::Anywhere] {
                let error = check_url(url, reach).expect_err(url).to_string();
                assert!(error.contains(says), "{url}: {error}");
            }
        }
    }

    #[test]
    fn public_urls_are_accepted() {
        for url in [
            "https://example.com/hook?token=1",
            "http://example.com:8080/",
            "HTTPS://EXAMPLE.COM",
            "https://bücher.example/",
            "https://8.8.8.8:8443/",
            "https://[2606:4700:4700::1111]/",
            "https://localhost.example.com/",
            "https://172.32.0.1/",
            "https://100.128.0.1/",
            "https://192.169.0.1/",
        ] {
            assert!(check_url(url, Reach::Public).is_ok(), "{url}");
        }
    }

    /// Answers a look-up with the next of `answers`; the last one stays.
    fn scripted(answers: &'static [&'static [&'static str]]) -> (Lookup, Arc<AtomicUsize>) {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let lookup: Lookup = Arc::new(move |_| {
            let turn = count.fetch_add(1, SeqCst).min(answers.len() - 1);
            Box::pin(async move {
                Ok(answers[turn]
                    .iter()
                    .map(|address| address.parse().unwrap())
                    .collect())
            })
        });
        (lookup, asked)
    }

    /// Answers every connection with `answer`; counts them.
    async fn receiver(answer: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
        listening(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    fn listening(listener: TcpListener, answer: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer).await;
            }
        });
        (port, connections)
    }

    async fn post(client: &Client, url: &str) -> Result<Answer, Failure> {
        client
            .post_json(url, HeaderMap::new(), "{}".to_owned())
            .await
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_special_address_is_refused_without_a_connection() {
        let (port, connections) = receiver(b"HTTP/1.1 200 OK\r\n\r\n").await;
        const ANSWERS: [&[&[&str]]; 3] = [
            &[&["127.0.0.1"]],
            &[&["::1"]],
            &[&["10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"]],
        ];
        for answers in ANSWERS {
            let (lookup, asked) = scripted(answers);
            let client = Client::with_lookup(Reach::Public, TIMEOUT, lookup).unwrap();
            let refused = post(&client, &format!("http://inside.example:{port}/")).await;
            assert_eq!(
                refused,
                Err(Failure::Refused(UrlError::NotPublic(
                    "inside.example".to_owned()
                )))
            );
            assert_eq!(asked.load(SeqCst), 1);
        }
        assert_eq!(connections.load(SeqCst), 0);
    }

    #[tokio::test]
    async fn a_resolver_that_changes_its_answer_gets_nowhere() {
        // The check sees a public address, and whoever looked again would find this machine.
        let (lookup, asked) = scripted(&[&["8.8.8.8"], &["127.0.0.1"]]);
        let guard = Guard {
            reach: Reach::Public,
            lookup,
        };
        let found: Vec<_> = guard
            .resolve("rebind.example".parse().unwrap())
            .await
            .unwrap()
            .collect();
        assert_eq!(found, ["8.8.8.8:0".parse::<SocketAddr>().unwrap()]);
        let refused = guard
            .resolve("rebind.example".parse().unwrap())
            .await
            .err()
            .unwrap();
        assert!(refused.downcast_ref::<UrlError>().is_some(), "{refused}");
        assert_eq!(asked.load(SeqCst), 2);

        // And nobody looks again: one request is one look-up, and the connection goes to its answer.
        let (port, connections) = receiver(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let (lookup, asked) = scripted(&[&["127.0.0.1"], &["192.0.2.1"]]);
        let client = Client::with_lookup(Reach::Anywhere, TIMEOUT, lookup).unwrap();
        assert_eq!(
            post(&client, &format!("http://rebind.example:{port}/"))
                .await
                .unwrap()
                .status,
            200
        );
        assert_eq!((asked.load(SeqCst), connections.load(SeqCst)), (1, 1));
    }

    #[tokio::test]
    async fn of_a_mixed_answer_only_public_addresses_are_left() {
        let (lookup, _) = scripted(&[&["127.0.0.1", "8.8.8.8", "fd00::1", "2606:4700::1"]]);
        let guard = Guard {
            reach: Reach::Public,
            lookup,
        };
        let found: Vec<_> = guard
            .resolve("mixed.example".parse().unwrap())
            .await
            .unwrap()
            .map(|to| to.ip())
            .collect();
        assert_eq!(
            found,
            [
                "8.8.8.8".parse::<IpAddr>().unwrap(),
                "2606:4700::1".parse().unwrap()
            ]
        );
    }

    #[tokio::test]
    async fn a_literal_address_is_refused_before_any_resolver_is_asked() {
        let (lookup, asked) = scripted(&[&["8.8.8.8"]]);
        let client = Client::with_lookup(Reach::Public, TIMEOUT, lookup).unwrap();
        let (port, connections) = receiver(b"HTTP/1.1 200 OK\r\n\r\n").await;
        for host in [
            "127.0.0.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "0x7f.1",
            "localhost",
        ] {
            let refused = post(&client, &format!("http://{host}:{port}/")).await;
            assert!(
                matches!(refused, Err(Failure::Refused(UrlError::NotPublic(_)))),
                "{host} {refused:?}"
            );
        }
        assert_eq!((asked.load(SeqCst), connections.load(SeqCst)), (0, 0));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer_and_is_not_followed() {
        let (port, connections) =
            receiver(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/elsewhere\r\ncontent-length: 0\r\n\r\n").await;
        let client = Client::new(Reach::Anywhere, TIMEOUT).unwrap();
        assert_eq!(
            post(&client, &format!("http://127.0.0.1:{port}/"))
                .await
                .unwrap()
                .status,
            302
        );
        assert_eq!(connections.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn of_an_answer_the_first_kib_is_kept_as_text_that_can_be_stored() {
        let (port, _) =
            receiver(b"HTTP/1.1 500 No\r\nretry-after: 7\r\nconnection: close\r\n\r\na\0b\xffc")
                .await;
        let client = Client::new(Reach::Anywhere, TIMEOUT).unwrap();
        let answer = post(&client, &format!("http://127.0.0.1:{port}/"))
            .await
            .unwrap();
        let body = "a\u{fffd}b\u{fffd}c".to_owned();
        assert_eq!(
            answer,
            Answer {
                status: 500,
                retry_after: Some("7".to_owned()),
                body
            }
        );

        let endless: &[u8] = Box::leak(
            [b"HTTP/1.1 200 OK\r\n\r\n".as_slice(), &b"x".repeat(1 << 20)]
                .concat()
                .into(),
        );
        let (port, _) = receiver(endless).await;
        assert_eq!(
            post(&client, &format!("http://127.0.0.1:{port}/"))
                .await
                .unwrap()
                .body,
            "x".repeat(1024)
        );

        let cut: &[u8] = Box::leak(
            format!("HTTP/1.1 200 OK\r\n\r\nx{}", "é".repeat(1024))
                .into_bytes()
                .into(),
        );
        let (port, _) = receiver(cut).await;
        let answer = post(&client, &format!("http://127.0.0.1:{port}/"))
            .await
            .unwrap();
        assert_eq!(answer.body, format!("x{}", "é".repeat(511)));
    }

    #[tokio::test]
    async fn a_failure_says_what_happened_and_not_where() {
        let client = Client::new(Reach::Anywhere, Duration::from_millis(100)).unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hung = post(
            &client,
            &format!("http://{}/?key=swordfish", silent.local_addr().unwrap()),
        )
        .await;
        assert_eq!(hung.unwrap_err().to_string(), "no answer within 100ms");

        let address = silent.local_addr().unwrap();
        drop(silent);
        let closed = post(&client, &format!("http://{address}/?key=swordfish"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            closed.starts_with("could not connect: Connection refused"),
            "{closed}"
        );

        let (port, _) = receiver(b"220 mail.example ESMTP\r\n").await;
        let other = post(&client, &format!("http://127.0.0.1:{port}/?key=swordfish"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            other.starts_with("the exchange failed: ") && !other.contains("swordfish"),
            "{other}"
        );
    }
}
