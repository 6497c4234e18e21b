"""From YAML to sections: presets, overrides, and mistakes in words that name the key and the remedy."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from videollava.errors import InputError
from videollava.params.bounds import REGISTERED, Section
from videollava.params.sections import Params
from videollava.scrub import scrub

__all__ = [
    "load_params",
    "parse_params",
    "profile_names",
    "profile_text",
    "read_mapping",
    "read_mapping_text",
    "read_section",
    "split_overrides",
]

PROFILES = Path(__file__).parents[1] / "profiles"
KEY = "[key]"  # pydantic's last part of a place where a mapping's key is mistaken
SHOWN = 5  # mistakes in one error
WORDS = {
    "int_type": "must be int",
    "int_parsing": "must be int",
    "int_from_float": "must be int",
    "float_type": "must be float",
    "float_parsing": "must be float",
    "bool_type": "must be bool (true or false)",
    "string_type": "must be str",
    "tuple_type": "must be a list",
    "mapping_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "finite_number": "must be a finite number",
}
# What params.yaml had before there was a machine.yaml, and the key there.
TRAINED = {
    "workers": "workers",
    "tokens_per_pack": "tokens_per_pack",
    "deepspeed": "strategy",
    "gradient_checkpointing": "recompute",
    "checkpoint_steps": "checkpoint_steps",
}
MOVED = {
    **{f"{stage}.workers": "workers" for stage in ("align", "evaluate")},
    **{f"{stage}.{old}": new for stage in ("pretrain", "finetune") for old, new in TRAINED.items()},
    "evaluate.batch_tokens": "tokens_per_batch",
}
# What the sections `fetch` and `prepare` became.
OLDER = {
    "tokenizer": "index",
    "vocab_size": "index",
    "held_out": "index",
    "shard_mib": "shards",
    "max_quarantined": "shards",
}
# What named benchmarks in the section `gate`, and the key in gate.yaml's entry of each.
GATE_MOVED = {
    "minimum": "minimum",
    "minimum_gains": "minimum_gain",
    "allowed_regressions": "allowed_regression",
}
Read = TypeVar("Read", bound=Section)
BOUNDS = {
    "greater_than": ("gt", "must be more than"),
    "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"),
    "less_than_equal": ("le", "must be at most"),
}


def load_params(path: Path | str = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read `path` and apply `overrides` ("finetune.learning_rate=1e-4"); InputError on any mistake."""
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: not found; write one with `videollava profile tiny`")
    raw = read_mapping(file)
    for keys, value in split_overrides(overrides):
        raw = _override(raw, keys, value)
    return parse_params(raw, str(file))


def parse_params(raw: Mapping[str, Any], origin: str = "params.yaml") -> Params:
    """Turn a plain mapping into Params; InputError names the key and the nearest right one."""
    _refuse_older(raw, origin)
    _refuse_gate(raw, origin)
    return read_section(Params, raw, origin, MOVED)


def read_section(
    kind: type[Read], raw: Mapping[str, Any], origin: str, moved: Mapping[str, str] = {}
) -> Read:
    """Turn a plain mapping into a section; InputError names the key and the nearest right one.

    moved: keys (dotted) that older files have, and their names in machine.yaml.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        told = list(_tell(kind, error, moved))
        more = f"; and {len(told) - SHOWN} more" if len(told) > SHOWN else ""
        raise InputError(f"{origin}: {'; '.join(told[:SHOWN])}{more}") from error


def profile_names() -> list[str]:
    """Names of the presets that `videollava profile NAME` can write."""
    return sorted(file.stem for file in PROFILES.glob("*.yaml"))


def profile_text(name: str) -> str:
    """The YAML of one preset, comments included."""
    if name not in profile_names():
        near = _nearest(name, profile_names())
        raise InputError(f"no profile {name!r}{near}; there are: {', '.join(profile_names())}")
    return (PROFILES / f"{name}.yaml").read_text()


def read_mapping(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; InputError where it is none, or names a key twice (YAML would keep the last)."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not valid YAML: {error}") from error
    return read_mapping_text(text, str(file))


def read_mapping_text(text: str, origin: str) -> dict[str, Any]:
    """As `read_mapping`, of a text from `origin`."""
    import yaml

    try:
        raw = yaml.load(text, _loader())
    except yaml.YAMLError as error:
        raise InputError(f"{origin}: not valid YAML: {error}") from error
    if raw is not None and not isinstance(raw, dict):
        raise InputError(f"{origin}: the file must be a mapping of keys, not {type(raw).__name__}")
    return raw or {}


def split_overrides(texts: Iterable[str]) -> list[tuple[tuple[str, ...], Any]]:
    """Keys and value of each "SECTION.KEY=VALUE"; InputError where one is none, or two set the same thing."""
    import yaml

    done: dict[tuple[str, ...], Any] = {}
    for text in texts:
        key, mark, value = text.partition("=")
        keys = tuple(part.strip() for part in key.split("."))
        if not mark or not all(keys):
            raise InputError(
                f"override {text!r}: write SECTION.KEY=VALUE, such as finetune.learning_rate=1e-4"
            )
        again = [other for other in done if other[: len(keys)] == keys or keys[: len(other)] == other]
        if again:
            raise InputError(f"override {text!r}: {'.'.join(again[0])} is set already; give one value")
        try:
            done[keys] = yaml.load(value, _loader())
        except yaml.YAMLError as error:
            raise InputError(f"override {text!r}: the value is not valid YAML: {error}") from error
    return list(done.items())


def _refuse_older(raw: Mapping[str, Any], origin: str) -> None:
    """A file of before each source had its own stages is told what to write instead, all of it."""
    import yaml

    old = {name: dict(raw[name]) for name in ("fetch", "prepare") if isinstance(raw.get(name), Mapping)}
    if not old:
        return
    fetch, prepare = old.get("fetch", {}), old.get("prepare", {})
    now: dict[str, Any] = {}
    listed = fetch.get("sources") or ()
    if sources := {
        str(one.pop("name", "NAME")): one for one in map(dict, listed) if isinstance(listed, list)
    }:
        now["sources"] = sources
    for key, value in prepare.items():
        if key in OLDER:
            now.setdefault(OLDER[key], {})[key] = value
    fast = [key for key in ("workers", "retries") if key in fetch or key in prepare]
    text = scrub(yaml.safe_dump(now, default_flow_style=None, width=10_000, sort_keys=False).rstrip())
    machine = f"; {', '.join(fast)} belong into machine.yaml (docs/machines.md)" if fast else ""
    raise InputError(
        f"{origin}: {' and '.join(old)} became sources, shards and index; write in their place{machine}:\n{text}"
    )


def _refuse_gate(raw: Mapping[str, Any], origin: str) -> None:
    """The gate of a file of before there was a gate.yaml, as it is written there."""
    import yaml

    if "gate" not in raw:
        return
    old = dict(raw["gate"]) if isinstance(raw["gate"], Mapping) else {}
    bars: dict[str, dict[str, Any]] = {}
    for key, name in GATE_MOVED.items():
        for benchmark, value in dict(old.pop(key, None) or {}).items():
            bars.setdefault(str(benchmark), {})[name] = value
    if "significance" in old:
        level = old.pop("significance")
        old |= {"level": level} if level else {}
    tracking = raw.get("tracking")
    model = tracking.get("model", "videollava") if isinstance(tracking, Mapping) else "videollava"
    now = {model: ({"benchmarks": bars} if bars else {}) | old}
    text = yaml.safe_dump(now, default_flow_style=None, width=10_000, sort_keys=False).rstrip()
    raise InputError(
        f"{origin}: gate moved to gate.yaml, which counts as committed on the main branch (docs/registry.md); take it "
        f"out here, and have there:\n{scrub(text)}"
    )


def _override(raw: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    tree = dict(raw)
    if len(keys) == 1:
        return {**tree, keys[0]: value}
    child = tree.get(keys[0]) or {}
    if not isinstance(child, Mapping):
        raise InputError(f"override {'.'.join(keys)!r}: {keys[0]} has no keys below it")
    return {**tree, keys[0]: _override(child, keys[1:], value)}


def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in one mapping."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [child.value for child, _ in node.value if isinstance(child, yaml.ScalarNode)]
            twice = [name for at, name in enumerate(names) if name in names[:at] and name != "<<"]
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {twice[0]!r} stands twice in one mapping", node.start_mark
                )
            return super().construct_mapping(node, deep)

    # YAML 1.1 takes 1e-4 (no dot) for text; everyone else, DVC too, for a number.
    number = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _tell(kind: type[Section], error: ValidationError, moved: Mapping[str, str]) -> Iterable[str]:
    """Each mistake in words; what one section lacks, and what moved to one place, together."""
    lacking: dict[str, list[str]] = {}
    for item in error.errors(include_url=False):
        *above, last = item["loc"] or ("",)
        if item["type"] == "missing":
            lacking.setdefault(_path(above), []).append(str(last))
    yield from (f"{where or 'the file'} lacks {', '.join(names)}" for where, names in lacking.items())
    gone: dict[str, Any] = {}
    for item in error.errors(include_url=False):
        if item["type"] == "extra_forbidden" and (name := _path(item["loc"])) in moved:
            gone[name] = item["input"]
        elif item["type"] != "missing":
            yield _words(kind, item)
    if gone:
        yield _elsewhere(gone, moved)


def _elsewhere(gone: Mapping[str, Any], moved: Mapping[str, str]) -> str:
    """One remedy for all keys that went to the machine file: an older params.yaml has a dozen."""
    import yaml

    stages: dict[str, dict[str, Any]] = {}
    for name, value in gone.items():
        kept = "sharded" if value == "none" else value
        if moved[name] == "checkpoint_minutes":
            kept = 15  # what was written tells steps
        stages.setdefault(name.partition(".")[0], {})[moved[name]] = kept
    text = yaml.safe_dump({"stages": stages}, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return (
        f"{', '.join(gone)} say how fast, not what is learned: take them out here, and write what you want to keep of "
        f"them into machine.yaml as `{text[1:-1]}` (docs/machines.md)"
    )


def _words(root: type[Section], item: Any) -> str:
    where, kind, value = _path(item["loc"]), item["type"], item["input"]
    context = item.get("ctx") or {}
    if kind == "extra_forbidden":
        return f"unknown key {where!r}{_nearest(str(item['loc'][-1]), _keys(root, item['loc'][:-1]))}"
    if kind == "literal_error":
        choices = [str(choice) for choice in typing.get_args(_annotation(root, item["loc"]))]
        return (
            f"{where} is {value!r}{_nearest(str(value), choices)}; it may be: {', '.join(map(repr, choices))}"
        )
    if kind in BOUNDS:
        name, words = BOUNDS[kind]
        return f"{where} {words} {context[name]:g}, not {value!r}"
    if kind == "value_error":
        return f"{where or 'the file'}: {context['error']}"
    if kind == "twice":
        return f"{where} {item['msg']}"
    if kind.endswith("model_type") or kind == "model_attributes_type":
        return f"{where or 'the file'} must be a mapping of keys, not {type(value).__name__}"
    if kind in ("string_pattern_mismatch", "string_too_short"):
        plain = context.get("pattern") == REGISTERED
        wanted = "of letters, digits, '_' and '-'" if plain else "without spaces, '/', ':' and '@'"
        return f"{where} is {value!r}: a name {wanted} is wanted"
    return f"{where} {WORDS.get(kind, item['msg'])}, not {value!r}"


def _path(loc: Sequence[int | str]) -> str:
    text = ""
    for part in loc[:-1] if loc[-1:] == (KEY,) else loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _keys(root: type[Section], loc: Sequence[int | str]) -> list[str]:
    """What the section at `loc` knows."""
    kind = _annotation(root, loc) if loc else root
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []


def _annotation(root: type[Section], loc: Sequence[int | str]) -> Any:
    """The type that is declared for the value at `loc`, or for a mapping's key, where it ends in KEY."""
    if loc[-1:] == (KEY,):
        return typing.get_args(_annotation(root, loc[:-2]))[0]
    kind: Any = root
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[str(part)].annotation
        else:
            kind = typing.get_args(kind)[0 if isinstance(part, int) else 1]
        while typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
    return kind


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f" (did you mean {close[0]!r}?)" if close else ""
