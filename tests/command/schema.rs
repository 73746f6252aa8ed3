//! docs/status.schema.json against what `status` prints.

use serde_json::{Value, json};

/// Fails if this document of `status` is not as the schema says.
#[track_caller]
pub(super) fn assert_status(document: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/status.schema.json")).unwrap();
    if let Err(error) = check(&schema, &schema, document, "status") {
        panic!("{error}: {document:#}");
    }
}

#[test]
fn a_document_that_is_not_as_the_schema_says_is_seen() {
    let schema = json!({
        "required": ["a"],
        "type": "object",
        "properties": {
            "a": { "type": ["integer", "null"] },
            "b": { "type": "array", "items": { "anyOf": [{ "$ref": "#/$defs/c" }, { "enum": [7] }] } },
        },
        "$defs": { "c": { "type": "object", "properties": {}, "required": [] } },
    });
    let check = |value| check(&schema, &schema, &value, "it");
    for good in [json!({ "a": 1 }), json!({ "a": null, "b": [{}, 7] })] {
        assert_eq!(check(good), Ok(()));
    }
    for (bad, error) in [
        (json!({ "b": [] }), "it has no a"),
        (json!({ "a": 1, "c": 1 }), "it has a c"),
        (json!({ "a": "1" }), "it.a is string, not one of"),
        (json!({ "a": 1, "b": [8] }), "it.b[0] is 8"),
        (json!({ "a": 1, "b": [{ "d": 1 }] }), "it.b[0] has a d"),
        (json!([]), "it is array"),
    ] {
        let found = check(bad).unwrap_err();
        assert!(found.contains(error), "{found}");
    }
}

/// Checks a value against the words of JSON schema that docs/status.schema.json uses. A member that
/// the schema does not name is wrong, too.
fn check(schema: &Value, root: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        return check(&root["$defs"][name], root, value, place);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let errors: Vec<_> =
            any.iter().map_while(|one| check(one, root, value, place).err()).collect();
        return if errors.len() < any.len() { Ok(()) } else { Err(errors.join(" and ")) };
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value).then_some(()).ok_or(format!("{place} is {value}"));
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(all) => all.iter().map(|one| one.as_str().unwrap()).collect(),
        other => panic!("{place}: {other}"),
    };
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&found) {
        return Err(format!("{place} is {found}, not one of {types:?}"));
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        check(&schema["items"], root, item, &format!("{place}[{number}]"))?;
    }
    let Some(members) = value.as_object() else { return Ok(()) };
    for (name, member) in members {
        let named = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        let named = named.ok_or(format!("{place} has a {name}"))?;
        check(named, root, member, &format!("{place}.{name}"))?;
    }
    let required = schema["required"].as_array().into_iter().flatten();
    match required.filter_map(Value::as_str).find(|name| !members.contains_key(*name)) {
        Some(name) => Err(format!("{place} has no {name}")),
        None => Ok(()),
    }
}
