//! `openapi/signaling.asyncapi.yaml` tells the truth: every frame that a test sees is held against it.

use std::{collections::HashMap, sync::LazyLock};

use jsonschema::Validator;
use plenum::signaling::protocol::ClientFrame;
use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_norway::from_str(include_str!("../../openapi/signaling.asyncapi.yaml")).unwrap()
});

/// What the server may send, by type.
static SERVER_FRAMES: LazyLock<HashMap<String, Validator>> = LazyLock::new(|| {
    let messages = messages("toClient").into_iter();
    messages
        .map(|message| (frame_type(&message), validator(&message)))
        .collect()
});

/// Panics unless the server may send this frame.
pub fn check_server_frame(frame: &Value) {
    let kind = frame["type"].as_str().unwrap();
    let validator = SERVER_FRAMES
        .get(kind)
        .unwrap_or_else(|| panic!("the document has no {kind}"));
    if let Err(error) = validator.validate(frame) {
        panic!("not as the document has it: {error}\n{frame:#}");
    }
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
        let text = message["examples"][0]["payload"].to_string();
        ClientFrame::parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        documented.push(frame_type(&message));
    }
    documented.sort_unstable();
    let mut read = plenum::signaling::protocol::CLIENT_TYPES.to_vec();
    read.sort_unstable();
    assert_eq!(documented, read);
}
