//! Meetings with joins, leaves and deadlines while the server is killed again and again, and what is true afterwards.
//!
//! The receiver of webhooks is another process; it is slow, wrong, silent and closed now and then. `PLENUM_CHAOS_MEETINGS` says
//! how many meetings there are at once, `PLENUM_CHAOS_SECONDS` for how long; `script/soak chaos` sets them.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use plenum::clock::Clock;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::{io::AsyncWriteExt, net::TcpListener};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Client, soon},
    cli::{Server, database_url},
    receiver,
};

const KEY: &str = "a-secret-key-of-the-chaos-tests";
/// However slow the machine is.
const LEAST_KILLS: usize = 3;
/// Where the receiver's process writes what it gets.
const RECEIVED: &str = "PLENUM_CHAOS_RECEIVED";

fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(default, |given| given.parse().unwrap())
}

#[sqlx::test]
async fn while_the_server_is_killed_again_and_again_nothing_is_lost(pool: PgPool) {
    let meetings = setting("PLENUM_CHAOS_MEETINGS", 60);
    let time = Duration::from_secs(setting("PLENUM_CHAOS_SECONDS", 12));
    let seed = setting("PLENUM_CHAOS_SEED", rand::random());
    println!("PLENUM_CHAOS_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let received = folder.path().join("received");
    let receiver = ReceiverProcess::start(&received);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    drop(port);
    let chaos = Chaos {
        database: database_url(&pool),
        address,
        receiver: receiver.url.clone(),
        over: CancellationToken::new(),
        people: AtomicUsize::new(0),
    };
    let mut rng = SmallRng::seed_from_u64(seed);
    let kills = chaos.kill(time, SmallRng::seed_from_u64(rng.random()));
    let rooms = (0..meetings).map(|number| {
        let rng = SmallRng::seed_from_u64(rng.random());
        Box::pin(chaos.room(number, rng))
    });
    let (kills, _) = tokio::join!(kills, futures_util::future::join_all(rooms));
    let (server, kills) = kills;

    let settled = tokio::time::timeout(Duration::from_secs(30) + time, settled(&pool)).await;
    let open = open(&pool).await;
    assert!(
        settled.is_ok(),
        "meetings that run and deliveries that are due: {open:?}"
    );
    server.tell(Signal::SIGTERM);
    let figures = Figures::of(&pool, &received).await;
    println!(
        "{meetings} rooms, {kills} kills, {} people, {figures:?}",
        chaos.people.load(Relaxed)
    );
    assert!(figures.meetings > 0);
}

/// What is killed, and who goes on all the same.
struct Chaos {
    database: String,
    address: String,
    receiver: String,
    /// Cancelled when it is to come to an end.
    over: CancellationToken,
    people: AtomicUsize,
}

impl Chaos {
    fn serve(&self) -> Server {
        let retries = vec!["200ms"; 200].join(",");
        Server::spawn(&[
            ("DATABASE_URL", &self.database),
            ("PLENUM_BIND", &self.address),
            ("PLENUM_BOOTSTRAP_APP", "acme"),
            ("PLENUM_BOOTSTRAP_SECRET_KEY", KEY),
            ("PLENUM_MEETING_LEASE", "3s"),
            ("PLENUM_ALLOW_PRIVATE_WEBHOOKS", "1"),
            ("PLENUM_WEBHOOK_TIMEOUT", "1s"),
            ("PLENUM_WEBHOOK_RETRIES", &retries),
            ("PLENUM_RATE_PER_SECOND", "1000000"),
            ("PLENUM_RATE_BURST", "1000000"),
            ("PLENUM_LOG", "error"), // nobody reads it
        ])
    }

    /// Kills the server and starts it anew, for so long and some times at least; the one that is left running, and how
    /// many were killed.
    async fn kill(&self, time: Duration, mut rng: SmallRng) -> (Server, usize) {
        let clock = Clock::system();
        let begin = clock.instant();
        let mut server = self.serve();
        let mut kills = 0;
        while kills < LEAST_KILLS || begin.elapsed() < time {
            // Some die while they start.
            if rng.random_bool(0.8) {
                self.ready().await;
            }
            tokio::time::sleep(Duration::from_millis(rng.random_range(100..4000))).await;
            server.tell(Signal::SIGKILL);
            drop(server);
            kills += 1;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..1000))).await;
            server = self.serve();
        }
        self.ready().await;
        self.over.cancel();
        (server, kills)
    }

    /// Returns once the server takes requests.
    async fn ready(&self) {
        let url = format!("http://{}/ready", self.address);
        soon("a server that is ready", async {
            while !reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await;
    }

    /// One room, with one meeting after the other.
    async fn room(&self, number: u64, mut rng: SmallRng) {
        let http = reqwest::Client::new();
        let mut round = 0;
        while !self.over.is_cancelled() {
            round += 1;
            let name = format!("room-{number}-{round}");
            if !self.create(&http, &name, &mut rng).await {
                continue;
            }
            let people = (0..rng.random_range(1..4)).map(|_| {
                let rng = SmallRng::seed_from_u64(rng.random());
                Box::pin(self.person(&name, rng))
            });
            futures_util::future::join_all(people).await;
        }
    }

    async fn create(&self, http: &reqwest::Client, name: &str, rng: &mut SmallRng) -> bool {
        let hook = format!("{}/{name}", self.receiver);
        let now = Clock::system().now().timestamp();
        let mut room = json!({
            "roomName": name, "endWhenEmptyAfterSec": rng.random_range(0..3),
            "meetingStartedWebhook": hook, "meetingEndedWebhook": hook, "meetingJoinWebhook": hook,
            "meetingLeftWebhook": hook,
        });
        match rng.random_range(0..4) {
            0 => room["ejectAfterElapsedTimeInSec"] = json!(rng.random_range(1..4)),
            1 => {
                room["expireUnixSec"] = json!(now + rng.random_range(2..6));
                room["ejectAtRoomExp"] = json!(true);
            }
            _ => {}
        }
        for _ in 0..50 {
            let request = http.post(format!("http://{}/api/v1/room", self.address));
            let sent = request.bearer_auth(KEY).json(&room).send().await;
            // A room that is there already was made by a call whose answer was lost.
            if sent.is_ok_and(|answer| answer.status().as_u16() < 500) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Somebody who comes in, stays for a while and goes, whatever happens to the server.
    async fn person(&self, room: &str, mut rng: SmallRng) {
        let resumable = rng.random_bool(0.5);
        let stays = Duration::from_millis(rng.random_range(100..4000));
        let cut = !resumable && rng.random_bool(0.4);
        let join = json!({ "type": "join", "roomId": room, "name": "p", "resumable": resumable });
        let mut frame = join;
        let mut stay = Box::pin(tokio::time::sleep(stays));
        for _ in 0..100 {
            let Some(mut client) = self.enter(&mut frame, room).await else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if frame.is_null() {
                    return; // refused for good
                }
                continue;
            };
            self.people.fetch_add(1, Relaxed);
            let gone = async { while client.try_next().await.is_some() {} };
            let lost = tokio::select! {
                () = gone => true,
                () = &mut stay => false,
            };
            match (lost, client.resume_token.is_some()) {
                // Put out, or the server is gone: whoever can come back does, to find out.
                (true, true) => {}
                (true, false) => return,
                (false, _) if cut => return client.cut(),
                (false, _) => {
                    // The server may die before it reads this: whoever could come back looks whether it has.
                    let _ = client.try_send(&json!({ "type": "leave" })).await;
                    let heard = async { while client.try_next().await.is_some() {} };
                    let _ = tokio::time::timeout(Duration::from_millis(300), heard).await;
                    if client.resume_token.is_none() {
                        return;
                    }
                }
            }
        }
    }

    /// Joins or resumes by `frame`, which becomes the one to come back by, or null where nobody gets in by it.
    async fn enter(&self, frame: &mut Value, room: &str) -> Option<Client> {
        let mut client = Client::connect(&self.address).await.ok()?;
        client.try_send(frame).await?;
        let answer = client.try_next().await?;
        match answer["type"].as_str() {
            Some("participant-joined" | "snapshot") => {
                let token = answer["resumeToken"]
                    .as_str()
                    .or(frame["resumeToken"].as_str());
                client.resume_token = token.map(str::to_owned);
                if let Some(token) = token {
                    *frame = json!({ "type": "resume", "roomId": room, "resumeToken": token });
                }
                Some(client)
            }
            _ => {
                if answer["code"] != "TRY_AGAIN" {
                    *frame = Value::Null;
                }
                None
            }
        }
    }
}

/// Meetings that run, and deliveries that are due.
async fn open(pool: &PgPool) -> (i64, i64) {
    let query = "select (select count(*) from meetings where status <> 'ended'),
                        (select count(*) from webhook_deliveries where outcome is null)";
    sqlx::query_as(query).fetch_one(pool).await.unwrap()
}

/// Returns once all meetings have ended, and all deliveries with them.
async fn settled(pool: &PgPool) {
    while open(pool).await != (0, 0) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Figures {
    meetings: usize,
    takeovers: i64,
    stays: i64,
    events: usize,
    requests: usize,
    failed: usize,
    duplicates: usize,
    overtaken: usize,
}

impl Figures {
    /// Checks what is stored and what was received.
    async fn of(pool: &PgPool, received: &Path) -> Self {
        let mut figures = Self::default();
        let wrong: i64 = sqlx::query_scalar(
            "select count(*) from participants p left join usage u on u.participant_id = p.id
             where p.left_at is null or u.participant_id is null or (u.joined_at, u.left_at) <> (p.joined_at, p.left_at)",
        )
        .fetch_one(pool)
        .await
        .unwrap();
        assert_eq!(
            wrong, 0,
            "somebody is left inside, or usage is not the stay"
        );
        let query = "select count(*), (select coalesce(sum(epoch - 1), 0)::bigint from meetings) from usage";
        (figures.stays, figures.takeovers) = sqlx::query_as(query).fetch_one(pool).await.unwrap();

        let events: Vec<(Vec<u8>, i64, String, String)> = sqlx::query_as(
            "select meeting_id, seq, encode(e.id, 'hex'), kind from events e where seq is not null order by 1, 2",
        )
        .fetch_all(pool)
        .await
        .unwrap();
        figures.events = events.len();
        let mut by_meeting: BTreeMap<Vec<u8>, Vec<(i64, String, String)>> = BTreeMap::new();
        for (meeting, seq, id, kind) in events {
            by_meeting.entry(meeting).or_default().push((seq, id, kind));
        }
        figures.meetings = by_meeting.len();

        let lines = std::fs::read_to_string(received).unwrap();
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        figures.requests = lines.len();
        let mut first: HashMap<&str, usize> = HashMap::new();
        let mut bodies: HashMap<&str, &Value> = HashMap::new();
        for (place, line) in lines.iter().enumerate() {
            let id = line["id"].as_str().unwrap();
            let known = bodies.entry(id).or_insert(&line["body"]);
            assert_eq!(**known, line["body"], "one id, one body");
            if line["answered"] != 200 {
                figures.failed += 1;
            } else if first.contains_key(id) {
                figures.duplicates += 1;
            } else {
                first.insert(id, place);
            }
        }
        for (meeting, events) in &by_meeting {
            let seqs: Vec<i64> = events.iter().map(|(seq, ..)| *seq).collect();
            assert_eq!(
                seqs,
                (1..=events.len() as i64).collect::<Vec<_>>(),
                "{meeting:?}"
            );
            let ends = events
                .iter()
                .filter(|(_, _, kind)| kind == "meetingEnded")
                .count();
            assert_eq!(
                (ends, events.last().unwrap().2.as_str()),
                (1, "meetingEnded")
            );
            let places = events.iter().map(|(seq, id, _)| {
                *first
                    .get(id.as_str())
                    .unwrap_or_else(|| panic!("event {seq} of {meeting:?} was not received"))
            });
            let places: Vec<usize> = places.collect();
            for (earlier, (_, id, _)) in events.iter().enumerate() {
                let later = places[earlier + 1..]
                    .iter()
                    .any(|place| *place < places[earlier]);
                if later {
                    figures.overtaken += 1;
                    let attempts: i32 = sqlx::query_scalar(
                        "select attempt from webhook_deliveries where event_id = decode($1, 'hex')",
                    )
                    .bind(id)
                    .fetch_one(pool)
                    .await
                    .unwrap();
                    assert!(attempts > 3, "overtaken after {attempts} attempts");
                }
            }
        }
        figures
    }
}

/// A process that receives webhooks, for as long as this one lives.
struct ReceiverProcess {
    child: Child,
    url: String,
}

impl ReceiverProcess {
    fn start(received: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "chaos::receiver_in_a_process_of_its_own",
                "--ignored",
                "--nocapture",
            ])
            .env(RECEIVED, received)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url =
            lines.find_map(|line| Some(line.unwrap().split_once("receives on ")?.1.to_owned()));
        Self {
            child,
            url: url.unwrap(),
        }
    }
}

impl Drop for ReceiverProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "it is a part of the test above, in another process"]
async fn receiver_in_a_process_of_its_own() {
    let Ok(path) = std::env::var(RECEIVED) else {
        return;
    };
    let file = Mutex::new(std::fs::File::create(path).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    println!("receives on http://{address}");
    let mut listener = Some(listener);
    let tasks = tokio_util::task::TaskTracker::new();
    let file = std::sync::Arc::new(file);
    loop {
        let open = Duration::from_millis(rand::rng().random_range(500..3000));
        let accept = async {
            while let Ok((socket, _)) = listener.as_ref().unwrap().accept().await {
                let file = file.clone();
                tasks.spawn(async move {
                    let mut socket = tokio::io::BufReader::new(socket);
                    let Some(request) = receiver::read(&mut socket).await else {
                        return;
                    };
                    let (status, waits) = match rand::rng().random_range(0..100) {
                        0..5 => (500, 0),
                        5..8 => (404, 0),
                        8..12 => (0, 0), // hangs up
                        12..17 => (200, 300),
                        _ => (200, 0),
                    };
                    tokio::time::sleep(Duration::from_millis(waits)).await;
                    let line =
                        json!({ "id": request.id(), "body": request.body, "answered": status });
                    // Noted before it is answered: what was answered must have been noted.
                    writeln!(file.lock().unwrap(), "{line}").unwrap();
                    if status != 0 {
                        let answer = format!(
                            "HTTP/1.1 {status} So\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        );
                        let _ = socket.write_all(answer.as_bytes()).await;
                    }
                });
            }
        };
        let _ = tokio::time::timeout(open, accept).await;
        listener = None; // closed
        tokio::time::sleep(Duration::from_millis(300)).await;
        listener.replace(TcpListener::bind(address).await.unwrap());
    }
}
