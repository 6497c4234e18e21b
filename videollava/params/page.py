"""What params.yaml may say, for editors (JSON schema) and for people (docs/parameters.md)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from videollava.params.sections import Params

__all__ = ["markdown", "schema"]

HEAD = """# Parameters

Every key of `params.yaml`, with its range and its default. This page is made from the code: `make docs` writes it.
Profiles (`videollava profile`) are presets of these; `videollava params` prints the values in use, checked.
Editors that know the YAML language server complete and check the file by [params.schema.json](params.schema.json).
"""
RANGES = (("minimum", ">="), ("exclusiveMinimum", ">"), ("maximum", "<="), ("exclusiveMaximum", "<"))


def schema() -> str:
    """The JSON schema of params.yaml."""
    made = Params.model_json_schema()
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **made}, indent=1) + "\n"


def markdown() -> str:
    """A table for each section, nested ones after the section they are in."""
    made = Params.model_json_schema()
    return "\n".join([HEAD, *_section("", made, made["$defs"])])


def _section(path: str, entry: dict[str, Any], kinds: dict[str, Any]) -> Iterator[str]:
    rows, nested = [], []
    for name, declared in entry["properties"].items():
        below = declared.get("additionalProperties")
        inner = declared.get("$ref") or (below.get("$ref") if isinstance(below, dict) else None)
        if inner:
            nested.append((f"{path}.{name}".lstrip(".") + (".NAME" if below else ""), inner))
            continue
        rows.append(f"| `{name}` | {_kind(declared)} | {_default(declared)} | {declared['description']} |")
    yield f"## {path or 'Top level'}\n"
    if path:
        yield entry["description"] + "\n"
    if rows:
        yield "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
    for below, reference in nested:
        yield from _section(below, kinds[reference.rpartition("/")[2]], kinds)


def _kind(declared: dict[str, Any]) -> str:
    if "enum" in declared:
        return ", ".join(f"`{choice}`" if choice else '`""`' for choice in declared["enum"])
    if "additionalProperties" in declared:
        return f"mapping of name to {_kind(declared['additionalProperties'])}"
    if "const" in declared:
        return f"`{declared['const']}`"
    if "anyOf" in declared:
        return " or ".join(map(_kind, declared["anyOf"]))
    if declared.get("type") == "array":
        return f"list of {_kind(declared['items'])}"
    bounds = " ".join(f"{sign} {declared[key]:.10g}" for key, sign in RANGES if key in declared)
    return f"{declared['type']} {bounds}".strip()


def _default(declared: dict[str, Any]) -> str:
    return f"`{json.dumps(declared['default'])}`" if "default" in declared else "required"
