//! Webhooks: from the outbox to a receiver that is slow, wrong, closed or gone.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use plenum::{
    clock::Clock,
    db::Db,
    id::{AppId, EndpointId, EventId, MeetingId, ParticipantId, RoomId},
    sealed::{MasterKey, Place, Sealed, Secret},
    webhooks::{
        self, Config, Dispatcher, Event, Kind, Room, RoomUrls, SigningSecret, Stay,
        endpoints::{self, EndpointChange},
    },
};
use rand::{
    SeedableRng,
    rngs::{SmallRng, StdRng},
};
use secrecy::ExposeSecret;
use sqlx::{PgPool, Row};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::soon,
    receiver::{Receiver, Reply, Request},
};

#[sqlx::test]
async fn an_event_reaches_the_url_of_its_kind_signed_and_is_recorded(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test
        .meeting(RoomUrls {
            meeting_join: Some(receiver.url("/joined?key=1")),
            ..RoomUrls::default()
        })
        .await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    let joined = meeting.next(join("Zoë"));
    test.emit(&joined).await;

    assert_eq!(test.drain().await, 1, "only the join has a URL");
    let [request] = receiver.take().try_into().unwrap();
    assert_eq!(request.line, "POST /joined?key=1 HTTP/1.1");
    assert_eq!(request.headers["content-type"], "application/json");
    standardwebhooks::Webhook::new(test.secret.reveal().expose_secret())
        .unwrap()
        .verify(request.body.as_bytes(), &request.headers)
        .unwrap();
    assert_eq!(request.id(), joined.id.to_string());
    let body = request.json();
    assert_eq!(
        (&body["event"], &body["name"], &body["seq"]),
        (&"participantJoined".into(), &"Zoë".into(), &2.into())
    );
    assert_eq!(body["id"], joined.id.to_string());

    assert_eq!(test.outcomes().await, [(2, Some("delivered".to_owned()))]);
    assert_eq!(
        test.attempts().await,
        [(1, Some(200), Some("fine".to_owned()), None)]
    );
}

#[sqlx::test]
async fn an_event_is_part_of_the_transaction_that_makes_it_true(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    let mut tx = test.db.begin(test.app).await.unwrap();
    webhooks::emit(
        &mut tx,
        std::slice::from_ref(&meeting.next(Kind::MeetingStarted)),
    )
    .await
    .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!((test.drain().await, receiver.take().len()), (0, 0));
}

#[sqlx::test]
async fn webhooks_are_invisible_to_other_apps(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    test.drain().await;

    let other = AppId::from_bytes([9; 12]);
    for table in [
        "events",
        "webhook_endpoints",
        "webhook_deliveries",
        "webhook_attempts",
    ] {
        for (app, expected) in [(test.app, 1), (other, 0)] {
            let mut tx = test.db.begin(app).await.unwrap();
            let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
            let seen: i64 = sqlx::query_scalar(query).fetch_one(&mut *tx).await.unwrap();
            assert_eq!(seen, expected, "{table}");
        }
    }
    let mut tx = test.db.begin(other).await.unwrap();
    webhooks::emit(
        &mut tx,
        std::slice::from_ref(&meeting.next(Kind::MeetingStarted)),
    )
    .await
    .expect_err("the event of another app");
}

#[sqlx::test]
async fn the_deliveries_of_a_meeting_to_one_url_go_out_in_order(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/all"))).await;
    for kind in [
        Kind::MeetingStarted,
        join("Ann"),
        join("Bob"),
        leave("Ann"),
        leave("Bob"),
        end(),
    ] {
        test.emit(&meeting.next(kind)).await;
    }
    assert_eq!(test.drain().await, 6);
    assert_eq!(
        receiver.take().iter().map(Request::seq).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
}

#[sqlx::test]
async fn a_failing_delivery_holds_its_line_for_three_attempts_and_then_retries_alone(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test
        .meeting(RoomUrls {
            meeting_ended: Some(receiver.url("/other")),
            ..all(&receiver.url("/failing"))
        })
        .await;
    receiver.answer("/failing", Reply::Status(500));
    for kind in [Kind::MeetingStarted, join("Ann"), end()] {
        test.emit(&meeting.next(kind)).await;
    }
    let mut elsewhere = test.meeting(all(&receiver.url("/elsewhere"))).await;
    test.emit(&elsewhere.next(Kind::MeetingStarted)).await;

    test.drain().await;
    let seen: BTreeSet<_> = receiver
        .take()
        .iter()
        .map(|request| (request.path(), request.seq()))
        .collect();
    let expected = [("/failing", 1), ("/other", 3), ("/elsewhere", 1)];
    assert_eq!(
        seen,
        expected.map(|(path, seq)| (path.to_owned(), seq)).into(),
        "another URL and another meeting do not wait"
    );

    test.advance(TimeDelta::seconds(6)).await;
    assert_eq!(
        receiver.take().iter().map(Request::seq).collect::<Vec<_>>(),
        [1],
        "the second attempt; the join waits"
    );
    test.advance(TimeDelta::seconds(331)).await;
    let seen: Vec<_> = receiver.take().iter().map(Request::seq).collect();
    assert_eq!(seen, [1, 2], "the third attempt lets the line go on");
    receiver.answer("/failing", Reply::Status(200));
    test.advance(TimeDelta::seconds(6)).await;
    assert_eq!(
        receiver.take().iter().map(Request::seq).collect::<Vec<_>>(),
        [2]
    );
    test.advance(TimeDelta::minutes(33)).await;
    assert_eq!(
        receiver.take().iter().map(Request::seq).collect::<Vec<_>>(),
        [1],
        "and it retried alone"
    );
    assert_eq!(test.outcomes().await.len(), 4);
    assert!(
        test.outcomes()
            .await
            .iter()
            .all(|(_, outcome)| outcome.as_deref() == Some("delivered"))
    );
}

#[sqlx::test]
async fn a_delivery_is_tried_ten_times_with_the_same_bytes_and_id_and_then_failed(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(503));
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    test.drain().await;
    for hours in [0.0014, 0.09, 0.6, 2.3, 5.6, 11.1, 15.5, 22.1, 26.5] {
        assert_eq!(test.outcomes().await, [(1, None)]);
        test.advance(TimeDelta::seconds((hours * 3600.0) as i64 + 1))
            .await;
    }
    let requests = receiver.take();
    assert_eq!(requests.len(), 10);
    assert_eq!(
        requests
            .iter()
            .map(|request| (request.id(), &request.body))
            .collect::<HashSet<_>>()
            .len(),
        1
    );
    assert_eq!(
        requests
            .iter()
            .map(|request| &request.headers["webhook-timestamp"])
            .collect::<HashSet<_>>()
            .len(),
        10
    );

    assert_eq!(test.outcomes().await, [(1, Some("failed".to_owned()))]);
    let error = Some("answered 503, and only 2xx is success".to_owned());
    let expected: Vec<_> = (1..=10)
        .map(|attempt| (attempt, Some(503), Some("fine".to_owned()), error.clone()))
        .collect();
    assert_eq!(test.attempts().await, expected);
    test.advance(TimeDelta::days(30)).await;
    assert_eq!(receiver.take().len(), 0);
}

#[sqlx::test]
async fn a_retry_is_never_early(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Status(500));
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    test.drain().await;
    test.advance(TimeDelta::milliseconds(4999)).await;
    assert_eq!(receiver.take().len(), 1);
    test.advance(TimeDelta::milliseconds(502)).await;
    assert_eq!(
        receiver.take().len(),
        1,
        "five seconds, and at most a tenth more"
    );
}

#[sqlx::test]
async fn retry_after_is_honoured(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Later(60));
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    test.drain().await;
    receiver.answer("/", Reply::Status(204));
    test.advance(TimeDelta::seconds(59)).await;
    assert_eq!(receiver.take().len(), 1);
    test.advance(TimeDelta::seconds(1)).await;
    assert_eq!(receiver.take().len(), 1);
    assert_eq!(test.outcomes().await, [(1, Some("delivered".to_owned()))]);
}

#[sqlx::test]
async fn a_receiver_that_is_gone_gets_nothing_more(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/gone", Reply::Status(410));
    let urls = RoomUrls {
        meeting_ended: Some(receiver.url("/other")),
        ..all(&receiver.url("/gone"))
    };
    let mut meeting = test.meeting(urls).await;
    for kind in [Kind::MeetingStarted, join("Ann")] {
        test.emit(&meeting.next(kind)).await;
    }
    assert_eq!(test.drain().await, 1);
    for kind in [leave("Ann"), end()] {
        test.emit(&meeting.next(kind)).await;
    }
    test.drain().await;
    assert_eq!(
        receiver
            .take()
            .iter()
            .map(Request::path)
            .collect::<Vec<_>>(),
        ["/gone", "/other"]
    );
    let outcomes = [
        (1, "failed"),
        (2, "skipped"),
        (3, "skipped"),
        (4, "delivered"),
    ];
    assert_eq!(
        test.outcomes().await,
        outcomes.map(|(seq, outcome)| (seq, Some(outcome.to_owned()))),
        "kept, not sent"
    );
}

#[sqlx::test]
async fn an_endpoint_at_which_nothing_succeeds_for_five_days_is_disabled_and_its_owner_is_told(
    pool: PgPool,
) {
    let test = Test::new(pool).await;
    test.contact("ops@acme.example").await;
    let receiver = Receiver::open().await;
    receiver.answer("/?key=swordfish", Reply::Status(500));
    let mut meeting = test.meeting(all(&receiver.url("/?key=swordfish"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    test.drain().await;
    test.advance(TimeDelta::hours(119)).await;
    test.emit(&meeting.next(join("Ann"))).await;
    test.drain().await;
    assert!(!test.is_disabled().await, "not quite five days");
    test.advance(TimeDelta::hours(2)).await;
    assert!(test.is_disabled().await);
    test.emit(&meeting.next(leave("Ann"))).await;
    let attempts = receiver.take().len();
    assert_eq!(test.drain().await, 0);
    let skipped = Some("skipped".to_owned());
    assert_eq!(
        test.outcomes().await,
        [(1, skipped.clone()), (2, skipped.clone()), (3, skipped)],
        "what waits and what comes is kept, not sent"
    );
    assert_eq!(
        i64::try_from(attempts).unwrap(),
        test.count("webhook_attempts").await
    );

    let [mail] = &test.mails().await[..] else {
        panic!("one message")
    };
    let since = (test.clock.now() - TimeDelta::hours(121))
        .format("%Y-%m-%dT%H")
        .to_string();
    for said in [
        &receiver.url("/"),
        "answered 500, and only 2xx is success",
        &since,
    ] {
        assert!(mail.contains(said), "{said}: {mail}");
    }
    assert!(!mail.contains("swordfish"), "{mail}");

    let endpoint = test.endpoint().await;
    let mut tx = test.db.begin(test.app).await.unwrap();
    let enabled = EndpointChange {
        enabled: Some(true),
        ..EndpointChange::default()
    };
    endpoints::change(&mut tx, test.app, endpoint, enabled, test.clock.now())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    receiver.answer("/?key=swordfish", Reply::Status(200));
    test.emit(&meeting.next(end())).await;
    assert_eq!(test.drain().await, 1);
    assert_eq!(test.outcomes().await[3], (4, Some("delivered".to_owned())));
}

#[sqlx::test]
async fn one_success_begins_the_five_days_anew(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meetings = Vec::new();
    for status in [500, 200, 500, 500] {
        receiver.answer("/", Reply::Status(status));
        let mut meeting = test.meeting(all(&receiver.url("/"))).await;
        if let Some(Meeting { room, .. }) = meetings.first() {
            meeting.room.id = room.id; // one endpoint
        }
        test.emit(&meeting.next(Kind::MeetingStarted)).await;
        test.drain().await;
        meetings.push(meeting);
        assert!(!test.is_disabled().await);
        // No retry is due meanwhile: time goes on without them.
        test.clock.advance(TimeDelta::days(4));
        sqlx::query("delete from webhook_deliveries")
            .execute(&test.pool)
            .await
            .unwrap();
    }
}

#[sqlx::test]
async fn endpoints_at_one_host_that_go_on_one_day_are_one_message(pool: PgPool) {
    let test = Test::new(pool).await;
    test.contact("ops@acme.example").await;
    let receivers = [Receiver::open().await, Receiver::open().await];
    for receiver in &receivers {
        for path in ["/a", "/b"] {
            receiver.answer(path, Reply::Status(410));
            let mut meeting = test.meeting(all(&receiver.url(path))).await;
            test.emit(&meeting.next(Kind::MeetingStarted)).await;
        }
    }
    assert_eq!(test.drain().await, 4);
    let mails = test.mails().await;
    assert_eq!(mails.len(), 2);
    assert!(
        mails.iter().all(|mail| mail.contains("410 Gone")),
        "{mails:?}"
    );
}

#[sqlx::test]
async fn what_waits_in_a_line_does_not_stand_before_others(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/held", Reply::Held);
    let mut long = test.meeting(all(&receiver.url("/held"))).await;
    for _ in 0..50 {
        test.emit(&long.next(join("Ann"))).await;
    }
    let mut other = test.meeting(all(&receiver.url("/other"))).await;
    test.emit(&other.next(Kind::MeetingStarted)).await;
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(test.dispatcher.clone().run(shutdown.clone()));
    receiver.arrived(2).await;
    let paths: BTreeSet<_> = receiver.take().iter().map(Request::path).collect();
    assert_eq!(paths, ["/held".to_owned(), "/other".to_owned()].into());

    receiver.answer("/held", Reply::Status(200));
    receiver.release(Reply::Status(200));
    receiver.arrived(49).await;
    let seen: Vec<_> = receiver.take().iter().map(Request::seq).collect();
    assert_eq!(
        seen,
        (2..=50).collect::<Vec<_>>(),
        "each at once after the one before it"
    );
    shutdown.cancel();
    tasks.close();
    soon("webhooks", tasks.wait()).await;
}

/// What a claim reads does not grow with what waits behind a receiver that hangs.
#[sqlx::test]
async fn a_claim_costs_what_is_claimed_and_not_what_waits(pool: PgPool) {
    let test = Test::new(pool).await;
    let mut meeting = test.meeting(all("http://127.0.0.1:8443/")).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    let mut read = Vec::new();
    for waiting in [1_000, 20_000] {
        sqlx::query(
            "with event as (
                insert into events (id, app_id, room_id, meeting_id, seq, kind, at, body)
                select substring(e.id for 6) || decode(lpad(to_hex($1 + n), 12, '0'), 'hex'), e.app_id, e.room_id, e.meeting_id,
                    $1 + n, e.kind, e.at, e.body
                from (select * from events where seq = 1) e, generate_series(1, $1) n returning *
            )
            insert into webhook_deliveries
                (id, app_id, event_id, endpoint_id, receiver, meeting_id, seq, attempt, created_at, due_at, holds_line)
            select v.id, v.app_id, v.id, d.endpoint_id, d.receiver, v.meeting_id, v.seq, 1, v.at, v.at, false
            from event v, (select * from webhook_deliveries where seq = 1) d",
        )
        .bind(waiting)
        .execute(&test.pool)
        .await
        .unwrap();
        sqlx::query("vacuum analyze webhook_deliveries")
            .execute(&test.pool)
            .await
            .unwrap();
        let claim = include_str!("../../src/webhooks/claim.sql");
        let explain = format!("explain (analyze, buffers, format json) {claim}");
        let mut tx = test.pool.begin().await.unwrap();
        let plan: serde_json::Value = sqlx::query_scalar(sqlx::AssertSqlSafe(explain))
            .bind(test.clock.now())
            .bind(test.clock.now() + TimeDelta::seconds(30))
            .bind(8_i64)
            .bind(Vec::<AppId>::new())
            .bind(Vec::<String>::new())
            .bind(Vec::<i64>::new())
            .bind(Vec::<bool>::new())
            .bind(Vec::<AppId>::new())
            .bind(Vec::<i64>::new())
            .bind(Vec::<i64>::new())
            .bind(8_i64)
            .bind(8_i64)
            .bind(8_i64)
            .bind(2_i64)
            .bind(0)
            .bind(128)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let top = &plan[0]["Plan"];
        assert_eq!(top["Actual Rows"].as_f64(), Some(2.0), "{top}");
        read.push(
            top["Shared Hit Blocks"].as_i64().unwrap()
                + top["Shared Read Blocks"].as_i64().unwrap(),
        );
    }
    assert!(read[1] < 2 * read[0], "blocks read: {read:?}");
}

/// As the receivers of customers check it who use another language.
#[sqlx::test]
async fn the_reference_library_of_python_accepts_what_is_sent_and_nothing_changed(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    for kind in [Kind::MeetingStarted, join("Zoë \u{1f600} \"<&>\""), end()] {
        test.emit(&meeting.next(kind)).await;
    }
    test.drain().await;
    let secret = test.secret.reveal();
    let mut given = Vec::new();
    for request in receiver.take() {
        let headers: HashMap<_, _> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect();
        let changed = request.body.replacen("seq", "sep", 1);
        for body in [&request.body, &changed] {
            given.push(serde_json::json!({ "secret": secret.expose_secret(), "headers": headers, "body": body }).to_string());
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("webhooks");
    std::fs::write(&input, given.join("\n")).unwrap();
    let input = std::fs::File::open(input).unwrap();
    let output = crate::python::script("verify.py")
        .stdin(input)
        .output()
        .unwrap();
    let said =
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    let said: Vec<_> = said.lines().collect();
    assert_eq!(said, ["good", "bad: No matching signature found"].repeat(3));
}

#[sqlx::test]
async fn an_attempt_under_way_when_its_endpoint_is_disabled_is_not_retried(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Held);
    let mut meetings = [
        test.meeting(all(&receiver.url("/"))).await,
        test.meeting(all(&receiver.url("/"))).await,
    ];
    meetings[1].room.id = meetings[0].room.id; // two meetings of one room: two lines to one endpoint
    for meeting in &mut meetings {
        test.emit(&meeting.next(Kind::MeetingStarted)).await;
    }
    let tick = test.dispatcher.tick(test.clock.now());
    let both = async {
        receiver.arrived(2).await;
        receiver.release(Reply::Status(410));
        test.settled(1).await;
        receiver.release(Reply::Status(500));
    };
    let (ticked, ()) = futures_util::future::join(tick, both).await;
    assert_eq!(ticked.unwrap(), 2);
    let outcomes: BTreeSet<_> = test
        .outcomes()
        .await
        .into_iter()
        .map(|(_, outcome)| outcome.unwrap())
        .collect();
    assert_eq!(outcomes, ["failed".to_owned(), "skipped".to_owned()].into());
    assert_eq!(test.attempts().await.len(), 2);
}

#[sqlx::test]
async fn a_closed_port_a_silent_host_and_a_redirect_are_failures_that_are_tried_again(
    pool: PgPool,
) {
    let test = Test::with(pool, |config| {
        config.webhook_timeout = Duration::from_millis(200)
    })
    .await;
    let receiver = Receiver::open().await;
    receiver.answer("/silent", Reply::Held);
    receiver.answer("/moved", Reply::Status(301));
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    for url in [
        format!("http://{closed}/"),
        receiver.url("/silent"),
        receiver.url("/moved"),
    ] {
        let mut meeting = test.meeting(all(&url)).await;
        test.emit(&meeting.next(Kind::MeetingStarted)).await;
    }
    assert_eq!(test.drain().await, 3);
    let mut errors: Vec<_> = test
        .attempts()
        .await
        .into_iter()
        .map(|(.., error)| error.unwrap())
        .collect();
    errors.sort();
    assert_eq!(
        errors[..2],
        [
            "answered 301, and redirects are not followed",
            "could not connect: Connection refused (os error 111)"
        ]
    );
    assert_eq!(errors[2], "no answer within 200ms");
    receiver.answer("/silent", Reply::Status(200));
    receiver.answer("/moved", Reply::Status(200));
    test.advance(TimeDelta::seconds(6)).await;
    let delivered = test
        .outcomes()
        .await
        .into_iter()
        .filter(|(_, outcome)| outcome.as_deref() == Some("delivered"));
    assert_eq!(delivered.count(), 2);
}

#[sqlx::test]
async fn private_addresses_are_refused_unless_they_are_allowed(pool: PgPool) {
    let test = Test::with(pool, |config| config.allow_private_webhooks = false).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/?key=swordfish"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    assert_eq!(test.drain().await, 1);
    let [(1, None, None, Some(error))] = &test.attempts().await[..] else {
        panic!("one failed attempt")
    };
    assert!(
        error.contains("not on the public internet") && !error.contains("swordfish"),
        "{error}"
    );
    assert_eq!(receiver.connections(), 0);
}

#[sqlx::test]
async fn a_delivery_whose_dispatcher_died_goes_out_again_with_its_id(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Held);
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    {
        let mut tick = pin!(test.dispatcher.tick(test.clock.now()));
        tokio::select! {
            _ = &mut tick => panic!("the receiver holds its answer"),
            () = receiver.arrived(1) => {}
        }
    }
    receiver.answer("/", Reply::Status(200));
    test.advance(TimeDelta::seconds(29)).await;
    assert_eq!(receiver.count(), 1, "its lease runs");
    test.advance(TimeDelta::seconds(2)).await;
    let requests = receiver.take();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].id(), requests[1].id());
    assert_eq!(test.outcomes().await, [(1, Some("delivered".to_owned()))]);
    assert_eq!(
        test.attempts().await,
        [(2, Some(200), Some("fine".to_owned()), None)]
    );
}

#[sqlx::test]
async fn who_comes_back_after_its_lease_changes_nothing(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Held);
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    let tasks = TaskTracker::new();
    let claim = || {
        let (dispatcher, now) = (test.dispatcher.clone(), test.clock.now());
        tasks.spawn(async move { dispatcher.tick(now).await.unwrap() })
    };
    for late in [Reply::Status(500), Reply::Status(410), Reply::Status(200)] {
        test.emit(&meeting.next(Kind::MeetingStarted)).await;
        let first = claim();
        receiver.arrived(1).await;
        test.clock.advance(TimeDelta::seconds(31));
        let second = claim();
        receiver.arrived(2).await;

        receiver.release(late);
        assert_eq!(soon("webhooks", first).await.unwrap(), 1);
        assert_eq!(
            test.outcomes().await.last(),
            Some(&(meeting.seq, None)),
            "{late:?}"
        );
        receiver.release(Reply::Status(200));
        assert_eq!(soon("webhooks", second).await.unwrap(), 1);
        let delivered = Some("delivered".to_owned());
        assert_eq!(
            test.outcomes().await.last(),
            Some(&(meeting.seq, delivered)),
            "{late:?}"
        );
        receiver.take();
    }
    let attempts: Vec<_> = test
        .attempts()
        .await
        .into_iter()
        .map(|(attempt, status, ..)| (attempt, status))
        .collect();
    assert_eq!(
        attempts,
        [(2, Some(200)); 3],
        "of each, only the second was recorded"
    );
}

#[sqlx::test]
async fn several_dispatchers_deliver_each_event_once(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    for number in 0..30 {
        let mut meeting = test
            .meeting(all(&receiver.url(&format!("/{number}"))))
            .await;
        for kind in [Kind::MeetingStarted, join("Ann"), end()] {
            test.emit(&meeting.next(kind)).await;
        }
    }
    let others = [test.dispatcher(), test.dispatcher(), test.dispatcher()];
    while receiver.count() < 90 {
        futures_util::future::join_all(others.iter().map(|one| one.tick(test.clock.now()))).await;
    }
    let requests = receiver.take();
    assert_eq!(
        (
            requests.len(),
            requests
                .iter()
                .map(Request::id)
                .collect::<HashSet<_>>()
                .len()
        ),
        (90, 90)
    );
    let mut latest = HashMap::new();
    for request in &requests {
        let before = latest.insert(request.path(), request.seq()).unwrap_or(0);
        assert_eq!(request.seq(), before + 1, "{}", request.path());
    }
}

#[sqlx::test]
async fn receivers_that_hang_delay_nobody_elses_webhooks(pool: PgPool) {
    let test = Test::new(pool).await;
    let (hanging, good) = (Receiver::open().await, Receiver::open().await);
    hanging.answer("/", Reply::Held);
    // More than may be under way at once, all due before the one that counts.
    for _ in 0..40 {
        let mut meeting = test.meeting(all(&hanging.url("/"))).await;
        test.emit(&meeting.next(Kind::MeetingStarted)).await;
    }
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(test.dispatcher.clone().run(shutdown.clone()));
    hanging.arrived(2).await;

    let mut meeting = test.meeting(all(&good.url("/"))).await;
    for kind in [Kind::MeetingStarted, join("Ann"), end()] {
        test.emit(&meeting.next(kind)).await;
    }
    test.wake.notify_one();
    good.arrived(3).await;
    assert_eq!(
        hanging.count(),
        2,
        "a receiver has at most a sixteenth of the attempts"
    );

    shutdown.cancel();
    tasks.close();
    hanging.answer("/", Reply::Status(200));
    hanging.release(Reply::Status(200));
    hanging.release(Reply::Status(200));
    soon("webhooks", tasks.wait()).await;
}

#[sqlx::test]
async fn one_app_cannot_keep_all_others_waiting(pool: PgPool) {
    let test = Test::new(pool).await;
    let mut hanging = Vec::new();
    for _ in 0..10 {
        let receiver = Receiver::open().await;
        receiver.answer("/", Reply::Held);
        for _ in 0..3 {
            let mut meeting = test.meeting(all(&receiver.url("/"))).await;
            test.emit(&meeting.next(Kind::MeetingStarted)).await;
        }
        hanging.push(receiver);
    }
    let other = test.other_app().await;
    let good = Receiver::open().await;
    let mut meeting = test.meeting_of(other, all(&good.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;

    let mut tick = pin!(test.dispatcher.tick(test.clock.now()));
    tokio::select! {
        _ = &mut tick => panic!("some hang"),
        () = good.arrived(1) => {}
    }
    let under_way: usize = hanging.iter().map(Receiver::count).sum();
    assert!(
        under_way <= 8,
        "an app has at most a quarter of 32 attempts, not {under_way}"
    );
}

#[sqlx::test]
async fn a_shutdown_finishes_what_was_claimed_and_starts_nothing_more(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    receiver.answer("/", Reply::Held);
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    for kind in [Kind::MeetingStarted, end()] {
        test.emit(&meeting.next(kind)).await;
    }
    let shutdown = CancellationToken::new();
    let mut run = pin!(test.dispatcher.clone().run(shutdown.clone()));
    tokio::select! {
        () = &mut run => panic!("it runs until its shutdown"),
        () = receiver.arrived(1) => {}
    }
    shutdown.cancel();
    assert!(
        futures_util::poll!(&mut run).is_pending(),
        "an attempt is under way"
    );
    receiver.release(Reply::Status(200));
    soon("webhooks", run).await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(
        test.outcomes().await,
        [(1, Some("delivered".to_owned())), (2, None)]
    );
}

#[sqlx::test]
async fn under_another_master_key_nothing_is_sent_unsigned_and_nothing_is_lost(pool: PgPool) {
    let test = Test::new(pool).await;
    let receiver = Receiver::open().await;
    let mut meeting = test.meeting(all(&receiver.url("/"))).await;
    test.emit(&meeting.next(Kind::MeetingStarted)).await;
    let other = Dispatcher::new(
        test.db.clone(),
        test.clock.clone(),
        &test.config,
        Arc::new(MasterKey::parse(&MasterKey::text([2; 32])).unwrap()),
        Arc::default(),
        SmallRng::seed_from_u64(2),
    );
    assert_eq!(other.unwrap().tick(test.clock.now()).await.unwrap(), 1);
    assert_eq!(
        (receiver.connections(), test.outcomes().await),
        (0, vec![(1, None)])
    );
    test.advance(TimeDelta::seconds(6)).await;
    assert_eq!(receiver.take().len(), 1);
}

// What the tests stand on.

/// One app with a signing secret on a migrated database, a clock that stands still, and a dispatcher of 32 attempts.
struct Test {
    pool: PgPool,
    db: Db,
    clock: Clock,
    config: Config,
    master_key: Arc<MasterKey>,
    secret: SigningSecret,
    app: AppId,
    wake: Arc<Notify>,
    dispatcher: Arc<Dispatcher>,
    rng: Mutex<StdRng>,
}

impl Test {
    async fn new(pool: PgPool) -> Self {
        Self::with(pool, |_| {}).await
    }

    async fn with(pool: PgPool, change: impl FnOnce(&mut Config)) -> Self {
        let db = Db::new(&pool.connect_options());
        // The signature's timestamp is compared with the machine's clock by the library that verifies it.
        let clock = Clock::manual(Clock::system().now());
        let schedule = ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "24h"];
        let mut config = Config {
            webhook_timeout: Duration::from_secs(10),
            webhook_retries: schedule
                .map(|delay| humantime::parse_duration(delay).unwrap())
                .to_vec(),
            webhook_concurrency: 32.try_into().unwrap(),
            allow_private_webhooks: true,
        };
        change(&mut config);
        let mut rng = StdRng::seed_from_u64(1);
        let master_key = Arc::new(MasterKey::parse(&MasterKey::text([1; 32])).unwrap());
        let (secret, wake) = (SigningSecret::generate(&mut rng), Arc::new(Notify::new()));
        let rng = Mutex::new(rng);
        let dispatcher = dispatcher(&db, &clock, &config, &master_key, &wake);
        let app = AppId::from_bytes([1; 12]);
        let test = Self {
            pool,
            db,
            clock,
            config,
            master_key,
            secret,
            app,
            wake,
            dispatcher,
            rng,
        };
        test.insert_app(app, "acme").await;
        test
    }

    fn dispatcher(&self) -> Arc<Dispatcher> {
        dispatcher(
            &self.db,
            &self.clock,
            &self.config,
            &self.master_key,
            &self.wake,
        )
    }

    async fn insert_app(&self, app: AppId, name: &str) {
        let place = Place::new("apps", "room_webhook_secret", app.as_bytes());
        let sealed = Sealed::seal(&self.secret, &self.master_key, &place).unwrap();
        assert!(
            sealed
                .as_stored()
                .windows(8)
                .all(|bytes| bytes != &self.secret.as_bytes()[..8])
        );
        sqlx::query(
            "insert into apps (id, name, room_webhook_secret, created_at) values ($1, $2, $3, $4)",
        )
        .bind(app)
        .bind(name)
        .bind(sealed.as_stored())
        .bind(self.clock.now())
        .execute(&self.pool)
        .await
        .unwrap();
    }

    async fn other_app(&self) -> AppId {
        let app = AppId::from_bytes([2; 12]);
        self.insert_app(app, "other").await;
        app
    }

    /// A live meeting of a new room with these URLs.
    async fn meeting(&self, urls: RoomUrls) -> Meeting {
        self.meeting_of(self.app, urls).await
    }

    async fn meeting_of(&self, app: AppId, urls: RoomUrls) -> Meeting {
        let now = self.clock.now();
        let mut rng = StdRng::from_rng(&mut *self.rng.lock().unwrap());
        let (room, id) = (RoomId::new(now, &mut rng), MeetingId::new(now, &mut rng));
        sqlx::query(
            "insert into rooms (id, app_id, name, rules, version, created_at)
            values ($1, $2, encode($1, 'hex'), '{}', 0, $3)",
        )
        .bind(room)
        .bind(app)
        .bind(now)
        .execute(&self.pool)
        .await
        .unwrap();
        sqlx::query(
            "insert into meetings (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, last_at, created_at)
            values ($1, $2, $3, 'live', 1, $4, 1, 0, $4, $4)",
        )
        .bind(id)
        .bind(app)
        .bind(room)
        .bind(now)
        .execute(&self.pool)
        .await
        .unwrap();
        Meeting {
            app,
            room: Room {
                id: room,
                name: room.to_string(),
                urls,
            },
            id,
            seq: 0,
            now,
            rng,
        }
    }

    async fn emit(&self, event: &Event) {
        let mut tx = self.db.begin(event.app).await.unwrap();
        webhooks::emit(&mut tx, std::slice::from_ref(event))
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Makes every attempt that is due; returns how many there were.
    async fn drain(&self) -> usize {
        let mut attempts = 0;
        loop {
            match soon("webhooks", self.dispatcher.tick(self.clock.now()))
                .await
                .unwrap()
            {
                0 => return attempts,
                some => attempts += some,
            }
        }
    }

    async fn advance(&self, by: TimeDelta) {
        self.clock.advance(by);
        self.drain().await;
    }

    /// Number and outcome of every delivery, in order of their numbers.
    async fn outcomes(&self) -> Vec<(i64, Option<String>)> {
        sqlx::query_as("select seq, outcome from webhook_deliveries order by seq, id")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// Number, status, answer and error of every attempt.
    async fn attempts(&self) -> Vec<(i32, Option<i16>, Option<String>, Option<String>)> {
        sqlx::query_as(
            "select attempt, status, answer, error from webhook_attempts order by attempt",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    async fn contact(&self, email: &str) {
        let settings = serde_json::json!({ "contactEmail": email });
        let set = sqlx::query("update apps set settings = $1").bind(settings);
        set.execute(&self.pool).await.unwrap();
    }

    /// The texts of all mail.
    async fn mails(&self) -> Vec<String> {
        let texts = sqlx::query_scalar("select body_text from mails");
        texts.fetch_all(&self.pool).await.unwrap()
    }

    async fn count(&self, table: &str) -> i64 {
        let query = sqlx::AssertSqlSafe(format!("select count(*) from {table}"));
        sqlx::query_scalar(query)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// The only endpoint.
    async fn endpoint(&self) -> EndpointId {
        let query = sqlx::query_scalar("select id from webhook_endpoints");
        query.fetch_one(&self.pool).await.unwrap()
    }

    async fn is_disabled(&self) -> bool {
        let query = sqlx::query_scalar("select disabled_at is not null from webhook_endpoints");
        query.fetch_one(&self.pool).await.unwrap()
    }

    /// Returns once so many attempts are recorded.
    async fn settled(&self, count: i64) {
        soon("webhooks", async {
            while sqlx::query("select count(*) from webhook_attempts")
                .fetch_one(&self.pool)
                .await
                .unwrap()
                .get::<i64, _>(0)
                < count
            {}
        })
        .await;
    }
}

fn dispatcher(
    db: &Db,
    clock: &Clock,
    config: &Config,
    master_key: &Arc<MasterKey>,
    wake: &Arc<Notify>,
) -> Arc<Dispatcher> {
    let rng = SmallRng::seed_from_u64(1);
    Arc::new(
        Dispatcher::new(
            db.clone(),
            clock.clone(),
            config,
            master_key.clone(),
            wake.clone(),
            rng,
        )
        .unwrap(),
    )
}

/// A meeting whose events are numbered.
struct Meeting {
    app: AppId,
    room: Room,
    id: MeetingId,
    seq: i64,
    now: DateTime<Utc>,
    rng: StdRng,
}

impl Meeting {
    fn next(&mut self, kind: Kind) -> Event {
        self.seq += 1;
        let id = EventId::new(self.now, &mut self.rng);
        Event {
            id,
            app: self.app,
            room: self.room.clone(),
            meeting: Some(self.id),
            seq: Some(self.seq),
            at: self.now,
            request_id: None,
            kind,
        }
    }
}

fn all(url: &str) -> RoomUrls {
    let url = || Some(url.to_owned());
    RoomUrls {
        meeting_started: url(),
        meeting_join: url(),
        meeting_left: url(),
        meeting_ended: url(),
    }
}

fn stay(name: &str) -> Stay {
    Stay {
        id: ParticipantId::from_bytes([7; 12]),
        name: name.to_owned(),
        email: None,
        external_user_id: None,
        meta: None,
        is_admin: false,
        joined_at: DateTime::UNIX_EPOCH,
    }
}

fn join(name: &str) -> Kind {
    Kind::ParticipantJoined(stay(name))
}

fn leave(name: &str) -> Kind {
    let reason = "left".to_owned();
    Kind::ParticipantLeft {
        stay: stay(name),
        left_at: DateTime::UNIX_EPOCH,
        duration_sec: 0,
        reason,
    }
}

fn end() -> Kind {
    Kind::MeetingEnded {
        duration_sec: 1,
        participant_count: 1,
        reason: "empty".to_owned(),
    }
}
