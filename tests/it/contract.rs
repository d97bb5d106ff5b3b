//! What holds for every operation of the API, asked of each that the OpenAPI document has: apps see nothing of each other,
//! every route is described, and every refusal is of the one shape and described too.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use plenum::id::{MeetingId, RoomId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    app::{Tenant, TestApp, soon},
    http::Answer,
    receiver::Receiver,
};

/// An operation as the document describes it.
pub struct Operation {
    pub method: String,
    pub path: String,
    /// Whether it asks for a secret key.
    pub is_keyed: bool,
    pub parameters: Vec<Parameter>,
    pub body: Option<Body>,
    /// The descriptions of its answers, by status.
    answers: BTreeMap<u16, String>,
}

pub struct Parameter {
    pub name: String,
    /// `path`, `query` or `header`.
    pub place: String,
    /// The document's.
    pub example: Option<String>,
}

/// What it takes as its body.
pub struct Body {
    pub example: Value,
    /// Where its fields are, as JSON pointers, those of the first item of each list among them; and the types that each
    /// may have.
    pub fields: BTreeMap<String, BTreeSet<String>>,
}

/// All operations of the document.
pub fn operations() -> Vec<Operation> {
    let document = serde_json::to_value(plenum::http::document()).unwrap();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            let parameters = described["parameters"].as_array();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let content = &described["requestBody"]["content"]["application/json"];
            let answers = described["responses"].as_object().unwrap().iter();
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                is_keyed: described["responses"].get("401").is_some(),
                parameters: parameters
                    .into_iter()
                    .flatten()
                    .map(|parameter| Parameter {
                        name: text(&parameter["name"]),
                        place: text(&parameter["in"]),
                        example: parameter["example"].as_str().map(str::to_owned),
                    })
                    .collect(),
                body: content.get("schema").map(|schema| {
                    let mut fields = BTreeMap::new();
                    collect(&document, schema, "", &mut fields);
                    let example = content.get("example").cloned();
                    Body {
                        example: example.unwrap_or_else(|| example_of(&document, schema)),
                        fields,
                    }
                }),
                answers: answers
                    .map(|(status, answer)| (status.parse().unwrap(), text(&answer["description"])))
                    .collect(),
            });
        }
    }
    operations
}

fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => document.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    }
}

/// The example of a schema, or what those of its fields make.
fn example_of(document: &Value, schema: &Value) -> Value {
    let schema = resolve(document, schema);
    schema.get("example").cloned().unwrap_or_else(|| {
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields
            .map(|(name, field)| (name.clone(), field["example"].clone()))
            .collect()
    })
}

/// Notes the types of what is `at` this place, and of all fields below.
fn collect(
    document: &Value,
    schema: &Value,
    at: &str,
    fields: &mut BTreeMap<String, BTreeSet<String>>,
) {
    let schema = resolve(document, schema);
    for alternatives in ["allOf", "oneOf", "anyOf"] {
        for part in schema[alternatives].as_array().into_iter().flatten() {
            collect(document, part, at, fields);
        }
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().collect(),
        one => vec![one],
    };
    if !at.is_empty() {
        let known = fields.entry(at.to_owned()).or_default();
        known.extend(
            types
                .into_iter()
                .filter_map(Value::as_str)
                .map(str::to_owned),
        );
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        collect(document, field, &format!("{at}/{name}"), fields);
    }
    if let Some(items) = schema.get("items") {
        collect(document, items, &format!("{at}/0"), fields);
    }
}

/// Puts `new` at the pointer's place, and makes the objects and lists that lead there.
pub fn put(value: &mut Value, pointer: &str, new: Value) {
    let mut place = value;
    for step in pointer.split('/').skip(1) {
        if step == "0" {
            if place.as_array().is_none_or(Vec::is_empty) {
                *place = json!([null]);
            }
            place = &mut place[0];
        } else {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[step];
        }
    }
    *place = new;
}

/// The path with the document's examples in the places that are left.
fn with_examples(operation: &Operation, path: String) -> String {
    let places = operation.parameters.iter();
    places.fold(path, |path, Parameter { name, example, .. }| {
        path.replace(&format!("{{{name}}}"), example.as_deref().unwrap_or("{}"))
    })
}

/// A request, to be written as HTTP/1.1.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Beside `Content-Length`, which is the body's.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// What the operation's own examples ask of, as of the room `standup`, on the host of all apps and without a key.
    pub fn example(operation: &Operation) -> Self {
        let body = operation.body.as_ref();
        Self {
            method: operation.method.clone(),
            path: with_examples(operation, operation.path.clone()),
            query: Vec::new(),
            headers: vec![("Host".to_owned(), "localhost".to_owned())],
            body: body.map_or(Vec::new(), |body| body.example.to_string().into()),
        }
    }

    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(given, _)| given != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub fn with_query(mut self, name: &str, value: impl Into<String>) -> Self {
        self.query.push((name.to_owned(), value.into()));
        self
    }

    pub fn with_key(self, key: &str) -> Self {
        self.with_header("Authorization", format!("Bearer {key}"))
    }

    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&self.query)
            .finish();
        let mut head = format!("{} {}", self.method, self.path);
        if !query.is_empty() {
            head += &format!("?{query}");
        }
        head += " HTTP/1.1\r\n";
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !self
            .headers
            .iter()
            .any(|(name, _)| name == "Content-Length")
        {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }
}

/// Where an operation takes something that names a thing of an app.
#[derive(Clone, Debug, PartialEq)]
struct Slot {
    /// `path`, `query`, `header` or `body`.
    place: String,
    /// A parameter's name, or a field's JSON pointer.
    at: String,
    kind: Kind,
}

/// What things an identifier names.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    RoomName,
    RoomNames,
    RoomId,
    MeetingId,
    ParticipantId,
    ParticipantIds,
    /// The app's own id of somebody.
    Person,
    /// A version of what the operation is about.
    EntityTag,
    IdempotencyKey,
    Token,
    Webhook,
    Delivery,
    /// Names no thing.
    Plain,
}

/// What a parameter or field of this name names. Who adds one says here what it is, and what is tried with it.
fn kind(name: &str) -> Option<Kind> {
    Some(match name {
        "roomName" | "namePrefix" => Kind::RoomName,
        "roomNames" => Kind::RoomNames,
        "cursor" => Kind::RoomId,
        "If-Match" | "If-None-Match" => Kind::EntityTag,
        "Idempotency-Key" => Kind::IdempotencyKey,
        "token" => Kind::Token,
        "meetingSessionId" => Kind::MeetingId,
        "participantSessionId" => Kind::ParticipantId,
        "externalUserId" => Kind::Person,
        "webhookId" => Kind::Webhook,
        "deliveryId" => Kind::Delivery,
        "outcome" | "event" | "fromUnixSec" | "toUnixSec" => Kind::Plain,
        "limit" | "privacy" | "createdFromUnixSec" | "createdUntilUnixSec" | "isLive" => {
            Kind::Plain
        }
        "status" | "live" | "from" | "to" => Kind::Plain,
        "participantSessionIds" => Kind::ParticipantIds,
        // Of which people are to be put out: any texts.
        "externalUserIds" => Kind::Plain,
        _ => return None,
    })
}

fn slots(operation: &Operation) -> Vec<Slot> {
    let Operation { method, path, .. } = operation;
    let unknown = |what: &str| -> Kind {
        panic!("{method} {path} takes {what}, which the tests do not know: add it to `kind`")
    };
    let parameters = operation.parameters.iter().map(|parameter| Slot {
        place: parameter.place.clone(),
        at: parameter.name.clone(),
        kind: kind(&parameter.name).unwrap_or_else(|| unknown(&parameter.name)),
    });
    let fields = operation.body.iter().flat_map(|body| &body.fields);
    let fields = fields.filter_map(|(pointer, types)| {
        let name = pointer.rsplit('/').find(|step| *step != "0").unwrap();
        let names_things = |end| name.to_lowercase().ends_with(end) && name != "name";
        let may_name = [
            "name", "names", "id", "ids", "key", "keys", "token", "cursor",
        ]
        .into_iter()
        .any(names_things);
        let is_text = types.contains("string") || types.contains("array");
        let is_item = pointer.ends_with("/0");
        (may_name && is_text && !is_item).then(|| Slot {
            place: "body".to_owned(),
            at: pointer.clone(),
            kind: kind(name).unwrap_or_else(|| unknown(pointer)),
        })
    });
    let slots: Vec<Slot> = parameters.chain(fields).collect();
    let mut rest = path.clone();
    for slot in slots.iter().filter(|slot| slot.place == "path") {
        rest = rest.replace(&format!("{{{}}}", slot.at), "");
    }
    assert!(
        !rest.contains('{'),
        "{method} {path} describes all of its path"
    );
    slots
        .into_iter()
        .filter(|slot| slot.kind != Kind::Plain)
        .collect()
}

/// What names the things of an app, and what names nothing and looks alike.
struct Names {
    room_name: [String; 2],
    room_id: [String; 2],
    meeting_id: [String; 2],
    participant_id: [String; 2],
    token: [String; 2],
    webhook: [String; 2],
    delivery: [String; 2],
    /// Of the resource at a path.
    tags: BTreeMap<String, [String; 2]>,
}

impl Names {
    /// A name of the app's own, or with 1 one of nothing.
    fn value(&self, operation: &Operation, kind: Kind, which: usize) -> Value {
        match kind {
            Kind::RoomName => json!(self.room_name[which]),
            Kind::RoomNames => json!([self.room_name[which]]),
            Kind::RoomId => json!(self.room_id[which]),
            Kind::MeetingId => json!(self.meeting_id[which]),
            Kind::ParticipantId => json!(self.participant_id[which]),
            Kind::ParticipantIds => json!([self.participant_id[which]]),
            Kind::Person => json!(["acme-person", "nope-person"][which]),
            Kind::EntityTag => json!(self.tags[&operation.path][which]),
            Kind::IdempotencyKey => json!(["acme-once", "nope-once"][which]),
            Kind::Token => json!(self.token[which]),
            Kind::Webhook => json!(self.webhook[which]),
            Kind::Delivery => json!(self.delivery[which]),
            Kind::Plain => Value::Null,
        }
    }
}

/// The same id but for one digit, and of the same time.
fn other_id(text: &str, id: &str) -> String {
    let (most, last) = id.split_at(id.len() - 1);
    let last = u8::from_str_radix(last, 16).unwrap() ^ 1;
    text.replace(id, &format!("{most}{last:x}"))
}

/// Makes something of the app `acme` in every table that apps have rows in.
async fn plant(test: &TestApp, receiver: &Receiver) -> Names {
    let room = test
        .room(json!({
            "roomName": "acme-standup", "title": "acme's room", "metadata": { "acme": "private" },
            "expireUnixSec": 4_102_444_800_i64, "meetingStartedWebhook": receiver.url("/acme-hook"),
            "rtmpOutURL": "rtmp://live.example.com/app/acme-stream-key",
        }))
        .await;
    let webhook = json!({ "url": receiver.url("/acme-own"), "description": "acme's own" });
    let (webhook, delivery) = webhook_of(test, &test.app, &webhook).await;
    let wanted = json!({ "roomName": "acme-standup", "externalUserId": "acme-person" });
    let bob = test
        .join_with("acme-standup", &test.token(wanted).await)
        .await;
    let participant = bob.id.clone();
    let ban = json!({ "externalUserIds": ["acme-nobody"], "ban": true });
    test.post("/api/v1/room/acme-standup/eject", &ban).await;
    bob.close(1000).await;
    // Somebody is kept out of the meeting that runs, as by an eject.
    sqlx::query(
        "insert into meeting_blocks (app_id, meeting_id, kind, value)
         select app_id, id, 'person', 'acme-42' from meetings where app_id = $1 and status <> 'ended'",
    )
    .bind(test.app.app.id)
    .execute(&test.pool)
    .await
    .unwrap();
    sqlx::query(
        "insert into mails (id, app_id, topic, recipient, subject, body_text, body_html, created_at, outcome, ended_at)
         values ('acme-mail-id', $1, 'acme', 'ann@acme.example', 'acme', 'acme', 'acme', $2, 'sent', $2)",
    )
    .bind(test.app.app.id)
    .bind(test.now())
    .execute(&test.pool)
    .await
    .unwrap();
    for operation in operations() {
        let mut names = operation
            .parameters
            .iter()
            .map(|parameter| parameter.name.as_str());
        if names.any(|name| name == "Idempotency-Key") {
            let request = Request::example(&operation).with_key(&test.app.key);
            let request = request.with_header("Idempotency-Key", "acme-once");
            let answer = Answer::at(&test.address, &request.bytes()).await;
            // The first of them has the key; and nobody meets in that room.
            let expected = [200, 409, 422].contains(&answer.status);
            assert!(expected, "{answer:?}");
        }
    }
    let mut tags = BTreeMap::new();
    for operation in operations() {
        let path = operation.path.replace("{roomName}", "acme-standup");
        let ask = test.send(Method::GET, &path, &[], None);
        if operation.method == "GET"
            && operation.is_keyed
            && let (_, headers, body) = ask.await
            && let Some(tag) = headers.get("etag")
        {
            let (tag, id) = (tag.to_str().unwrap(), body["_id"].as_str().unwrap());
            tags.insert(operation.path, [tag.to_owned(), other_id(tag, id)]);
        }
    }
    let wanted = json!({ "roomName": "acme-standup", "name": "acme-nina" });
    let (_, made) = test.post("/api/v1/token", &wanted).await;
    let token = made["token"].as_str().unwrap();
    let (header, rest) = token.split_once('.').unwrap();
    let header = BASE64_URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    let kid = header["kid"].as_str().unwrap();
    let header = BASE64_URL_SAFE_NO_PAD.encode(other_id(&header.to_string(), kid));
    let id = room["_id"].as_str().unwrap();
    soon("what is written later", async {
        let open = "select (select count(*) from webhook_deliveries where outcome is null)
                         + (select count(*) from secret_keys where last_used_at is null)
                         + (select 1 - count(*) from usage)";
        while sqlx::query_scalar::<_, i64>(open)
            .fetch_one(&test.pool)
            .await
            .unwrap()
            > 0
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let meeting: MeetingId = sqlx::query_scalar("select meeting_id from usage")
        .fetch_one(&test.pool)
        .await
        .unwrap();
    let meeting = meeting.to_string();
    Names {
        meeting_id: [meeting.clone(), other_id(&meeting, &meeting)],
        participant_id: [participant.clone(), other_id(&participant, &participant)],
        room_name: ["acme-standup".to_owned(), "nope-standup".to_owned()],
        room_id: [id.to_owned(), other_id(id, id)],
        token: [token.to_owned(), format!("{header}.{rest}")],
        webhook: [webhook.clone(), other_id(&webhook, &webhook)],
        delivery: [delivery.clone(), other_id(&delivery, &delivery)],
        tags,
    }
}

/// A webhook of an app, and a delivery to it.
async fn webhook_of(test: &TestApp, app: &Tenant, wanted: &Value) -> (String, String) {
    let make = test.call(app, Method::POST, "/api/v1/webhooks", Some(wanted));
    let webhook = make.await.1["_id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/webhooks/{webhook}/test");
    let (_, delivery) = test.call(app, Method::POST, &path, None).await;
    (webhook, delivery["_id"].as_str().unwrap().to_owned())
}

/// All rows of an app, by table.
async fn rows(pool: &PgPool, app: &Tenant) -> BTreeMap<String, String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select table_name::text from information_schema.columns
         where table_schema = 'public' and column_name = 'app_id'",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let tables = tables.iter().map(|table| (table.as_str(), "app_id"));
    let mut rows = BTreeMap::new();
    for (table, app_id) in tables.chain([("apps", "id")]) {
        // Leases are renewed all the time.
        let select = format!(
            "select coalesce(string_agg(row, e'\\n' order by row), '') from (
                select (to_jsonb(t) - 'lease_until' - 'renewed_at')::text as row from {table} t where {app_id} = $1
             ) rows"
        );
        let text = sqlx::query_scalar(AssertSqlSafe(select))
            .bind(app.app.id)
            .fetch_one(pool)
            .await
            .unwrap();
        rows.insert(table.to_owned(), text);
    }
    rows
}

/// The ids in a text: 24 hexadecimal digits, and no more.
fn ids(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit())
        .filter(|word| word.len() == 24)
        .collect()
}

#[sqlx::test]
async fn what_another_app_has_is_answered_for_as_what_does_not_exist(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let receiver = Receiver::open().await;
    let names = plant(&test, &receiver).await;
    let mut ann = test.join("acme-standup", "acme-ann").await;
    assert!(ann.is_in().await);
    soon("what ann wrote", async {
        while rows(&test.pool, &test.app).await["chat_messages"].is_empty() {}
    })
    .await;
    // Ids tell their order: what the others make is newer than all of acme's.
    test.advance(TimeDelta::milliseconds(1));
    let before = rows(&test.pool, &test.app).await;
    for (table, rows) in &before {
        // Commands are carried out and gone at once.
        let is_empty = rows.is_empty() && table != "meeting_commands";
        assert!(!is_empty, "`plant` leaves nothing of acme in {table}");
    }
    let all = before
        .values()
        .cloned()
        .collect::<Vec<_>>()
        .join("\n")
        .replace("\\\\x", " ");
    let private_ids = ids(&all);
    assert!(private_ids.contains(names.room_id[0].as_str()));

    let mut tenants = 0;
    // Each asks as an app of its own, so that what one did is not what the next one sees.
    let mut ask = async |operation: &Operation, slots: &[Slot], which: usize, host: &str| {
        tenants += 1;
        let tenant = test.another_app(&format!("beta-{tenants:03}")).await;
        let own = json!({ "roomName": "own-room" });
        let (made, _) = test
            .call(&tenant, Method::POST, "/api/v1/room", Some(&own))
            .await;
        assert_eq!(made, StatusCode::OK);
        let host = host.replace("{app}", &tenant.app.name.to_string());
        let mut request = Request::example(operation).with_header("Host", host);
        request.path = operation.path.clone();
        if operation.is_keyed {
            request = request.with_key(&tenant.key);
        }
        let mut body = operation.body.as_ref().map(|body| body.example.clone());
        let mut given = Vec::new();
        for slot in slots {
            let value = names.value(operation, slot.kind, which);
            let text = value.as_str().or(value[0].as_str()).unwrap().to_owned();
            match slot.place.as_str() {
                "path" => request.path = request.path.replace(&format!("{{{}}}", slot.at), &text),
                "query" => request.query.push((slot.at.clone(), text.clone())),
                "header" => request.headers.push((slot.at.clone(), text.clone())),
                "body" => put(body.as_mut().unwrap(), &slot.at, value),
                place => panic!("a parameter in the {place}"),
            }
            given.push(text);
        }
        request.path = request.path.replace("{roomName}", "own-room");
        if request.path.contains("{webhookId}") {
            let own = json!({ "url": "http://127.0.0.1:65535/" });
            let (webhook, delivery) = webhook_of(&test, &tenant, &own).await;
            request.path = request.path.replace("{webhookId}", &webhook);
            request.path = request.path.replace("{deliveryId}", &delivery);
        }
        request.path = with_examples(operation, request.path);
        request.body = body.map_or(Vec::new(), |body| body.to_string().into());
        let answer = Answer::at(&test.address, &request.bytes()).await;
        let mut lines: Vec<String> = answer
            .headers()
            .filter(|(name, _)| !["date", "x-request-id", "ratelimit"].contains(name))
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        lines.sort_unstable();
        let mut text = format!("{} {}\n{}", answer.status, lines.join("\n"), answer.body);
        for given in &given {
            text = text.replace(given, "<given>");
            text = text.replace(&given.replace('"', "\\\""), "<given>");
        }
        let asked = format!("{} {} with {given:?}", operation.method, operation.path);
        assert!(!text.contains("acme"), "{asked} tells of acme: {text}");
        let told: Vec<&&str> = private_ids
            .iter()
            .filter(|id| text.contains(**id))
            .collect();
        assert!(told.is_empty(), "{asked} tells {told:?} of acme: {text}");
        let request_id = answer.header("x-request-id");
        text = text
            .replace(request_id, "<request>")
            .replace(&tenant.app.name.to_string(), "<app>");
        for id in ids(&text.clone()) {
            text = text.replace(id, "<id>");
        }
        for secret in ["eyJ", "whsec_"] {
            while let Some(begin) = text.find(secret) {
                let end = text[begin..].find('"').unwrap();
                text.replace_range(begin..begin + end, "<secret>");
            }
        }
        (asked, text)
    };
    let mut slots_tried = 0;
    for operation in operations() {
        let slots = slots(&operation);
        let mut sets: Vec<Vec<Slot>> = slots.iter().map(|slot| vec![slot.clone()]).collect();
        sets.push(slots);
        // Without a key, whose it is is told by the host alone.
        let hosts: &[&str] = match operation.is_keyed {
            true => &["{app}.localhost", "localhost"],
            false => &["{app}.localhost"],
        };
        for (host, set) in hosts
            .iter()
            .flat_map(|host| sets.iter().map(move |set| (host, set)))
        {
            let (asked, theirs) = ask(&operation, set, 0, host).await;
            if !set.is_empty() {
                slots_tried += 1;
                assert_eq!(
                    theirs,
                    ask(&operation, set, 1, host).await.1,
                    "{asked}, at {host}"
                );
            }
        }
    }
    assert!(slots_tried > 20, "{slots_tried}");
    assert_eq!(
        rows(&test.pool, &test.app).await,
        before,
        "acme has what it had"
    );
}

/// Whatever the source registers a handler for, as method and path.
fn registered() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // A server of its own, on a unix socket, for the commands of this machine.
            if path.ends_with("cli/control.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap_or_default();
            let source = source.split("#[cfg(test)]").next().unwrap();
            let mut add = |before: &str, method: &str| {
                for route in source.split(before).skip(1) {
                    let route = route.split('"').next().unwrap();
                    found.insert((method.to_owned(), route.to_owned()));
                }
            };
            for method in [
                "get", "post", "put", "patch", "delete", "head", "options", "trace",
            ] {
                add(&format!("#[{method}(\""), &method.to_uppercase());
            }
            add("SwaggerUi::new(\"", "GET");
            add(").url(\"", "GET");
            // What answers the other methods of these paths registers nothing new.
            let others = path.ends_with("http/methods.rs");
            for other in ["web::resource(", "web::scope(", ".route(", "#[route("] {
                assert!(
                    others || !source.contains(other),
                    "{}: the test does not see what {other} registers",
                    path.display()
                );
            }
        }
    }
    found
}

/// Paths that the document does not have, and why.
const UNDOCUMENTED: [(&str, &str, &str); 10] = [
    ("GET", "/docs", "a page for people"),
    ("GET", "/docs/{_:.*}", "a page for people"),
    ("GET", "/openapi.json", "the document itself"),
    ("GET", "/ws", "described in openapi/signaling.asyncapi.yaml"),
    ("POST", "/api/rooms", "MikroMeet's: docs/mikromeet.md"),
    ("OPTIONS", "/api/rooms", "MikroMeet's, with its CORS"),
    ("GET", "/config", "MikroMeet's"),
    ("OPTIONS", "/config", "MikroMeet's, with its CORS"),
    ("GET", "/assets/{path:.*}", "files of the pages"),
    ("GET", "/{roomName}", "a page for people"),
];

/// Makes what the document's examples name by ids.
async fn plant_examples(test: &TestApp) {
    let room = test.room(json!({ "roomName": "example" })).await;
    let room: RoomId = room["_id"].as_str().unwrap().parse().unwrap();
    let id = |digits: &str| hex::decode(format!("61005784c3c9104421af{digits}")).unwrap();
    let (app, now) = (test.app.app.id, test.now());
    sqlx::query(
        "with meeting as (
             insert into meetings (id, app_id, room_id, status, epoch, renewed_at, next_seq, participant_count, last_at,
                 created_at, ended_at)
             values ($1, $2, $3, 'ended', 1, $4, 1, 1, $4, $4, $4) returning id)
         insert into participants (id, app_id, meeting_id, name, role, joined_at, left_at)
         select $5, $2, id, 'Ann', 'participant', $4, $4 from meeting",
    )
    .bind(id("1540"))
    .bind(app)
    .bind(room)
    .bind(now)
    .bind(id("1550"))
    .execute(&test.pool)
    .await
    .unwrap();
}

#[sqlx::test]
async fn every_route_is_in_the_document_and_what_the_document_has_is_served(pool: PgPool) {
    let mut described: BTreeSet<(String, String)> = operations()
        .into_iter()
        .map(|operation| (operation.method, operation.path))
        .collect();
    described.extend(UNDOCUMENTED.map(|(method, path, _)| (method.to_owned(), path.to_owned())));
    assert_eq!(registered(), described);

    let test = TestApp::new(pool).await;
    let own = "standup";
    plant_examples(&test).await;
    for operation in operations() {
        // Made anew where the operation before has deleted it.
        test.post("/api/v1/room", &json!({ "roomName": own })).await;
        let Operation { method, path, .. } = &operation;
        let mut request = Request::example(&operation).with_key(&test.app.key);
        if path.contains("{webhookId}") {
            let wanted = json!({ "url": "http://127.0.0.1:65535/" });
            let (webhook, delivery) = webhook_of(&test, &test.app, &wanted).await;
            request.path = path.replace("{webhookId}", &webhook);
            request.path = request.path.replace("{deliveryId}", &delivery);
        }
        if path == "/metrics" {
            request.headers.retain(|(name, _)| name != "Authorization");
        }
        let answer = Answer::at(&test.address, &request.bytes()).await;
        let is_unknown = answer.body.contains(r#""code":"NOT_FOUND""#);
        assert!(
            !is_unknown && answer.status != 405,
            "{method} {path}: {answer:?}"
        );
        let status = answer.status;
        assert!(
            operation.answers.contains_key(&status),
            "{method} {path}: {status} is described"
        );
    }
    for (method, path) in described {
        let path = path
            .replace("{roomName}", own)
            .replace("{webhookId}", "x")
            .replace("{deliveryId}", "x")
            .replace("{_:.*}", "x")
            .replace("{path:.*}", "x");
        let trace = format!("TRACE {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let refused = Answer::to(&test, &trace).await;
        let mut allowed = refused.header("allow").split(", ");
        assert!(
            allowed.any(|allowed| allowed == method),
            "{method} {path}: {refused:?}"
        );
    }
}

#[sqlx::test]
async fn the_first_word_of_no_route_is_a_room_name(pool: PgPool) {
    let test = TestApp::new(pool).await;
    let routes = registered();
    let words = routes
        .iter()
        .map(|(_, path)| path.split('/').nth(1).unwrap());
    let words: BTreeSet<&str> = words.filter(|word| !word.contains('{')).collect();
    assert!(words.contains("api") && words.contains("ws"), "{words:?}");
    for word in words {
        let mut capital = word.to_owned();
        capital[..1].make_ascii_uppercase();
        for name in [word, &word.to_uppercase(), &capital] {
            let wanted = json!({ "roomName": name });
            let (status, error) = test.post("/api/v1/room", &wanted).await;
            let refused = (status, &error["errors"][0]["field"]);
            assert_eq!(
                refused,
                (StatusCode::BAD_REQUEST, &json!("roomName")),
                "{name}"
            );
        }
    }
}

/// Names under which secrets travel.
pub const SECRET_NAMES: [&str; 7] = [
    "secretKey",
    "token",
    "access_token",
    "apiKey",
    "password",
    "roomPassword",
    "checksum",
];

/// Requests that have something wrong with them, each with what that is. `secret` makes texts that are to stay secret; they
/// stand wherever one may be put by mistake.
pub fn failures(
    operation: &Operation,
    key: &str,
    mut secret: impl FnMut() -> String,
) -> Vec<(String, Request)> {
    let mut all = Vec::new();
    let plain = Request::example(operation);
    let keyed = match operation.is_keyed {
        true => plain.clone().with_key(key),
        false => plain.clone(),
    };
    let mut add = |what: &str, request: Request| {
        let Operation { method, path, .. } = operation;
        all.push((format!("{method} {path}, {what}"), request));
    };
    add("as it should be", keyed.clone());
    add("without a key", plain.clone());
    for wrong in [
        format!("Bearer plenum_live_{}", secret()),
        format!("Bearer {}-long-enough-for-a-key", secret()),
        format!("Basic {}", secret()),
        secret(),
    ] {
        add(
            "another credential",
            plain.clone().with_header("Authorization", wrong),
        );
    }
    add(
        "a wrong key in the query",
        plain.clone().with_query("secretKey", secret().repeat(2)),
    );
    add(
        "the key in the query",
        plain.clone().with_query("secretKey", key),
    );
    for host in ["other.localhost", "nobody.localhost", "example.com", "["] {
        add("another host", keyed.clone().with_header("Host", host));
    }
    for name in [
        "X-Api-Key",
        "Cookie",
        "Token",
        "X-Forwarded-For",
        "Referer",
        "User-Agent",
    ] {
        add(
            "a header",
            plain
                .clone()
                .with_header(name, format!("token={}", secret())),
        );
    }
    for name in SECRET_NAMES.iter().skip(1) {
        add(
            "a query of its own",
            keyed.clone().with_query(name, secret()),
        );
        add(
            "a query without a key",
            plain.clone().with_query(name, secret()),
        );
    }
    for method in ["TRACE", "PROPFIND"] {
        let mut other = keyed.clone().with_query("token", secret());
        method.clone_into(&mut other.method);
        add("another method", other);
    }
    for parameter in &operation.parameters {
        let name = &parameter.name;
        match parameter.place.as_str() {
            "path" => {
                for value in ["no-such-room", "%FF", "a%20b", "api"] {
                    let mut other = keyed.clone();
                    other.path = operation.path.replace(&format!("{{{name}}}"), value);
                    add(&format!("{name} {value}"), other);
                }
            }
            "query" => {
                add(
                    &format!("a wrong {name}"),
                    keyed.clone().with_query(name, secret()),
                );
                let twice = keyed.clone().with_query(name, secret());
                add(&format!("{name} twice"), twice.with_query(name, secret()));
            }
            _ => {
                for value in [
                    secret(),
                    format!("\"{}\"", secret()),
                    secret().repeat(40),
                    String::new(),
                ] {
                    add(
                        &format!("a wrong {name}"),
                        keyed.clone().with_header(name, value),
                    );
                }
            }
        }
    }
    let Some(body) = &operation.body else {
        return all;
    };
    for name in SECRET_NAMES {
        for text in [
            format!(r#"{{"{name}":"{}"#, secret()),
            format!(r#"{{"{name}":"{}"}} {}"#, secret(), secret()),
            format!(r#"{{"{name}":{}}}"#, secret()),
            format!(r#"{{"{name}":"{}\q"}}"#, secret()),
        ] {
            add("malformed JSON", keyed.clone().with_body(text));
        }
        for value in [
            json!(secret()),
            json!([secret()]),
            json!({ name: secret() }),
            json!(secret().repeat(300)),
        ] {
            let mut unknown = body.example.clone();
            put(&mut unknown, &format!("/{name}"), value);
            add(
                &format!("the field {name}"),
                keyed.clone().with_body(unknown.to_string()),
            );
        }
    }
    let garbage = format!("{} {}", body.example, secret());
    let bytes = [b"{\"password\":\"\xff\xfe", secret().as_bytes(), b"\"}"].concat();
    for text in [
        json!(secret()).to_string(),
        json!([secret()]).to_string(),
        secret(),
        garbage,
        format!(
            "{{\"password\":\"{}\",\"password\":\"{}\"}}",
            secret(),
            secret()
        ),
        format!("{}\"{}\"", "[".repeat(300), secret()),
        "{}".to_owned(),
        "12".to_owned(),
    ] {
        add("another body", keyed.clone().with_body(text));
    }
    add("a body that is no text", keyed.clone().with_body(bytes));
    let encoded = keyed.clone().with_header("Content-Encoding", "gzip");
    add("an encoded body", encoded.with_body(secret()));
    let long = keyed
        .clone()
        .with_header("Content-Length", (1 << 30).to_string());
    add("a body that is too long", long.with_body(secret()));
    for pointer in body.fields.keys() {
        for value in [
            json!(secret()),
            json!(format!(
                "https://ann:{}@example.com/{}?token={}",
                secret(),
                secret(),
                secret()
            )),
            json!(secret().repeat(1000)),
            json!([secret()]),
            json!({ "password": secret() }),
            json!(-1.5),
        ] {
            let mut wrong = body.example.clone();
            put(&mut wrong, pointer, value);
            add(
                &format!("a wrong {pointer}"),
                keyed.clone().with_body(wrong.to_string()),
            );
        }
    }
    all
}

/// The error is one of those that the document has for the operation.
fn check_described(
    operation: &Operation,
    what: &str,
    answer: &Answer,
    wrong: &mut BTreeSet<String>,
) {
    let described = operation.answers.get(&answer.status);
    let Operation { method, path, .. } = operation;
    if answer.status < 400 {
        if described.is_none() {
            wrong.insert(format!("{method} {path}: {}, by {what}", answer.status));
        }
        return;
    }
    let code = answer.code();
    if !described.is_some_and(|described| described.contains(&format!("`{code}`"))) {
        wrong.insert(format!(
            "{method} {path}: {} {code}, by {what}",
            answer.status
        ));
    }
}

#[sqlx::test]
async fn every_refusal_of_every_operation_has_the_one_shape_and_is_described(pool: PgPool) {
    let test = TestApp::new(pool).await;
    test.another_app("other").await;
    let mut wrong = BTreeSet::new();
    for operation in operations() {
        for (what, request) in failures(&operation, &test.app.key, || "secret".to_owned()) {
            test.post("/api/v1/room", &json!({ "roomName": "standup" }))
                .await;
            let answer = Answer::at(&test.address, &request.bytes()).await;
            if answer.status == 405 {
                assert_eq!(answer.code(), "METHOD_NOT_ALLOWED");
            } else {
                check_described(&operation, &what, &answer, &mut wrong);
            }
        }
    }
    test.db.close().await;
    for operation in operations() {
        let mut request = Request::example(&operation);
        if operation.is_keyed {
            request = request.with_key(&test.app.key);
        }
        let answer = Answer::at(&test.address, &request.bytes()).await;
        check_described(&operation, "a database that is away", &answer, &mut wrong);
    }
    assert!(wrong.is_empty(), "not in the document: {wrong:#?}");
}

#[sqlx::test]
async fn every_operation_with_a_key_refuses_an_app_that_asks_too_often(pool: PgPool) {
    let test = TestApp::with(pool, &["--rate-burst", "1", "--rate-per-second", "1"]).await;
    let mut wrong = BTreeSet::new();
    test.get("/api/v1/rooms").await;
    for operation in operations().iter().filter(|operation| operation.is_keyed) {
        let request = Request::example(operation).with_key(&test.app.key);
        let answer = Answer::at(&test.address, &request.bytes()).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (429, "RATE_LIMITED")
        );
        check_described(operation, "too many requests", &answer, &mut wrong);
    }
    assert!(wrong.is_empty(), "not in the document: {wrong:#?}");
}
