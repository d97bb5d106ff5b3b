//! `openapi/signaling.asyncapi.yaml` tells the truth: every frame that a test sees is held against it.

use std::{collections::HashMap, sync::LazyLock};

use jsonschema::Validator;
use plenum::signaling::protocol::ClientFrame;
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_norway::from_str(include_str!("../../openapi/signaling.asyncapi.yaml")).unwrap()
});

/// The messages of an operation, by type; some types have several.
type Frames = HashMap<String, Vec<Validator>>;

/// What the server may send.
static SERVER_FRAMES: LazyLock<Frames> = LazyLock::new(|| frames("toClient"));
/// What clients may send.
static CLIENT_FRAMES: LazyLock<Frames> = LazyLock::new(|| frames("fromClient"));

/// Panics unless the server may send this frame.
pub fn check_server_frame(frame: &Value) {
    check(&SERVER_FRAMES, frame);
}

/// Panics unless a client may send this frame.
pub fn check_client_frame(frame: &Value) {
    check(&CLIENT_FRAMES, frame);
}

fn frames(operation: &str) -> Frames {
    let mut frames = Frames::new();
    for message in messages(operation) {
        let same = frames.entry(frame_type(&message)).or_default();
        same.push(validator(&message));
    }
    frames
}

fn check(frames: &Frames, frame: &Value) {
    let kind = frame["type"].as_str().unwrap();
    let same = frames
        .get(kind)
        .unwrap_or_else(|| panic!("the document has no {kind}"));
    let errors: Vec<String> = same
        .iter()
        .filter_map(|message| message.validate(frame).err())
        .map(|error| error.to_string())
        .collect();
    assert!(
        errors.len() < same.len(),
        "not as the document has it: {errors:?}\n{frame:#}"
    );
}

/// The messages of an operation.
fn messages(operation: &str) -> Vec<Value> {
    let references = DOCUMENT["operations"][operation]["messages"]
        .as_array()
        .unwrap();
    references
        .iter()
        .map(|reference| resolve(&resolve(reference)))
        .collect()
}

fn resolve(reference: &Value) -> Value {
    let pointer = reference["$ref"].as_str().unwrap().trim_start_matches('#');
    DOCUMENT
        .pointer(pointer)
        .unwrap_or_else(|| panic!("nothing at {pointer}"))
        .clone()
}

fn frame_type(message: &Value) -> String {
    message["payload"]["properties"]["type"]["const"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn validator(message: &Value) -> Validator {
    let mut schema = message["payload"].clone();
    schema["components"] = json!({ "schemas": DOCUMENT["components"]["schemas"] });
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn every_example_is_as_its_own_schema_has_it() {
    for message in messages("fromClient").iter().chain(&messages("toClient")) {
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty());
        for example in examples {
            if let Err(error) = validator(message).validate(&example["payload"]) {
                panic!("{error}\n{example:#}");
            }
        }
    }
}

#[test]
fn the_server_reads_every_frame_that_a_client_may_send_and_documents_every_one_it_reads() {
    let mut documented = Vec::new();
    for message in messages("fromClient") {
        for example in message["examples"].as_array().unwrap() {
            let text = example["payload"].to_string();
            ClientFrame::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
        documented.push(frame_type(&message));
    }
    documented.sort_unstable();
    documented.dedup();
    let mut read = plenum::signaling::protocol::CLIENT_TYPES.to_vec();
    read.sort_unstable();
    assert_eq!(documented, read);
}
