"""JSON Schemas of what commands print with ``--json``, from their structs and docstrings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_type_hints

import msgspec

from edgekit.measure.engine_estimate import EngineEstimate
from edgekit.measure.inspection import Inspection
from edgekit.measure.relative import CompareReport
from edgekit.measure.reports import BuildReport, LatencyReport
from tools.docs.schema import documented

__all__ = ["SCHEMAS", "json_from_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMAS: dict[str, tuple[tuple[type[msgspec.Struct], ...], str]] = {
    "profile": ((LatencyReport, EngineEstimate), "edgekit profile --json"),
    "build-report": ((BuildReport,), "report.json in the folder of an engine, and `report` in edgekit build --json"),
    "compare": ((CompareReport,), "edgekit compare --json"),
    "inspect": ((Inspection,), "edgekit inspect --json"),
}


def json_from_schema(name: str) -> str:
    """The schema of one kind of JSON; each property has the text of its attribute's docstring."""
    kinds, source = SCHEMAS[name]
    found, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for struct in {struct for kind in kinds for struct in _structs(kind)}:
        summary, attributes = documented(struct)
        component = components[struct.__name__]
        component["description"] = summary
        for field, text in attributes.items():
            # In a reference, other keys are allowed since the dialect of 2019.
            component["properties"][field] = {**component["properties"][field], "description": text}
    if len(kinds) > 1:
        for kind in kinds:  # `measured` tells them apart
            measured = components[kind.__name__]["properties"]["measured"]
            measured["const"] = measured["default"]
    root = found[0] if len(found) == 1 else {"anyOf": list(found)}
    schema = {"$schema": DIALECT, "title": source, **root, "$defs": dict(sorted(components.items()))}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _structs(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """A struct and all structs in its fields."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for inner in get_type_hints(kind).values():
            yield from _structs(inner)
    for argument in getattr(kind, "__args__", ()):
        yield from _structs(argument)
