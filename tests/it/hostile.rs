//! Clients that are slow, broken or up to something, and proxies in between: raw bytes on a real socket.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::app::{TestApp, soon};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;

/// A WebSocket client that sends what it likes, and answers nothing by itself.
struct Raw(TcpStream);

impl Raw {
    async fn connect(test: &TestApp) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // So that little of what is not read waits in the kernel.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(test.address.parse().unwrap()).await.unwrap();
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
            test.address
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("the upgrade", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101"), "{head}");
        assert!(
            !head.contains("sec-websocket-extensions"),
            "nothing is compressed: {head}"
        );
        Self(stream)
    }

    async fn joined(test: &TestApp, room: &str, name: &str) -> (Self, String) {
        let mut raw = Self::connect(test).await;
        raw.say(&json!({ "type": "join", "roomId": room, "name": name }))
            .await;
        let own = raw.hear().await;
        (raw, own["participantId"].as_str().unwrap().to_owned())
    }

    /// Sends one frame of the protocol; its head may claim another length than its payload has.
    async fn frame(&mut self, head: u8, claimed: usize, payload: &[u8]) {
        let mut bytes = vec![head];
        match u16::try_from(claimed) {
            Ok(short @ 0..126) => bytes.push(0x80 | short as u8),
            Ok(middle) => {
                bytes.push(0x80 | 126);
                bytes.extend(middle.to_be_bytes());
            }
            Err(_) => {
                bytes.push(0x80 | 127);
                bytes.extend((claimed as u64).to_be_bytes());
            }
        }
        bytes.extend([0; 4]); // a mask that changes nothing
        bytes.extend(payload);
        soon("a send", self.0.write_all(&bytes)).await.unwrap();
    }

    async fn send(&mut self, head: u8, payload: &[u8]) {
        self.frame(head, payload.len(), payload).await;
    }

    async fn say(&mut self, frame: &Value) {
        self.send(FIN | TEXT, frame.to_string().as_bytes()).await;
    }

    /// The next frame of the protocol.
    async fn receive(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let head = self.0.read_u8().await.unwrap();
            let length = match self.0.read_u8().await.unwrap() {
                126 => self.0.read_u16().await.unwrap().into(),
                127 => self.0.read_u64().await.unwrap(),
                short => short.into(),
            };
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut payload).await.unwrap();
            (head & 0x0f, payload)
        };
        soon("a frame", read).await
    }

    /// The next text frame.
    async fn hear(&mut self) -> Value {
        loop {
            let (kind, payload) = self.receive().await;
            if kind != PING {
                assert_eq!(kind, TEXT, "{payload:?}");
                return serde_json::from_slice(&payload).unwrap();
            }
        }
    }

    /// The code with which the server closes, whatever comes before it; it closes the connection then.
    async fn closed(&mut self) -> u16 {
        loop {
            let (kind, payload) = self.receive().await;
            if kind == CLOSE {
                let mut rest = Vec::new();
                soon("the end", self.0.read_to_end(&mut rest)).await.ok();
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

#[sqlx::test]
async fn a_text_in_fragments_is_one_frame_and_what_is_between_them_is_answered(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let (mut raw, _) = Raw::joined(&test, "standup", "Ann").await;
    let text = json!({ "type": "chat", "text": "grün" }).to_string();
    let (first, rest) = text.as_bytes().split_at(text.find('ü').unwrap() + 1);
    raw.send(TEXT, first).await;
    raw.send(FIN | PING, b"are you there").await;
    assert_eq!(raw.receive().await, (PONG, b"are you there".to_vec()));
    for byte in rest {
        raw.send(CONTINUATION, &[*byte]).await;
    }
    raw.send(FIN | CONTINUATION, b"").await;
    assert_eq!(raw.hear().await["text"], "grün");
}

#[sqlx::test]
async fn what_is_no_text_frame_is_refused_and_what_breaks_the_protocol_ends_the_socket(
    pool: PgPool,
) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let (mut raw, _) = Raw::joined(&test, "standup", "Ann").await;
    raw.send(FIN | BINARY, b"{}").await;
    assert_eq!(raw.hear().await["code"], "INVALID_MESSAGE");
    raw.send(BINARY, b"{").await;
    raw.send(FIN | CONTINUATION, b"}").await;
    assert_eq!(raw.hear().await["code"], "INVALID_MESSAGE");

    const MIB: usize = 1024 * 1024;
    // Deflated text, as a client may send it only where that was agreed upon.
    let compressed = [0xaa, 0x56, 0x2a, 0xa9, 0x2c, 0x48, 0x55, 0xb2, 0x52];
    for (what, head, claimed, payload, code) in [
        ("invalid UTF-8", FIN | TEXT, 1, &[0xff][..], 1007),
        (
            "a compressed frame",
            FIN | TEXT | RSV1,
            compressed.len(),
            &compressed,
            1007,
        ),
        (
            "a continuation of nothing",
            FIN | CONTINUATION,
            1,
            b"a",
            1002,
        ),
        ("an opcode that there is none", FIN | 3, 1, b"a", 1002),
    ] {
        let (mut raw, _) = Raw::joined(&test, "standup", "Ben").await;
        raw.frame(head, claimed, payload).await;
        assert_eq!(raw.closed().await, code, "{what}");
    }
    let (mut raw, _) = Raw::joined(&test, "standup", "Ben").await;
    raw.send(FIN | TEXT, &vec![b'a'; MIB + 1]).await;
    assert_eq!(raw.closed().await, 1009, "a frame that is too long");
    // One that claims to be longer than anything is ended while it comes.
    let (mut raw, _) = Raw::joined(&test, "standup", "Ben").await;
    raw.frame(FIN | TEXT, usize::MAX >> 1, b"").await;
    let part = vec![b'a'; MIB];
    while raw.0.write_all(&part).await.is_ok() {}
    let (mut raw, _) = Raw::joined(&test, "standup", "Ben").await;
    raw.send(TEXT, &vec![b'a'; MIB]).await;
    raw.send(FIN | CONTINUATION, b"a").await;
    assert_eq!(
        raw.closed().await,
        1009,
        "fragments that are too long together"
    );
    let (mut raw, _) = Raw::joined(&test, "standup", "Ben").await;
    raw.0.write_all(&[FIN | TEXT, 2, b'{', b'}']).await.unwrap();
    assert_eq!(raw.closed().await, 1002, "a frame without a mask");
}

#[sqlx::test]
async fn a_flood_ends_the_socket_whatever_it_is_made_of(pool: PgPool) {
    let test = TestApp::new(pool).await;
    for (what, head, payload) in [
        ("unknown types", FIN | TEXT, &br#"{"type":"dance"}"#[..]),
        ("rubbish", FIN | TEXT, b"?"),
        ("binary frames", FIN | BINARY, b""),
        ("pings", FIN | PING, b""),
    ] {
        let mut raw = Raw::connect(&test).await;
        // One may send 100 at once, and 50 more in every second that this takes.
        let mut flood = Vec::new();
        for _ in 0..1000 {
            flood.extend([head, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
            flood.extend(payload);
        }
        // The server may have closed before it has taken all.
        raw.0.write_all(&flood).await.ok();
        let mut answer = Vec::new();
        soon("the end", raw.0.read_to_end(&mut answer)).await.ok();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("TOO_FAST"), "{what}: {answer}");
    }
}

#[sqlx::test]
async fn who_stops_reading_is_dropped_and_nobody_waits_for_them(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.room(json!({ "roomName": "standup" })).await;
    let (mut slow, id) = Raw::joined(&test, "standup", "Slow").await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    let mut written = 0;
    'until_dropped: loop {
        // Each may send 2 MiB at once.
        let mut sender = test.join("standup", "Sender").await;
        sender.expect("participant-joined").await;
        for index in 0..18 {
            sender
                .send(json!({
                    "type": "file-chunk", "targetId": id, "transferId": "t", "chunk": "a".repeat(100_000), "index": index,
                    "total": 18,
                }))
                .await;
            written += 100_000;
            assert!(
                written < 20_000_000,
                "the server keeps {written} bytes for one client"
            );
            // In step with the meeting, which never waits.
            sender.send(json!({ "type": "chat", "text": "next" })).await;
            loop {
                let frame = ann.next().await.unwrap();
                match frame["type"].as_str().unwrap() {
                    "participant-left" if frame["participantId"] == id.as_str() => {
                        break 'until_dropped;
                    }
                    "chat" => break,
                    _ => {}
                }
            }
        }
        sender.close(1000).await;
    }
    // What it does now is of no use to it.
    slow.say(&json!({ "type": "chat", "text": "hello?" })).await;
    ann.send(json!({ "type": "chat", "text": "still here" }))
        .await;
    while ann.until("chat").await["text"] != "still here" {}
}

#[sqlx::test]
async fn who_answers_no_ping_is_lost_and_who_does_stays(pool: PgPool) {
    let test = TestApp::with(pool, &["--signaling-ping", "200ms"]).await;
    test.room(json!({ "roomName": "standup" })).await;
    let (mut silent, id) = Raw::joined(&test, "standup", "Silent").await;
    let mut ann = test.join("standup", "Ann").await;
    ann.expect("participant-joined").await;
    // Ann answers while she waits.
    assert_eq!(
        ann.expect("participant-left").await["participantId"],
        id.as_str()
    );
    assert_eq!(silent.hear().await["name"], "Ann");
    assert!(ann.is_in().await);
}

#[sqlx::test]
async fn a_proxy_that_ends_tls_carries_a_socket_to_the_app_that_it_names(pool: PgPool) {
    let test = TestApp::with(
        pool,
        &[
            "--trusted-proxies",
            "127.0.0.1",
            "--base-domain",
            "example.com",
        ],
    )
    .await;
    let other = test.another_app("other").await;
    let wanted = json!({ "roomName": "theirs" });
    let (_, room) = test
        .call(&other, reqwest::Method::POST, "/api/v1/room", Some(&wanted))
        .await;
    assert_eq!(room["roomName"], "theirs");

    let made = rcgen::generate_simple_self_signed(["other.example.com".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = test.address.clone();
    let proxy = async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut client = acceptor.accept(stream).await.unwrap();
        let mut server = TcpStream::connect(upstream).await.unwrap();
        // As proxies do: the host is its own, and what the client asked for stands in headers.
        let request = "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\
                       X-Forwarded-Host: other.example.com\r\n";
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        server.write_all(request.as_bytes()).await.unwrap();
        let mut line = Vec::new();
        loop {
            line.push(client.read_u8().await.unwrap());
            if line.ends_with(b"\r\n") {
                if !line.to_ascii_lowercase().starts_with(b"host:") {
                    server.write_all(&line).await.unwrap();
                }
                if line == b"\r\n" {
                    break;
                }
                line.clear();
            }
        }
        copy_bidirectional(&mut client, &mut server).await.ok();
    };

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect("other.example.com".try_into().unwrap(), stream);
        let stream = soon("TLS", stream).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async("wss://other.example.com/ws", stream)
            .await
            .unwrap();
        let join = json!({ "type": "join", "roomId": "theirs", "name": "Ann" });
        socket.send(join.to_string().into()).await.unwrap();
        let frame = soon("a frame", socket.next()).await.unwrap().unwrap();
        assert!(
            frame.to_text().unwrap().contains("participant-joined"),
            "{frame}"
        );
    };
    tokio::join!(proxy, client);
}
