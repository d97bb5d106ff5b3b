//! What a forwarded packet costs the media worker, next to what sending alone costs on this machine in the same run.
//!
//! One publisher sends video (300 packets/s of 1,200 bytes, in 25 bursts) and Opus (50 packets/s) to 10, 50 and 200
//! subscribers over loopback, which decrypt all they get. CPU time is the kernel's, of the worker's thread alone.
//! `script/bench sfu` runs it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that fails has nothing to report"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "a benchmark measures time, and its load needs no orderly end"
)]

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use plenum::{
    id::{MeetingId, ParticipantId},
    sfu::{
        Command, Config, Sfu, Source,
        client::{Client, Identity, Kind, Line, Received},
        slab::DATAGRAM,
        socket::{Outbox, Socket},
    },
};
use tokio::{net::UdpSocket, sync::oneshot};

const MEETING: MeetingId = MeetingId::from_bytes([1; 12]);
/// Length of a measurement, and how many there are.
const WINDOW: Duration = Duration::from_secs(3);
const WINDOWS: usize = 3;
/// Video frames per second, and packets of one.
const FRAMES: u32 = 25;
const PACKETS: u64 = 12;
/// Bytes of a packet's payload.
const VIDEO: usize = 1_200;
const AUDIO: usize = 80;

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // built and run by `cargo test --all-targets`, which wants no figures
    }
    println!(
        "CPU time per datagram in ns, median (lowest to highest) of {WINDOWS} windows of {} s",
        WINDOW.as_secs()
    );
    println!(
        "{:>11}  {:>24}  {:>24}  {:>5}  {:>6}",
        "subscribers", "worker", "sendmmsg alone", "ratio", "lost"
    );
    for subscribers in [10, 50, 200] {
        let floor = floor(subscribers);
        let (worker, lost) = forward(subscribers);
        let (worker, floor) = (Spread::of(worker), Spread::of(floor));
        println!(
            "{subscribers:>11}  {worker:>24}  {floor:>24}  {:>5.2}  {lost:>5.2}%",
            worker.median / floor.median
        );
    }
}

/// Lowest, median and highest of some figures.
struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        Self {
            lowest: figures[0],
            median: figures[figures.len() / 2],
            highest: figures[figures.len() - 1],
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!(
            "{:.0} ({:.0} to {:.0})",
            self.median, self.lowest, self.highest
        ))
    }
}

/// Measures the worker: ns per forwarded packet, all of its work included, and per cent of the packets lost.
fn forward(subscribers: usize) -> (Vec<f64>, f64) {
    let config = Config {
        media_port_base: 0,
        media_addresses: vec![Ipv4Addr::LOCALHOST.into()],
        media_bind: None,
    };
    let (sfu, mut events) = Sfu::start(&config).unwrap();
    let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (ready, wait) = mpsc::sync_channel(1);
    let stop = Arc::new(AtomicBool::new(false));
    let load = thread::spawn({
        let (sfu, stop, sent, received) =
            (sfu.clone(), stop.clone(), sent.clone(), received.clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                tokio::spawn(async move { while events.recv().await.is_some() {} });
                for n in 1..=subscribers {
                    let lines = vec![Line::Receive(Kind::Audio), Line::Receive(Kind::Video)];
                    let peer = connect(&sfu, n, lines).await;
                    tokio::spawn(subscribe(peer, received.clone()));
                }
                let publisher = connect(
                    &sfu,
                    0,
                    vec![Line::Send(Kind::Audio), Line::Send(Kind::Video)],
                )
                .await;
                publish(publisher, &sent, ready, &stop).await;
            });
        }
    });
    wait.recv().unwrap();
    let worker = thread_named("sfu-0");
    thread::sleep(Duration::from_secs(1)); // every subscriber has had its key frame, and every buffer its size
    let mut figures = Vec::new();
    let (sent_before, received_before) = (
        sent.load(Ordering::Relaxed),
        received.load(Ordering::Relaxed),
    );
    for _ in 0..WINDOWS {
        let before = (cpu(&worker), received.load(Ordering::Relaxed));
        thread::sleep(WINDOW);
        let after = (cpu(&worker), received.load(Ordering::Relaxed));
        figures.push((after.0 - before.0) as f64 / (after.1 - before.1) as f64);
    }
    let expected = (sent.load(Ordering::Relaxed) - sent_before) as f64 * subscribers as f64;
    let arrived = (received.load(Ordering::Relaxed) - received_before) as f64;
    stop.store(true, Ordering::Relaxed);
    load.join().unwrap();
    sfu.stop();
    (figures, 100.0 * (1.0 - arrived / expected).max(0.0))
}

/// A connected client with its socket.
struct Peer {
    client: Client,
    socket: UdpSocket,
    buffer: Box<[u8; DATAGRAM]>,
}

async fn connect(sfu: &Sfu, n: usize, lines: Vec<Line>) -> Peer {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut client = Client::new(Identity::generate().unwrap(), lines, n as u32);
    let mut id = [0; 12];
    id[..8].copy_from_slice(&n.to_be_bytes());
    let (reply, answer) = oneshot::channel();
    let tracks = if n == 0 {
        vec![
            ("0".to_owned(), Source::Microphone),
            ("1".to_owned(), Source::Camera),
        ]
    } else {
        Vec::new()
    };
    sfu.send(Command::Negotiate {
        meeting: MEETING,
        peer: ParticipantId::from_bytes(id),
        offer: client.offer(),
        tracks,
        allowed: HashSet::from([Source::Microphone, Source::Camera]),
        reply,
    })
    .unwrap();
    let answer = answer.await.unwrap().unwrap();
    client.handle_answer(&answer, Instant::now()).unwrap();
    let mut peer = Peer {
        client,
        socket,
        buffer: Box::new([0; DATAGRAM]),
    };
    while !peer.client.is_connected() {
        peer.turn(Duration::from_millis(20)).await;
    }
    peer
}

impl Peer {
    /// Sends what waits, receives for at most `patience`; whether media came.
    async fn turn(&mut self, patience: Duration) -> bool {
        self.client.handle_timeout(Instant::now());
        self.flush().await;
        let received = tokio::time::timeout(patience, self.socket.recv(&mut self.buffer[..])).await;
        let Ok(Ok(length)) = received else {
            return false;
        };
        let received = self
            .client
            .handle_datagram(&mut self.buffer[..length], Instant::now());
        self.flush().await;
        matches!(received, Ok(Received::Media { .. }))
    }

    async fn flush(&mut self) {
        let server = self.client.server().unwrap();
        while let Some(datagram) = self.client.poll_transmit() {
            self.socket.send_to(&datagram, server).await.unwrap();
        }
    }
}

async fn subscribe(mut peer: Peer, received: Arc<AtomicU64>) {
    loop {
        if peer.turn(Duration::from_secs(1)).await {
            received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn publish(mut peer: Peer, sent: &AtomicU64, ready: mpsc::SyncSender<()>, stop: &AtomicBool) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / FRAMES / 2);
    let (mut video, mut audio) = (0, 0);
    let mut payload = [7; VIDEO];
    let mut tick = 0u32;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        if tick.is_multiple_of(2) {
            // A key frame every second, so that whoever comes late gets in.
            let frame = tick / 2;
            for packet in 0..PACKETS {
                payload[0] = if packet == 0 { 0x10 } else { 0 };
                payload[1] = u8::from(!frame.is_multiple_of(FRAMES));
                peer.client
                    .send_media(1, video, frame.wrapping_mul(90_000 / FRAMES), &payload);
                video += 1;
            }
            sent.fetch_add(PACKETS, Ordering::Relaxed);
        }
        peer.client
            .send_media(0, audio, (audio as u32).wrapping_mul(960), &[7; AUDIO]);
        audio += 1;
        sent.fetch_add(1, Ordering::Relaxed);
        peer.turn(Duration::ZERO).await;
        if tick == FRAMES {
            ready.send(()).unwrap();
        }
        tick = tick.wrapping_add(1);
    }
}

/// Measures the system call alone: ns per datagram of the same size, to as many sockets, at the same rate.
fn floor(receivers: usize) -> Vec<f64> {
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, addresses) = mpsc::sync_channel(1);
    let drain = thread::spawn({
        let stop = stop.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for _ in 0..receivers {
                    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                    addresses.push(socket.local_addr().unwrap());
                    tokio::spawn(async move {
                        let mut buffer = [0; DATAGRAM];
                        while socket.recv(&mut buffer).await.is_ok() {}
                    });
                }
                tell.send(addresses).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        }
    });
    let addresses = addresses.recv().unwrap();
    let socket = Socket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let mut outbox = Outbox::default();
    let this = Path::new("/proc/thread-self");
    let mut figures = Vec::new();
    for _ in 0..WINDOWS {
        let (start, before, mut datagrams) = (Instant::now(), cpu(this), 0u64);
        while start.elapsed() < WINDOW {
            let burst = Instant::now();
            for address in &addresses {
                for _ in 0..PACKETS {
                    if outbox.room().is_none() {
                        socket.send(&mut outbox);
                    }
                    outbox.push(*address, VIDEO + 28);
                    datagrams += 1;
                }
            }
            socket.send(&mut outbox);
            thread::sleep((Duration::from_secs(1) / FRAMES).saturating_sub(burst.elapsed()));
        }
        figures.push((cpu(this) - before) as f64 / datagrams as f64);
    }
    stop.store(true, Ordering::Relaxed);
    drain.join().unwrap();
    figures
}

/// Where the kernel tells of the thread of this process with this name.
fn thread_named(name: &str) -> PathBuf {
    let mut threads = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path());
    threads
        .find(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .unwrap()
}

/// CPU time of a thread in ns.
fn cpu(thread: &Path) -> u64 {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
