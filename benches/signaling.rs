//! What signaling costs: sockets that are in a meeting and idle, a chat of 500 people, 200 who join at once, and the end of
//! their meeting; over loopback, next to a plain actix server that sends the same frames on to everybody in the same run.
//!
//! The server is the built binary with a private Postgres of its own. Clients and server share the machine.
//! `script/bench signaling` runs it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that fails has nothing to report"
)]
#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use actix_ws::{Message as Frame, Session};
use futures_util::{SinkExt, StreamExt, future::join_all};
use reqwest::{Client as Http, Method};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};

const KEY: &str = "a-secret-key-of-the-benchmark";
/// Sockets that are in a meeting and say nothing, and how many share one.
const IDLE: usize = 5000;
const IDLE_IN_A_ROOM: usize = 10;
/// People in one chat, messages that are written into it, and how many per second.
const CHATTING: usize = 500;
const MESSAGES: usize = 200;
const MESSAGES_PER_SECOND: u32 = 20;
/// People who join at once.
const BURST: usize = 200;
/// Sockets that are opened at the same time.
const OPENING: usize = 50;
/// Where the child that is the plain server learns its port.
const PLAIN: &str = "PLENUM_BENCH_PLAIN";

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn main() {
    if let Ok(address) = std::env::var(PLAIN) {
        return plain_server(&address);
    }
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // built and run by `cargo test --all-targets`, which wants no figures
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let ours = Server::plenum().await;
    let plain = Server::plain().await;
    let cores = std::thread::available_parallelism().unwrap();
    println!("{cores} cores, shared by server and clients; a chat has {CHATTING} people\n");
    println!("{:<44} {:>12} {:>12}", "", "Plenum", "plain actix");

    let line =
        |what: &str, ours: f64, plain: f64| println!("{what:<44} {ours:>12.2} {plain:>12.2}");
    let (own, floor) = (chat(&ours).await, chat(&plain).await);
    line("chat: ms to one of all, p50", own.p50, floor.p50);
    line("chat: ms to one of all, p99", own.p99, floor.p99);
    line("chat: ms to the last of all, p50", own.last, floor.last);
    line("chat: µs of CPU per frame sent", own.cpu, floor.cpu);

    let (own, floor) = (burst(&ours).await, burst(&plain).await);
    line(
        "200 joins at once: ms to the last answer",
        own.answered,
        floor.answered,
    );
    println!(
        "{:<44} {:>12.2}",
        "the meeting's end: ms to the last `ended`", own.ended
    );

    let (own, floor) = (idle(&ours).await, idle(&plain).await);
    line(
        "KiB of memory per idle connection",
        own.memory,
        floor.memory,
    );
    line(
        "idle: CPU seconds per minute, all together",
        own.cpu,
        floor.cpu,
    );
}

/// A server, as a process.
struct Server {
    process: Child,
    address: String,
    is_plain: bool,
    http: Http,
    _data: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM);
        let _ = self.process.wait();
    }
}

impl Server {
    async fn plenum() -> Self {
        let data = TempDir::new_in("/tmp").unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(data.path(), everybody).unwrap(); // Postgres never runs as root: its user must get through
        let address = free_address();
        let process = Command::new(env!("CARGO_BIN_EXE_plenum"))
            .arg("serve")
            .env("PLENUM_BIND", &address)
            .env("PLENUM_DATA_DIR", data.path())
            .env("PLENUM_MEDIA_PORT_BASE", "0")
            // As good as no limit.
            .env("PLENUM_RATE_PER_SECOND", "1000000")
            .env("PLENUM_RATE_BURST", "1000000")
            .env("PLENUM_ANONYMOUS_RATE_PER_MINUTE", "1000000")
            .env("PLENUM_BOOTSTRAP_APP", "bench")
            .env("PLENUM_BOOTSTRAP_SECRET_KEY", KEY)
            .env_remove("DATABASE_URL")
            .stdout(Stdio::null())
            .stderr(fs::File::create(data.path().join("server.log")).unwrap())
            .spawn()
            .unwrap();
        Self::when_ready(process, address, false, data).await
    }

    async fn plain() -> Self {
        let address = free_address();
        let process = Command::new(std::env::current_exe().unwrap())
            .env(PLAIN, &address)
            .spawn()
            .unwrap();
        Self::when_ready(process, address, true, TempDir::new().unwrap()).await
    }

    async fn when_ready(process: Child, address: String, is_plain: bool, data: TempDir) -> Self {
        let http = Http::new();
        for _ in 0..600 {
            let answer = http.get(format!("http://{address}/ready")).send().await;
            if answer.is_ok_and(|answer| answer.status().is_success()) {
                return Self {
                    process,
                    address,
                    is_plain,
                    http,
                    _data: data,
                };
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the server does not become ready");
    }

    async fn room(&self, name: &str) {
        if !self.is_plain {
            let room = json!({ "roomName": name, "enableChat": true });
            self.call(Method::POST, "/api/v1/room", &room).await;
        }
    }

    /// Puts everybody out of a room, and waits until that is over.
    async fn end(&self, room: &str) {
        if !self.is_plain {
            let path = format!("/api/v1/room/{room}");
            self.call(Method::DELETE, &path, &json!({})).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
    }

    async fn call(&self, method: Method, path: &str, body: &Value) {
        let url = format!("http://{}{path}", self.address);
        let request = self.http.request(method, url).bearer_auth(KEY);
        let answer = request.json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn socket(&self) -> Socket {
        let url = format!("ws://{}/ws", self.address);
        tokio_tungstenite::connect_async(url).await.unwrap().0
    }

    /// So many sockets, some opened at a time.
    async fn sockets(&self, count: usize) -> Vec<Socket> {
        let opening = futures_util::stream::iter(0..count).map(|_| self.socket());
        opening.buffer_unordered(OPENING).collect().await
    }

    /// A socket that is in a room.
    async fn joined(&self, room: &str) -> Socket {
        let mut socket = self.socket().await;
        join(&mut socket, room).await;
        socket
    }

    /// Resident memory in KiB.
    fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    /// CPU seconds so far.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        let field = |index| -> f64 { after_name.split(' ').nth(index).unwrap().parse().unwrap() };
        (field(11) + field(12)) / 100.0 // utime and stime, in hundredths on Linux
    }
}

/// Asks to come in, and waits for the answer. The plain server answers it with the same.
async fn join(socket: &mut Socket, room: &str) {
    let frame = json!({ "type": "join", "roomId": room, "name": "Somebody", "resumable": true });
    socket.send(Message::text(frame.to_string())).await.unwrap();
    let answer = text(socket).await;
    assert!(!answer.contains("\"error\""), "{answer}");
}

/// The next text frame.
async fn text(socket: &mut Socket) -> String {
    loop {
        if let Message::Text(text) = socket.next().await.unwrap().unwrap() {
            return text.as_str().to_owned();
        }
    }
}

struct Idle {
    memory: f64,
    cpu: f64,
}

async fn idle(server: &Server) -> Idle {
    let rooms = IDLE / IDLE_IN_A_ROOM;
    for room in 0..rooms {
        server.room(&format!("idle-{room}")).await;
    }
    // Whatever is made once is made before it is measured.
    server.room("first").await;
    drop(server.joined("first").await);
    let before = server.memory();
    let names: Vec<String> = (0..IDLE)
        .map(|number| format!("idle-{}", number % rooms))
        .collect();
    let opening = futures_util::stream::iter(&names).map(|room| server.joined(room));
    let sockets: Vec<Socket> = opening.buffer_unordered(OPENING).collect().await;
    let memory = (server.memory() - before) / IDLE as f64;
    let readers: Vec<_> = sockets
        .into_iter()
        .map(|mut socket| {
            tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} })
        })
        .collect();
    let (began, before) = (Instant::now(), server.cpu());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let cpu = (server.cpu() - before) / began.elapsed().as_secs_f64() * 60.0;
    readers.into_iter().for_each(|reader| reader.abort());
    Idle { memory, cpu }
}

struct Chat {
    p50: f64,
    p99: f64,
    last: f64,
    cpu: f64,
}

async fn chat(server: &Server) -> Chat {
    server.room("chat").await;
    let began = Instant::now();
    let arrivals = Arc::new(Mutex::new(vec![Vec::new(); MESSAGES]));
    let sockets = server.sockets(CHATTING).await;
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for mut socket in sockets {
        join(&mut socket, "chat").await;
        let (writer, mut reader) = socket.split();
        writers.push(writer);
        let arrivals = arrivals.clone();
        readers.push(tokio::spawn(async move {
            while let Some(Ok(frame)) = reader.next().await {
                let arrived = began.elapsed();
                let Message::Text(text) = frame else { continue };
                let Some((_, said)) = text.as_str().split_once("\"text\":\"") else {
                    continue;
                };
                let mut said = said.split(['-', '"']);
                let Some(Ok(number)) = said.next().map(str::parse::<usize>) else {
                    continue;
                };
                let sent: u64 = said.next().unwrap().parse().unwrap();
                let took = arrived.saturating_sub(Duration::from_nanos(sent));
                arrivals.lock().unwrap()[number].push(took.as_secs_f64() * 1000.0);
            }
        }));
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = server.cpu();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / MESSAGES_PER_SECOND);
    for number in 0..MESSAGES {
        ticks.tick().await;
        let said = format!("{number}-{}-", began.elapsed().as_nanos());
        let frame = json!({ "type": "chat", "text": said });
        let writer = &mut writers[number % CHATTING];
        writer.send(Message::text(frame.to_string())).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cpu = (server.cpu() - before) * 1e6 / (MESSAGES * CHATTING) as f64;
    server.end("chat").await;
    readers.into_iter().for_each(|reader| reader.abort());
    let arrivals = arrivals.lock().unwrap().clone();
    assert!(
        arrivals.iter().all(|readers| readers.len() == CHATTING),
        "everybody reads all"
    );
    let last = arrivals
        .iter()
        .map(|readers| readers.iter().copied().fold(0.0, f64::max));
    let last = quantile(last.collect(), 0.5);
    let all: Vec<f64> = arrivals.into_iter().flatten().collect();
    Chat {
        p50: quantile(all.clone(), 0.5),
        p99: quantile(all, 0.99),
        last,
        cpu,
    }
}

struct Burst {
    answered: f64,
    ended: f64,
}

async fn burst(server: &Server) -> Burst {
    server.room("burst").await;
    let mut sockets = server.sockets(BURST).await;
    let began = Instant::now();
    join_all(sockets.iter_mut().map(|socket| join(socket, "burst"))).await;
    let answered = began.elapsed().as_secs_f64() * 1000.0;
    if server.is_plain {
        return Burst {
            answered,
            ended: 0.0,
        };
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    let ended = sockets.iter_mut().map(|socket| async move {
        while !text(socket).await.contains("\"ended\"") {}
        began.elapsed()
    });
    let path = "/api/v1/room/burst";
    let nothing = json!({});
    let (_, ended) = tokio::join!(server.call(Method::DELETE, path, &nothing), join_all(ended));
    let ended = ended.into_iter().max().unwrap().as_secs_f64() * 1000.0;
    Burst { answered, ended }
}

fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share) as usize]
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The floor: what is said is sent on to everybody, as it is; a `join` to its sender alone.
fn plain_server(address: &str) {
    type Sessions = Arc<Mutex<HashMap<usize, Session>>>;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    async fn socket(
        sessions: web::Data<Sessions>,
        request: HttpRequest,
        body: web::Payload,
    ) -> actix_web::Result<HttpResponse> {
        let (response, mut session, mut messages) = actix_ws::handle(&request, body)?;
        let number = NEXT.fetch_add(1, Relaxed);
        sessions.lock().unwrap().insert(number, session.clone());
        actix_web::rt::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                match message {
                    Frame::Text(text) if text.contains("\"join\"") => {
                        session.text(text).await.ok();
                    }
                    Frame::Text(text) => {
                        let all: Vec<_> = sessions.lock().unwrap().values().cloned().collect();
                        for mut session in all {
                            session.text(text.clone()).await.ok();
                        }
                    }
                    Frame::Ping(payload) => {
                        session.pong(&payload).await.ok();
                    }
                    Frame::Close(_) => break,
                    _ => {}
                }
            }
            sessions.lock().unwrap().remove(&number);
            session.close(None).await.ok();
        });
        Ok(response)
    }
    let sessions = web::Data::new(Sessions::default());
    let server = HttpServer::new(move || {
        App::new()
            .app_data(sessions.clone())
            .route("/ready", web::get().to(HttpResponse::Ok))
            .route("/ws", web::get().to(socket))
    });
    let server = server.tcp_nodelay(true).bind(address).unwrap().run();
    actix_web::rt::System::new().block_on(server).unwrap();
}
