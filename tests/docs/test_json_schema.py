from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edgekit.measure.reports import LatencyReport, build_report_from_measurements
from tools.docs.json_schema import json_from_schema

TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def fits(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str = "") -> list[str]:
    """Where a value does not fit a schema, of those parts of JSON Schema that msgspec writes."""
    if "$ref" in schema:
        return fits(value, definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    if "anyOf" in schema:
        found = [fits(value, each, definitions, path) for each in schema["anyOf"]]
        return [] if [] in found else min(found, key=len)
    if "const" in schema:
        return [] if value is schema["const"] else [f"{path}: {value!r} is not {schema['const']}"]
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{path}: {value!r} is none of {schema['enum']}"]
    if schema.get("type") == "null":
        return [] if value is None else [f"{path}: {value!r} is not null"]
    if "type" in schema and (
        not isinstance(value, TYPES[schema["type"]]) or (value is True and schema["type"] != "boolean")
    ):
        return [f"{path}: {value!r} is no {schema['type']}"]
    return fits_inside(value, schema, definitions, path)


def fits_inside(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str) -> list[str]:
    wrong = [f"{path}: lacks {name}" for name in schema.get("required", ()) if name not in value]
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, inner in value.items():
            if name in properties:
                wrong += fits(inner, properties[name], definitions, f"{path}.{name}")
            elif isinstance(others, dict):
                wrong += fits(inner, others, definitions, f"{path}.{name}")
            elif properties:
                wrong.append(f"{path}: {name} is not in the schema")
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        wrong += [
            text for i, inner in enumerate(value) for text in fits(inner, schema["items"], definitions, f"{path}[{i}]")
        ]
    return wrong


def test_reports_fit_their_published_schemas(make_report: Callable[..., LatencyReport]) -> None:
    report = make_report()
    for name, content in (
        ("profile", report),
        ("build-report", build_report_from_measurements({"fp32": report, "int8": report}, {"macs": 3})),
    ):
        schema = json.loads(json_from_schema(name))
        assert fits(json.loads(msgspec.json.encode(content)), schema, schema["$defs"]) == []


def test_measured_tells_a_latency_from_an_estimate(make_report: Callable[..., LatencyReport]) -> None:
    schema = json.loads(json_from_schema("profile"))
    content = json.loads(msgspec.json.encode(make_report()))
    assert content["measured"] is True
    assert fits(content | {"measured": False}, schema, schema["$defs"])


def test_what_is_no_report_does_not_fit(make_report: Callable[..., LatencyReport]) -> None:
    schema = json.loads(json_from_schema("profile"))
    content = json.loads(msgspec.json.encode(make_report()))
    content["runs"] = "many"
    content["percentiles"]["inference"][0]["unknown"] = 1
    del content["name"]
    assert len(fits(content, schema, schema["$defs"])) == 3


@pytest.mark.parametrize("name", ["profile", "build-report", "compare"])
def test_every_property_has_the_text_of_its_docstring(name: str) -> None:
    schema = json.loads(json_from_schema(name))
    bare = [
        f"{struct}.{field}"
        for struct, content in schema["$defs"].items()
        for field, value in content.get("properties", {}).items()  # an enumeration has none
        if "description" not in value
    ]
    assert bare == []
