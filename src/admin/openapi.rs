//! Holds the OpenAPI document to the table of operations and to the types of what is sent and answered.

use std::collections::BTreeMap;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::operations::{Gives, OPERATIONS, Operation};
use super::problem::Details;

/// The document as the table and the types have it.
fn document() -> Value {
    let settings = || {
        SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
    };
    let mut taken = settings().for_deserialize().into_generator();
    let mut given = settings().for_serialize().into_generator();
    let problem = given.subschema_for::<Details>();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        let told = described(operation, &mut taken, &mut given, &json!(problem));
        paths.entry(operation.path).or_default().insert(operation.method.as_str().to_lowercase(), told);
    }
    let mut schemas = taken.take_definitions(true);
    schemas.extend(given.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tidegate",
            "version": "1",
            "description": "The admin API of tidegate. Fields may be added; read what you know and ignore the rest.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "servers": [{"url": "http://127.0.0.1:9901"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "A token of the config's token_file."}},
            "schemas": schemas,
        },
    })
}

fn described(
    operation: &Operation,
    taken: &mut SchemaGenerator,
    given: &mut SchemaGenerator,
    problem: &Value,
) -> Value {
    let (kind, schema) = match operation.told.gives {
        Gives::Json(shape) => ("application/json", json!(shape(given))),
        Gives::AnyJson => ("application/json", json!({"type": "object"})),
        Gives::Other(kind) => (kind, json!({"type": "string"})),
    };
    let mut told = json!({
        "operationId": operation.told.id,
        "summary": operation.told.about,
        "responses": {
            "200": {"description": "Done", "content": {kind: {"schema": schema}}},
            "default": {"description": "Refused", "content": {"application/problem+json": {"schema": problem}}},
        },
    });
    let parameters = parameters(operation);
    if !parameters.is_empty() {
        told["parameters"] = parameters.into();
    }
    if let Some(shape) = operation.told.takes {
        told["requestBody"] = json!({"content": {"application/json": {"schema": shape(taken)}}});
    }
    told
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let parameter = |place, name, kind, about| json!({"in": place, "name": name, "required": place == "path", "description": about, "schema": {"type": kind}});
    let mut parameters = Vec::new();
    if operation.path.contains("{name}") {
        parameters.push(parameter("path", "name", "string", "Its name in the config"));
    }
    if operation.path.starts_with("/api/v1/rollouts/") && operation.told.takes.is_some() {
        parameters.push(parameter("header", "If-Match", "string", "Only if its entity tag is still one of these"));
    }
    match operation.told.id {
        "audit" => {
            parameters.push(parameter("query", "after", "integer", "Entries with a higher number, oldest first"));
            parameters.push(parameter("query", "limit", "integer", "At most so many, 1 to 1000; otherwise 100"));
        }
        "events" => {
            parameters.push(parameter("header", "Last-Event-ID", "integer", "Tells again what changed after it"));
        }
        _ => {}
    }
    parameters
}

/// After a change of the API: `TIDEGATE_WRITE_OPENAPI=1 cargo test openapi`.
#[test]
fn the_openapi_document_says_what_the_table_and_the_types_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/openapi.json");
    let expected = format!("{:#}\n", document());
    if std::env::var_os("TIDEGATE_WRITE_OPENAPI").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap();
    let line = expected.lines().zip(found.lines()).position(|(expected, found)| expected != found);
    assert!(
        expected == found,
        "{path} differs from line {line:?}; write it anew with TIDEGATE_WRITE_OPENAPI=1 cargo test openapi"
    );
}

#[test]
fn every_reference_in_it_leads_somewhere() {
    let document = document();
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let mut ids: Vec<&str> = OPERATIONS.iter().map(|operation| operation.told.id).collect();
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
}
