//! A customer's HTTP server that receives webhooks.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Mutex as AsyncMutex, mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::app::soon;

/// An HTTP server of a customer: remembers what it gets, and answers each path as it is told.
pub struct Receiver {
    port: u16,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Shared {
    replies: Mutex<HashMap<String, Reply>>,
    seen: watch::Sender<Vec<Request>>,
    connections: watch::Sender<usize>,
    /// How those who are held are to be answered, in the order of their release.
    release: mpsc::Sender<Reply>,
    released: AsyncMutex<mpsc::Receiver<Reply>>,
}

/// How a receiver answers.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Status(u16),
    /// 503, with `Retry-After` in seconds.
    Later(u32),
    /// Not at all, until [`Receiver::release`] says how.
    Held,
}

#[derive(Clone, Debug)]
pub struct Request {
    pub line: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Request {
    pub fn path(&self) -> String {
        self.line.split(' ').nth(1).unwrap().to_owned()
    }
    pub fn id(&self) -> String {
        self.headers["webhook-id"].to_str().unwrap().to_owned()
    }
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
    pub fn seq(&self) -> i64 {
        self.json()["seq"].as_i64().unwrap()
    }
}

impl Receiver {
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (release, released) = mpsc::channel(64);
        let shared = Arc::new(Shared {
            replies: Mutex::default(),
            seen: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new(0),
            release,
            released: AsyncMutex::new(released),
        });
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (own, connections, stopped) = (shared.clone(), tasks.clone(), stop.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
            while let Ok((socket, _)) = listener.accept().await {
                own.connections.send_modify(|count| *count += 1);
                connections.spawn(
                    stopped
                        .clone()
                        .run_until_cancelled_owned(serve(own.clone(), socket)),
                );
            }
        }));
        Self {
            port,
            shared,
            tasks,
            stop,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// From now on, `path` is answered so; without it, with 200.
    pub fn answer(&self, path: &str, reply: Reply) {
        self.shared
            .replies
            .lock()
            .unwrap()
            .insert(path.to_owned(), reply);
    }

    /// Answers the request that has been held for longest.
    pub fn release(&self, reply: Reply) {
        self.shared.release.try_send(reply).unwrap();
    }

    /// Returns once so many requests have come since the last [`take`](Receiver::take).
    pub async fn arrived(&self, count: usize) {
        soon(
            "a request",
            self.shared
                .seen
                .subscribe()
                .wait_for(|seen| seen.len() >= count),
        )
        .await
        .unwrap();
    }

    pub fn count(&self) -> usize {
        self.shared.seen.borrow().len()
    }

    pub fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// The requests since the last take, in the order in which they came.
    pub fn take(&self) -> Vec<Request> {
        self.shared.seen.send_replace(Vec::new())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

async fn serve(shared: Arc<Shared>, socket: TcpStream) {
    let mut socket = BufReader::new(socket);
    let Some(request) = read(&mut socket).await else {
        return;
    };
    let reply = shared
        .replies
        .lock()
        .unwrap()
        .get(&request.path())
        .copied()
        .unwrap_or(Reply::Status(200));
    shared.seen.send_modify(|seen| seen.push(request));
    let reply = match reply {
        // Whoever waits longest holds the lock, and gets the next one.
        Reply::Held => shared.released.lock().await.recv().await.unwrap(),
        other => other,
    };
    let (status, more) = match reply {
        Reply::Status(status) => (status, "location: http://127.0.0.1:1/\r\n".to_owned()),
        Reply::Later(seconds) => (503, format!("retry-after: {seconds}\r\n")),
        Reply::Held => unreachable!("a held request is released with an answer"),
    };
    let body = if status == 204 {
        ""
    } else {
        "content-length: 4\r\n\r\nfine"
    };
    let head = format!(
        "HTTP/1.1 {status} So\r\n{more}{body}{}",
        if status == 204 { "\r\n" } else { "" }
    );
    let _ = socket.write_all(head.as_bytes()).await; // who asked may have gone
}

pub async fn read(socket: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        socket
            .read_line(&mut line)
            .await
            .ok()
            .filter(|length| *length > 0)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let mut lines = lines.into_iter();
    let line = lines.next()?;
    let headers: HeaderMap = lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.parse().unwrap(), value.parse().unwrap())
        })
        .collect::<Vec<(reqwest::header::HeaderName, reqwest::header::HeaderValue)>>()
        .into_iter()
        .collect();
    let length = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some(Request {
        line,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
