//! What is secret is in no output: not in a log line, an error, a header, a metric, or the log of the database.

use std::{
    collections::BTreeSet,
    fs::{File, Permissions},
    io::Read,
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use futures_util::{SinkExt, StreamExt, future::join_all};
use nix::sys::signal::Signal;
use plenum::{
    apps::{Environment, SecretKey},
    db::cluster::Cluster,
    webhooks::SigningSecret,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use crate::{
    app::soon,
    cli::{MASTER_KEY, Server},
    contract::{Operation, Request, SECRET_NAMES, failures, operations},
    http::Answer,
    receiver::{Receiver, Reply},
};

/// What every planted secret begins with.
const CANARY: &str = "c4n4ryB1rd";

/// Makes secrets that nobody knows.
fn canaries() -> impl FnMut() -> String {
    let mut count = 0;
    move || {
        count += 1;
        format!("{CANARY}{count:05}")
    }
}

/// What must be found nowhere: secrets, as they are and in other guises.
struct Forbidden(Vec<(String, String)>);

impl Forbidden {
    fn new(secrets: &[&str]) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            let mut add = |form: String| forms.push(((*secret).to_owned(), form.to_lowercase()));
            add((*secret).to_owned());
            add(secret.chars().rev().collect());
            add(url::form_urlencoded::byte_serialize(secret.as_bytes()).collect());
            let each = |form: fn(&u8) -> String| secret.as_bytes().iter().map(form);
            add(each(|byte| format!("%{byte:02x}")).collect());
            add(each(|byte| format!("{byte:02x}")).collect());
            add(each(|byte| format!("\\u{byte:04x}")).collect());
            add(each(u8::to_string).collect::<Vec<_>>().join(", "));
            add(each(u8::to_string).collect::<Vec<_>>().join(","));
            // Wherever it begins in what is encoded; without the digits that what is around it has a part in.
            for before in 0..3 {
                let text =
                    BASE64_STANDARD_NO_PAD.encode([&b"   "[..before], secret.as_bytes()].concat());
                let (begin, end) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
                add(text[begin..end].to_owned());
            }
        }
        Self(forms)
    }

    /// What of it is in a text, and around it.
    fn find(&self, text: &str) -> Option<String> {
        let lower = text.to_lowercase();
        let (secret, at) = self
            .0
            .iter()
            .find_map(|(secret, form)| Some((secret, lower.find(form)?)))?;
        let line = lower[..at].rfind('\n').map_or(0, |end| end + 1);
        let line: String = lower[line..]
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(300)
            .collect();
        Some(format!("{secret} in {line}"))
    }
}

/// A server whose whole output is kept.
struct Running {
    server: Server,
    log: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
    address: String,
}

impl Running {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let server = Server::spawn(settings);
        let mut pipe = File::from(server.log.get_ref().as_fd().try_clone_to_owned().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let kept = log.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(read @ 1..) = pipe.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]);
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_str(&text);
            }
        });
        let mut running = Self {
            server,
            log,
            reader,
            address: String::new(),
        };
        let ready = running.says(r#""message":"ready""#).await;
        let ready: Value = serde_json::from_str(&ready).unwrap();
        let url: url::Url = ready["url"].as_str().unwrap().parse().unwrap();
        running.address = format!("127.0.0.1:{}", url.port().unwrap());
        running
    }

    /// Waits for a line that has this, and returns it.
    async fn says(&self, what: &str) -> String {
        soon(what, async {
            loop {
                let log = self.log.lock().unwrap().clone();
                if let Some(line) = log.lines().find(|line| line.contains(what)) {
                    return line.to_owned();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// Stops it; all that it has said.
    fn stop(self) -> String {
        self.server.tell(Signal::SIGTERM);
        let (_, shown) = self.server.end();
        self.reader.join().unwrap();
        let log = self.log.lock().unwrap();
        assert!(log.len() > 10_000, "{log}");
        format!("{log}\n{shown}")
    }

    async fn ask(&self, request: &Request) -> Answer {
        Answer::at(&self.address, &request.bytes()).await
    }
}

/// Asks the server for everything in every wrong way, and looks at its answers.
struct Tour<'a> {
    running: &'a Running,
    forbidden: &'a Forbidden,
    key: &'a str,
    /// The fields that are asked for and given back, and are no secrets.
    given: BTreeSet<String>,
    found: BTreeSet<String>,
}

impl Tour<'_> {
    fn look(&mut self, what: &str, text: &str) {
        if let Some(found) = self.forbidden.find(text) {
            self.found.insert(format!("{what}: {found}"));
        }
    }

    /// Looks at an answer: at all of a refusal, and at what of a success is not there to give back what was given.
    fn look_at(&mut self, what: &str, operation: Option<&Operation>, answer: &Answer) {
        for (name, value) in answer.headers() {
            self.look(&format!("{what}, header {name}"), value);
        }
        let is_done = operation.is_some() && answer.status < 300;
        let body = match serde_json::from_str(&answer.body) {
            Ok(mut body) if is_done => {
                let gives_token = operation.is_some_and(|done| done.path == "/api/v1/token");
                let given = self.given.iter().map(String::as_str);
                let given = given.chain(gives_token.then_some("token")).collect();
                forget(&mut body, &given);
                body.to_string()
            }
            _ => answer.body.clone(),
        };
        self.look(what, &body);
    }

    async fn operations(&mut self) {
        let mut canaries = canaries();
        for operation in operations() {
            for (what, request) in failures(&operation, self.key, &mut canaries) {
                let answer = self.running.ask(&request).await;
                self.look_at(&what, Some(&operation), &answer);
            }
        }
    }

    /// Secrets in paths, where a slip of a pen puts them.
    async fn paths(&mut self) {
        let get = Request::example(&operations()[0]).with_body("");
        let get = Request {
            method: "GET".to_owned(),
            ..get
        };
        let secrets = [
            self.key.to_owned(),
            format!("plenum_test_{CANARY}"),
            format!("eyJ.{CANARY}.x"),
            format!("standup&token={CANARY}"),
            format!("standup;password={CANARY}"),
            format!("standup%3Ftoken={CANARY}"),
        ];
        for secret in secrets {
            for path in [
                "",
                "/api/v1/room",
                "/api/v1/token",
                "/api/v1",
                "/assets",
                "/docs",
                "/ws",
            ] {
                let mut request = get.clone();
                request.path = format!("{path}/{secret}");
                let answer = self.running.ask(&request).await;
                // The page of a room says which name was opened.
                if !answer.header("content-type").starts_with("text/html") {
                    self.look_at(&request.path, None, &answer);
                }
            }
        }
        for path in [
            "/standup",
            "/ws",
            "/docs/index.html",
            "/openapi.json",
            "/nothing/here",
            "/assets/x",
        ] {
            let mut request = get
                .clone()
                .with_header("Authorization", format!("Basic {CANARY}"));
            path.clone_into(&mut request.path);
            for name in SECRET_NAMES {
                request = request.with_query(name, CANARY);
            }
            let answer = self.running.ask(&request).await;
            self.look_at(path, None, &answer);
        }
    }

    async fn sockets(&mut self) {
        let operations = operations();
        let create = operations
            .iter()
            .find(|operation| operation.path == "/api/v1/room")
            .unwrap();
        for name in ["standup", "private"] {
            let privacy = if name == "private" { name } else { "public" };
            let room = json!({ "roomName": name, "privacy": privacy }).to_string();
            // It may be there already, or the database away.
            self.running
                .ask(&Request::example(create).with_key(self.key).with_body(room))
                .await;
        }
        let url = format!(
            "ws://{}/ws?token={CANARY}&password={CANARY}",
            self.running.address
        );
        let join = |with: Value| {
            let mut frame = json!({ "type": "join", "roomId": "standup", "name": "Ann" });
            frame
                .as_object_mut()
                .unwrap()
                .extend(with.as_object().unwrap().clone());
            frame.to_string()
        };
        let mut frames = vec![
            join(json!({ "resumable": CANARY })),
            join(json!({ "token": "x".repeat(9000) + CANARY })),
            join(json!({ "type": CANARY })),
            join(json!({ "type": "resume", "resumeToken": CANARY })),
            join(json!({ "type": "resume", "resumeToken": { "x": CANARY } })),
            join(json!({ "type": "offer", "targetId": CANARY, "sdp": CANARY })),
            join(
                json!({ "type": "offer", "targetId": "sfu", "sdp": format!("v=0\r\na=ice-pwd:{CANARY}\r\n") }),
            ),
            join(
                json!({ "type": "offer", "targetId": "sfu", "sdp": "", "tracks": { "0": CANARY } }),
            ),
            format!(r#"{{"type":"join","token":"{CANARY}"#),
            format!(r#"{{"type":"join","token":{CANARY}}}"#),
            format!("\"{CANARY}\""),
            format!("[\"{CANARY}\"]"),
            CANARY.to_owned(),
        ];
        for name in SECRET_NAMES {
            for value in [
                json!(CANARY),
                json!([CANARY]),
                json!({ "x": CANARY }),
                json!(self.key),
            ] {
                frames.push(join(json!({ name: value })));
                frames.push(join(json!({ name: value, "roomId": "private" })));
            }
        }
        frames.push(CANARY.repeat(120_000));
        for frame in frames {
            let mut request = url.as_str().into_client_request().unwrap();
            let headers = request.headers_mut();
            headers.insert("authorization", format!("Bearer {CANARY}").parse().unwrap());
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            let _ = socket.send(Message::text(frame.clone())).await;
            let what: String = frame.chars().take(100).collect();
            let said = soon(&what, socket.next()).await;
            if let Some(Ok(said)) = said {
                self.look(&what, &format!("{said}"));
            }
            let _ = socket.close(None).await;
        }
    }

    /// One room whose webhook fails in every way, and its person.
    async fn webhooks(&mut self, receiver: &Receiver) {
        let operations = operations();
        let create = operations
            .iter()
            .find(|operation| operation.path == "/api/v1/room")
            .unwrap();
        let path = format!("/{CANARY}?token={CANARY}");
        receiver.answer(&path, Reply::Status(500));
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = nobody.local_addr().unwrap();
        let urls = [receiver.url(&path), format!("http://{nobody}{path}")];
        for (index, url) in urls.iter().enumerate() {
            let name = format!("hooked-{}-{index}", nobody.port());
            let room = json!({
                "roomName": name, "meetingStartedWebhook": url,
                "rtmpOutURL": format!("rtmp://live.example.com/app/{CANARY}"), "enableRTMPOut": true,
            });
            let request = Request::example(create)
                .with_key(self.key)
                .with_body(room.to_string());
            let answer = self.running.ask(&request).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            self.look_at("a hooked room", Some(create), &answer);
            let socket = format!("ws://{}/ws", self.running.address);
            let (mut socket, _) = tokio_tungstenite::connect_async(socket).await.unwrap();
            let join = json!({ "type": "join", "roomId": name, "name": "Ann" });
            socket.send(Message::text(join.to_string())).await.unwrap();
            soon("a join", socket.next()).await.unwrap().unwrap();
            socket.close(None).await.unwrap();
        }
        receiver.arrived(2).await;
        receiver.take();
        self.running.says("failed for the last time").await;
    }

    /// Every operation once, all at a time, of a server that cannot serve.
    async fn all_refused(&mut self, why: &str) {
        let operations = operations();
        let request = |operation: &Operation| {
            let mut request = Request::example(operation).with_key(self.key);
            for name in SECRET_NAMES {
                request = request.with_query(name, CANARY);
            }
            match &operation.body {
                None => request,
                Some(body) => {
                    let mut body = body.example.clone();
                    for name in SECRET_NAMES {
                        body[name] = json!(CANARY);
                    }
                    request.with_body(body.to_string())
                }
            }
        };
        let requests: Vec<Request> = operations.iter().map(request).collect();
        let answers = join_all(requests.iter().map(|request| self.running.ask(request))).await;
        let refused = answers.iter().filter(|answer| answer.status >= 500).count();
        assert!(refused >= 5, "{why}: {answers:?}");
        for (operation, answer) in operations.iter().zip(&answers) {
            let what = format!("{} {}, {why}", operation.method, operation.path);
            self.look_at(&what, Some(operation), answer);
        }
    }

    async fn metrics(&mut self) {
        let operations = operations();
        let metrics = operations
            .iter()
            .find(|operation| operation.path == "/metrics")
            .unwrap();
        let answer = self.running.ask(&Request::example(metrics)).await;
        assert_eq!(answer.status, 200);
        self.look("the metrics", &answer.body);
    }
}

/// The names of all fields of all bodies, but for those of secrets.
fn given() -> BTreeSet<String> {
    let bodies = operations()
        .into_iter()
        .filter_map(|operation| operation.body);
    let fields = bodies.flat_map(|body| body.fields.into_keys());
    let names =
        fields.filter_map(|field| Some(field.rsplit('/').find(|step| *step != "0")?.to_owned()));
    names
        .filter(|name| !SECRET_NAMES.contains(&name.as_str()))
        .collect()
}

/// Drops the fields of these names, at any depth.
fn forget(value: &mut Value, names: &BTreeSet<&str>) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !names.contains(name.as_str()));
            fields.values_mut().for_each(|field| forget(field, names));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| forget(item, names)),
        _ => {}
    }
}

/// What the database's own server has written, under its data directory.
fn logs_under(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "log") {
                text += &String::from_utf8_lossy(&std::fs::read(path).unwrap());
            }
        }
    }
    assert!(!text.is_empty());
    text
}

#[tokio::test]
async fn no_secret_is_in_any_output_whatever_fails() {
    let folder = tempfile::tempdir().unwrap();
    // The user `postgres`, as whom it runs where the test is root, has to pass.
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let cluster = Cluster::start(folder.path()).await.unwrap();
    let options = cluster.connect_options();
    let url = options.to_url_lossy().to_string();
    let key = SecretKey::generate(Environment::Live, &mut rand::rng());
    let webhook_secret = SigningSecret::generate(&mut rand::rng());
    let webhook_secret = webhook_secret.reveal().expose_secret().to_owned();
    let key = key.reveal();
    // Its prefix may be told.
    let random = key.strip_prefix("plenum_live_").unwrap();
    let signing = webhook_secret.strip_prefix("whsec_").unwrap();
    let metrics_token = format!("{CANARY}-for-the-figures");
    let forbidden = Forbidden::new(&[CANARY, random, signing, MASTER_KEY]);
    let receiver = Receiver::open().await;
    let running = Running::start(&[
        ("DATABASE_URL", &url),
        // All that anything says, far beyond what is logged where nothing is set.
        ("PLENUM_LOG", "trace"),
        ("PLENUM_BOOTSTRAP_APP", "acme"),
        ("PLENUM_BOOTSTRAP_SECRET_KEY", key),
        ("PLENUM_BOOTSTRAP_WEBHOOK_SECRET", &webhook_secret),
        ("PLENUM_METRICS_TOKEN", &metrics_token),
        ("PLENUM_ALLOW_PRIVATE_WEBHOOKS", "true"),
        ("PLENUM_WEBHOOK_RETRIES", "1ms"),
        ("PLENUM_RATE_BURST", "1000000"),
        ("PLENUM_UNAUTHORIZED_PER_MINUTE", "1000000"),
        ("PLENUM_ANONYMOUS_RATE_PER_MINUTE", "1000000"),
    ])
    .await;
    let mut tour = Tour {
        running: &running,
        forbidden: &forbidden,
        key,
        given: given(),
        found: BTreeSet::new(),
    };
    tour.operations().await;
    tour.paths().await;
    tour.sockets().await;
    tour.webhooks(&receiver).await;
    tour.metrics().await;

    let pool = PgPool::connect_with(options).await.unwrap();
    for (from, to) in [("rooms", "rooms_"), ("token_secrets", "token_secrets_")] {
        let hide = sqlx::AssertSqlSafe(format!("alter table {from} rename to {to}"));
        sqlx::raw_sql(hide).execute(&pool).await.unwrap();
    }
    pool.close().await;
    tour.all_refused("a database without tables").await;
    cluster.stop().await.unwrap();
    tour.all_refused("no database").await;
    tour.sockets().await;
    tour.metrics().await;

    let mut found = tour.found;
    let said = running.stop();
    for line in said.lines() {
        let leak = forbidden.find(line);
        found.extend(leak.map(|leak| format!("the log: {leak}")));
    }
    for beneath in ["sqlx", "actix_http", "hyper_util"] {
        let target = format!(r#""target":"{beneath}"#);
        assert!(said.contains(&target), "{beneath} is listened to");
    }
    let of_postgres = forbidden.find(&logs_under(folder.path()));
    found.extend(of_postgres.map(|leak| format!("the log of Postgres: {leak}")));
    let some: Vec<&String> = found.iter().take(40).collect();
    assert!(found.is_empty(), "{} leaks: {some:#?}", found.len());
}
