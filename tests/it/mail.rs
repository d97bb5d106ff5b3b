//! Mail: from the queue to a real mail server, over TLS, with a login, and past its refusals.

use std::{
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, ChildStdout, Stdio},
};

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use plenum::{
    clock::Clock,
    db::Db,
    id::{AppId, EndpointId},
    mail::{self, Config, Message, Sender, WebhookDisabled},
};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{app::soon, python};

const APP: AppId = AppId::from_bytes([1; 12]);

#[sqlx::test]
async fn a_message_reaches_the_contact_of_its_app_in_text_and_html(pool: PgPool) {
    let test = Test::new(pool).await;
    let mut server = Server::start(&json!({}));
    assert!(test.enqueue("a").await);
    let sender = test.sender(&[&server.url("", "?tls=none")]);
    assert_eq!(sender.tick(test.clock.now()).await.unwrap(), 1);
    let mail = server.next();
    assert_eq!(
        (&mail["from"], &mail["to"]),
        (&json!("plenum@example.com"), &json!(["ops@acme.example"]))
    );
    let headers = &mail["headers"];
    assert_eq!(headers["subject"], "acme: a webhook endpoint was disabled");
    assert_eq!(
        (&headers["from"], &headers["to"]),
        (
            &json!("Plenum <plenum@example.com>"),
            &json!("ops@acme.example")
        )
    );
    assert_eq!(headers["auto-submitted"], "auto-generated");
    assert_eq!(headers["date"], "Sun, 17 Mar 2030 17:46:40 +0000");
    assert_eq!(
        mail["types"],
        json!(["multipart/alternative", "text/plain", "text/html"])
    );
    for part in ["text", "html"] {
        let part = mail[part].as_str().unwrap();
        assert!(
            part.contains("https://acme.example/hooks") && part.contains("no answer within 10s"),
            "{part}"
        );
    }
    assert_eq!(test.outcomes().await, [(1, Some("sent".to_owned()))]);
    assert_eq!(sender.tick(test.clock.now()).await.unwrap(), 0);
}

#[sqlx::test]
async fn a_message_is_part_of_the_transaction_of_its_cause_and_is_written_once(pool: PgPool) {
    let test = Test::new(pool).await;
    let mut tx = test.db.begin(APP).await.unwrap();
    assert!(
        mail::enqueue(&mut tx, APP, "a", &message(), test.clock.now())
            .await
            .unwrap()
    );
    tx.rollback().await.unwrap();
    assert_eq!(test.outcomes().await, []);
    let written = [
        test.enqueue("a").await,
        test.enqueue("a").await,
        test.enqueue("b").await,
    ];
    assert_eq!(written, [true, false, true]);
    for topic in 0..200 {
        test.enqueue(&topic.to_string()).await;
    }
    assert_eq!(
        test.outcomes().await.len(),
        100,
        "an app cannot fill the queue"
    );
    sqlx::query("update apps set settings = '{}'")
        .execute(&test.pool)
        .await
        .unwrap();
    assert!(!test.enqueue("c").await, "nobody is there to write to");
}

#[sqlx::test]
async fn a_password_is_told_to_a_server_that_proves_who_it_is_and_to_no_other(pool: PgPool) {
    let test = Test::new(pool).await;
    let folder = tempfile::tempdir().unwrap();
    let certificate = Certificate::write(folder.path());
    for (wrapped, scheme) in [(false, "smtp"), (true, "smtps")] {
        let mut server = Server::start(&json!({
            "certificate": certificate.certificate, "key": certificate.key, "wrapped": wrapped, "user": "plenum", "password": "p@ss",
        }));
        test.enqueue(scheme).await;
        let url = server
            .url("plenum:p%40ss@", "")
            .replace("smtp://", &format!("{scheme}://"));
        // Nothing that this machine trusts has issued the certificate.
        let stranger = test.sender(&[&url]);
        assert_eq!(stranger.tick(test.clock.now()).await.unwrap(), 1);
        assert!(
            test.outcomes()
                .await
                .iter()
                .any(|(_, outcome)| outcome.is_none())
        );
        test.clock.advance(TimeDelta::minutes(2));
        let friend = test.sender(&[&url, "--smtp-ca", &certificate.certificate]);
        assert_eq!(friend.tick(test.clock.now()).await.unwrap(), 1);
        let mail = server.next();
        assert_eq!(
            (&mail["tls"], &mail["login"]),
            (&json!(true), &json!(true)),
            "{scheme}"
        );
    }
    let sent = Some("sent".to_owned());
    assert_eq!(test.outcomes().await, [(2, sent.clone()), (2, sent)]);
}

#[sqlx::test]
async fn a_server_that_offers_no_tls_is_sent_nothing_unless_the_setting_says_so(pool: PgPool) {
    let test = Test::new(pool).await;
    let server = Server::start(&json!({}));
    test.enqueue("a").await;
    assert_eq!(
        test.sender(&[&server.url("", "")])
            .tick(test.clock.now())
            .await
            .unwrap(),
        1
    );
    assert_ne!(test.outcomes().await, [(1, Some("sent".to_owned()))]);
    assert_eq!(server.stop(), Vec::<Value>::new());
}

#[sqlx::test]
async fn what_the_server_does_not_take_is_tried_again_as_the_same_message_until_it_is_old(
    pool: PgPool,
) {
    let test = Test::new(pool).await;
    let mut server = Server::start(&json!({ "answers": ["451 later", "451 later"] }));
    let sender = test.sender(&[&server.url("", "?tls=none")]);
    test.enqueue("a").await;
    sender.tick(test.clock.now()).await.unwrap();
    let first = server.next();
    assert_eq!(test.outcomes().await, [(1, None)]);
    test.clock.advance(TimeDelta::seconds(59));
    assert_eq!(
        sender.tick(test.clock.now()).await.unwrap(),
        0,
        "never early"
    );
    for minutes in [1, 5] {
        test.clock.advance(TimeDelta::minutes(minutes));
        assert_eq!(sender.tick(test.clock.now()).await.unwrap(), 1);
        let again = server.next();
        for same in ["message-id", "date", "subject"] {
            assert_eq!(again["headers"][same], first["headers"][same], "{same}");
        }
        assert_eq!(again["text"], first["text"]);
    }
    assert_eq!(test.outcomes().await, [(3, Some("sent".to_owned()))]);

    server.stop();
    test.enqueue("b").await;
    for _ in 0..20 {
        sender.tick(test.clock.now()).await.unwrap();
        test.clock.advance(TimeDelta::days(1));
    }
    let failed: (i32, String) =
        sqlx::query_as("select attempt, error from mails where outcome = 'failed'")
            .fetch_one(&test.pool)
            .await
            .unwrap();
    assert_eq!(failed.0, 8);
    assert!(failed.1.contains("Connection refused"), "{}", failed.1);
    test.clock.advance(TimeDelta::days(31));
    sender.tick(test.clock.now()).await.unwrap();
    assert_eq!(test.outcomes().await, [], "what ended is not kept for ever");
}

#[sqlx::test]
async fn a_message_that_the_server_will_never_take_is_not_tried_again(pool: PgPool) {
    let test = Test::new(pool).await;
    let server = Server::start(&json!({ "answers": ["550 no such person"] }));
    test.enqueue("a").await;
    test.sender(&[&server.url("", "?tls=none")])
        .tick(test.clock.now())
        .await
        .unwrap();
    assert_eq!(test.outcomes().await, [(1, Some("failed".to_owned()))]);
}

#[sqlx::test]
async fn without_a_mail_server_mail_goes_to_the_log_once(pool: PgPool) {
    let test = Test::new(pool).await;
    test.enqueue("a").await;
    let sender = test.sender(&[]);
    assert_eq!(sender.tick(test.clock.now()).await.unwrap(), 1);
    assert_eq!(sender.tick(test.clock.now()).await.unwrap(), 0);
    assert_eq!(test.outcomes().await, [(1, Some("logged".to_owned()))]);
}

// What the tests stand on.

/// An app with a contact; it is the 17th of March 2030.
struct Test {
    pool: PgPool,
    db: Db,
    clock: Clock,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: Config,
}

impl Test {
    async fn new(pool: PgPool) -> Self {
        let db = Db::new(&pool.connect_options());
        let clock = Clock::manual(DateTime::from_timestamp(1_900_000_000, 0).unwrap());
        sqlx::query(
            r#"insert into apps (id, name, room_webhook_secret, created_at, settings)
            values ($1, 'acme', '', $2, '{"contactEmail": "ops@acme.example"}')"#,
        )
        .bind(APP)
        .bind(clock.now())
        .execute(&pool)
        .await
        .unwrap();
        Self { pool, db, clock }
    }

    async fn enqueue(&self, topic: &str) -> bool {
        let mut tx = self.db.begin(APP).await.unwrap();
        let written = mail::enqueue(&mut tx, APP, topic, &message(), self.clock.now())
            .await
            .unwrap();
        tx.commit().await.unwrap();
        written
    }

    /// A sender to the mail server of the first argument, if there are arguments; the others are further settings.
    fn sender(&self, args: &[&str]) -> Sender {
        let mut all = vec!["plenum", "--mail-from", "Plenum <plenum@example.com>"];
        if let [url, more @ ..] = args {
            all.extend(["--smtp-url", url]);
            all.extend(more);
        }
        let config = Settings::parse_from(all).config;
        Sender::new(self.db.clone(), self.clock.clone(), &config).unwrap()
    }

    /// Attempts and outcome of every message, in the order in which they were written.
    async fn outcomes(&self) -> Vec<(i32, Option<String>)> {
        let query = sqlx::query_as("select attempt, outcome from mails order by created_at, topic");
        soon("mail", query.fetch_all(&self.pool)).await.unwrap()
    }
}

fn message() -> Message {
    let at: DateTime<Utc> = DateTime::from_timestamp(1_899_000_000, 0).unwrap();
    Message::WebhookDisabled(WebhookDisabled {
        endpoint: EndpointId::from_bytes([2; 12]),
        url: "https://acme.example/hooks".to_owned(),
        is_gone: false,
        failing_since: at,
        disabled_at: at + TimeDelta::days(5),
        error: "no answer within 10s".to_owned(),
    })
}

/// A mail server, in a process of its own that ends with it.
struct Server {
    process: Child,
    said: BufReader<ChildStdout>,
    port: u16,
}

impl Server {
    fn start(given: &Value) -> Self {
        let mut command = python::script("smtp.py");
        command
            .arg(given.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let mut server = Self {
            process,
            said,
            port: 0,
        };
        server.port = u16::try_from(server.next().as_u64().unwrap()).unwrap();
        server
    }

    fn url(&self, login: &str, query: &str) -> String {
        format!("smtp://{login}localhost:{}{query}", self.port)
    }

    /// What it says next.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Ends it; what it has not said before.
    fn stop(mut self) -> Vec<Value> {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
        let lines = self
            .said
            .by_ref()
            .lines()
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        lines.collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Files of a certificate for `localhost` that nobody else trusts.
struct Certificate {
    certificate: String,
    key: String,
}

impl Certificate {
    fn write(folder: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::File::create(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            path.to_str().unwrap().to_owned()
        };
        Self {
            certificate: write("certificate.pem", made.cert.pem()),
            key: write("key.pem", made.signing_key.serialize_pem()),
        }
    }
}
