//! A running server of a test's own, and clients of it.

use std::{net::TcpListener, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use plenum::{
    apps::{self, App, Environment, NewApp, SecretKey},
    cli::node::{Node, Parts},
    clock::Clock,
    config::Config,
    db::Db,
    sealed::MasterKey,
    webhooks::SigningSecret,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest, protocol::CloseFrame},
};

use crate::asyncapi;

/// What every wait in the tests is bounded by; nothing that works takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(20);

/// What `future` comes to, within any sensible time. Boxed, for it may be large.
pub fn soon<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let outcome = tokio::time::timeout(PATIENCE, Box::pin(future));
    async move {
        outcome
            .await
            .unwrap_or_else(|_| panic!("this takes too long: {what}"))
    }
}

/// The real server with a clock that the test moves.
pub struct TestApp {
    /// The app that answers on the server's address.
    pub app: Tenant,
    /// The pool of the test's database, as its owner.
    pub pool: PgPool,
    pub db: Db,
    pub clock: Clock,
    pub address: String,
    pub http: reqwest::Client,
    /// Opens what is sealed in it.
    pub master_key: Arc<MasterKey>,
    node: Option<Node>,
    /// Settings beside those that all tests have.
    args: Vec<String>,
}

/// An app with its secret key.
pub struct Tenant {
    pub app: App,
    pub key: String,
    /// Checks the webhooks of its rooms.
    pub webhook_secret: SigningSecret,
}

#[derive(Parser)]
#[command(args_override_self = true)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

impl TestApp {
    /// A server on the test's database; it is the 17th of March 2030.
    pub async fn new(pool: PgPool) -> Self {
        Self::with::<&str>(pool, &[]).await
    }

    /// A server whose clock stands at the present.
    pub async fn at_present(pool: PgPool) -> Self {
        Self::start(pool, Clock::manual(Clock::system().now()), Vec::new()).await
    }

    /// A server with settings of its own.
    pub async fn with<T: ToString>(pool: PgPool, args: &[T]) -> Self {
        let clock = Clock::manual(DateTime::from_timestamp(1_900_000_000, 0).unwrap());
        Self::start(pool, clock, args.iter().map(ToString::to_string).collect()).await
    }

    async fn start(pool: PgPool, clock: Clock, args: Vec<String>) -> Self {
        let db = Db::new(&pool.connect_options());
        let master_key = Arc::new(MasterKey::parse(&MasterKey::text([7; 32])).unwrap());
        let app = tenant(&db, &clock, &master_key, "acme", true).await;
        let mut test = Self {
            app,
            pool,
            db,
            clock,
            address: String::new(),
            http: reqwest::Client::new(),
            master_key,
            node: None,
            args,
        };
        test.start_node();
        test
    }

    /// Starts a node, as after a restart of the server.
    pub fn start_node(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.address = listener.local_addr().unwrap().to_string();
        let args = [
            "plenum",
            "--media-port-base",
            "0",
            "--allow-private-webhooks",
            "--webhook-retries",
            "1s",
            // The clock stands still, so what is taken from a limit does not come back by itself.
            "--rate-burst",
            "1000000",
            "--unauthorized-per-minute",
            "1000000",
            "--anonymous-rate-per-minute",
            "1000000",
            // No test loses a meeting because the machine is slow; those about lost leases end them.
            "--meeting-lease",
            "60s",
            // A client that a test does not look at answers no ping.
            "--signaling-ping",
            "60s",
        ];
        let own = self.args.iter().map(String::as_str);
        let config = Settings::parse_from(args.into_iter().chain(own)).config;
        // Connections live and die with the node that made them, as they do in a process.
        self.db = Db::new(&self.pool.connect_options());
        let parts = Parts {
            db: self.db.clone(),
            clock: self.clock.clone(),
            master_key: self.master_key.clone(),
            default_app: Some(self.app.app.clone()),
            listener,
        };
        self.node = Some(Node::start(&config, parts).unwrap());
    }

    /// Stops the node in order, as SIGTERM does.
    pub async fn stop_node(&mut self) {
        if let Some(node) = self.node.take() {
            soon("the stop of the node", node.stop()).await;
        }
    }

    /// Another app on the same server.
    pub async fn another_app(&self, name: &str) -> Tenant {
        tenant(&self.db, &self.clock, &self.master_key, name, false).await
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Lets time go by.
    pub fn advance(&self, by: TimeDelta) {
        self.clock.advance(by);
    }

    /// Sends a request with `app`'s key; the answer's status and JSON.
    pub async fn call(
        &self,
        app: &Tenant,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> (StatusCode, Value) {
        let request = self
            .http
            .request(method, format!("http://{}{path}", self.address))
            .bearer_auth(&app.key);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = soon(path, request.send()).await.unwrap();
        (answer.status(), answer.json().await.unwrap_or(Value::Null))
    }

    /// Sends a request of the app with headers of its own; the answer's status, headers and JSON.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> (StatusCode, HeaderMap, Value) {
        let url = format!("http://{}{path}", self.address);
        let request = self.http.request(method, url).bearer_auth(&self.app.key);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = soon(path, request.send()).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        (status, headers, answer.json().await.unwrap_or(Value::Null))
    }

    pub async fn put(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.call(&self.app, Method::PUT, path, Some(body)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.call(&self.app, Method::POST, path, Some(body)).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        self.call(&self.app, Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        self.call(&self.app, Method::DELETE, path, None).await
    }

    /// A plain request, without a key.
    pub async fn fetch(&self, path: &str) -> reqwest::Response {
        soon(
            path,
            self.http
                .get(format!("http://{}{path}", self.address))
                .send(),
        )
        .await
        .unwrap()
    }

    /// Creates a room of the app, with a chat unless `rules`, the body of the call, say otherwise.
    pub async fn room(&self, mut rules: Value) -> Value {
        rules
            .as_object_mut()
            .unwrap()
            .entry("enableChat")
            .or_insert(json!(true));
        let (status, room) = self.post("/api/v1/room", &rules).await;
        assert_eq!(status, StatusCode::OK, "{room}");
        room
    }

    /// A signaling socket that is in no room.
    pub async fn socket(&self) -> Client {
        Client::connect(&self.address).await.unwrap()
    }

    /// A signaling socket of a browser.
    pub async fn socket_as(&self, user_agent: &str) -> Client {
        let opened = self.socket_with(&[("user-agent", user_agent)]).await;
        opened.unwrap_or_else(|refusal| panic!("{refusal:?}")).0
    }

    /// A signaling socket that is opened with these headers, or the status and body that refuse it.
    pub async fn socket_with(
        &self,
        headers: &[(&'static str, &str)],
    ) -> Result<(Client, Option<String>), (u16, Value)> {
        let mut request = format!("ws://{}/ws", self.address)
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let opened = Box::pin(tokio_tungstenite::connect_async(request));
        match soon("a socket", opened).await {
            Ok((socket, answer)) => {
                let protocol = answer.headers().get("sec-websocket-protocol");
                let protocol = protocol.map(|value| value.to_str().unwrap().to_owned());
                let client = Client {
                    socket,
                    id: String::new(),
                    resume_token: None,
                };
                Ok((client, protocol))
            }
            Err(tungstenite::Error::Http(answer)) => {
                let body = answer.body().as_deref().unwrap_or_default();
                let body = serde_json::from_slice(body).unwrap_or(Value::Null);
                Err((answer.status().as_u16(), body))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Somebody who joins with these fields, and the first frame that they hear.
    pub async fn ask(&self, fields: Value) -> (Client, Value) {
        let mut client = self.socket().await;
        let mut frame = json!({ "type": "join", "name": "Ann" });
        let fields = fields.as_object().unwrap().clone();
        frame.as_object_mut().unwrap().extend(fields);
        // What is asked may be wrong on purpose.
        client.send_text(&frame.to_string()).await;
        let answer = client.next().await.unwrap();
        client.id = answer["participantId"].as_str().unwrap().to_owned();
        client.resume_token = answer["resumeToken"].as_str().map(str::to_owned);
        (client, answer)
    }

    /// Somebody who is in the room.
    pub async fn join(&self, room: &str, name: &str) -> Client {
        self.enter(room, name, false).await
    }

    /// Somebody who is in the room and can come back when their connection is lost.
    pub async fn join_resumable(&self, room: &str, name: &str) -> Client {
        self.enter(room, name, true).await
    }

    async fn enter(&self, room: &str, name: &str, resumable: bool) -> Client {
        let mut client = self.socket().await;
        client
            .send(json!({ "type": "join", "roomId": room, "name": name, "resumable": resumable }))
            .await;
        let own = client.expect("participant-joined").await;
        assert_eq!(own["name"], name);
        client.id = own["participantId"].as_str().unwrap().to_owned();
        client.resume_token = own["resumeToken"].as_str().map(str::to_owned);
        client
    }

    /// Comes back as `client`, once the meeting has an owner again.
    pub async fn resume(&self, room: &str, client: &Client) -> Client {
        let token = client.resume_token.clone().unwrap();
        soon("a resume", async {
            loop {
                let mut back = self.socket().await;
                back.send(json!({ "type": "resume", "roomId": room, "resumeToken": token }))
                    .await;
                match back.next().await.unwrap() {
                    frame if frame["type"] == "snapshot" => {
                        back.id = frame["participantId"].as_str().unwrap().to_owned();
                        back.resume_token = Some(token.clone());
                        return back;
                    }
                    frame => assert_eq!(frame["code"], "TRY_AGAIN", "{frame}"),
                }
            }
        })
        .await
    }

    /// The code that refuses a join.
    pub async fn refusal(&self, room: &str) -> String {
        let mut client = self.socket().await;
        client
            .send(json!({ "type": "join", "roomId": room, "name": "Nina" }))
            .await;
        client.expect("error").await["code"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// All numbered events so far, in the order of their meetings and numbers.
    pub async fn events(&self) -> Vec<Value> {
        self.read_events("select body from events where seq is not null order by meeting_id, seq")
            .await
    }

    /// All events so far that have no number, as those of a room alone, in the order of their times.
    pub async fn room_events(&self) -> Vec<Value> {
        self.read_events("select body from events where seq is null order by at, id")
            .await
    }

    async fn read_events(&self, query: &'static str) -> Vec<Value> {
        let bodies: Vec<String> = sqlx::query_scalar(query)
            .fetch_all(&self.pool)
            .await
            .unwrap();
        bodies
            .iter()
            .map(|body| serde_json::from_str(body).unwrap())
            .collect()
    }

    /// Waits until `kind` is among the events, and returns the kinds of all.
    pub async fn events_until(&self, kind: &str) -> Vec<String> {
        soon(kind, async {
            loop {
                let kinds: Vec<String> = self
                    .events()
                    .await
                    .iter()
                    .map(|event| event["event"].as_str().unwrap().to_owned())
                    .collect();
                if kinds.iter().any(|known| known == kind) {
                    return kinds;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }
}

async fn tenant(
    db: &Db,
    clock: &Clock,
    master_key: &MasterKey,
    name: &str,
    is_default: bool,
) -> Tenant {
    let key = SecretKey::generate(Environment::Live, &mut rand::rng());
    let webhook_secret = SigningSecret::generate(&mut rand::rng());
    let new = NewApp {
        name: name.parse().unwrap(),
        key: key.clone(),
        webhook_secret: webhook_secret.clone(),
        is_default,
        settings: apps::AppSettings::default(),
    };
    let mut conn = db.system().await.unwrap();
    let app = apps::create(&mut conn, &new, master_key, clock.now(), &mut rand::rng())
        .await
        .unwrap();
    Tenant {
        app,
        key: key.reveal().to_owned(),
        webhook_secret,
    }
}

/// A client on a real WebSocket.
pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Who it is in its meeting.
    pub id: String,
    /// What brings it back.
    pub resume_token: Option<String>,
}

impl Client {
    /// A signaling socket of the server at `address` that is in no room.
    pub async fn connect(address: &str) -> tungstenite::Result<Self> {
        let url = format!("ws://{address}/ws");
        let (socket, _) = soon("a socket", Box::pin(tokio_tungstenite::connect_async(url))).await?;
        Ok(Self {
            socket,
            id: String::new(),
            resume_token: None,
        })
    }

    /// Sends a frame that clients may send; others go by [`Self::send_text`].
    pub async fn send(&mut self, frame: Value) {
        asyncapi::check_client_frame(&frame);
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        soon("a send", self.socket.send(Message::text(text)))
            .await
            .unwrap();
    }

    /// The next frame; `None` when the socket is closed.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            match soon("a frame", self.socket.next()).await {
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(&text).unwrap();
                    asyncapi::check_server_frame(&frame);
                    return Some(frame);
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(other)) => panic!("an unexpected message: {other:?}"),
            }
        }
    }

    /// The next frame of a socket that may break; `None` once it has.
    pub async fn try_next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return serde_json::from_str(&text).ok(),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Sends on a socket that may break; `None` once it has.
    pub async fn try_send(&mut self, frame: &Value) -> Option<()> {
        let message = Message::text(frame.to_string());
        self.socket.send(message).await.ok()
    }

    /// The next frame, which is of this type. Warnings come when time goes by, and do not count unless one is expected.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            let frame =
                frame.unwrap_or_else(|| panic!("{kind} was expected, and the socket closed"));
            if kind == "warning" || frame["type"] != "warning" {
                assert_eq!(frame["type"], kind, "{frame}");
                return frame;
            }
        }
    }

    /// The next frame of this type, whatever comes before it.
    pub async fn until(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.next().await;
            let frame =
                frame.unwrap_or_else(|| panic!("{kind} was expected, and the socket closed"));
            if frame["type"] == kind {
                return frame;
            }
        }
    }

    /// Why it is over for this client; the socket closes after that.
    pub async fn ended(&mut self) -> String {
        let reason = self.expect("ended").await["reason"]
            .as_str()
            .unwrap()
            .to_owned();
        assert_eq!(self.next().await, None, "the server closes");
        reason
    }

    /// Whether the server answers this client as one who is in, with nothing else said before.
    pub async fn is_in(&mut self) -> bool {
        self.send(json!({ "type": "chat", "text": "still here" }))
            .await;
        loop {
            match self.next().await {
                // What was written before, for one who is back.
                Some(frame) if frame["type"] == "chat-history" => {}
                Some(frame) => {
                    return frame["type"] == "chat" && frame["participantId"] == self.id.as_str();
                }
                None => return false,
            }
        }
    }

    /// Closes the socket as a page that is left does.
    pub async fn close(mut self, code: u16) {
        let frame = CloseFrame {
            code: code.into(),
            reason: "".into(),
        };
        self.socket.close(Some(frame)).await.unwrap();
        while self.next().await.is_some() {}
    }

    /// Loses the connection, as a network that is cut does.
    pub fn cut(self) {
        drop(self.socket);
    }
}
