"""Where a result comes from: git commit, params.yaml, dvc.lock, data, and the key of each stage.

All of it is read from files of the workspace. DVC itself is not needed: its lock file names what
every stage read and wrote.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.params.bounds import Section
from videollava.scrub import HIDDEN, is_secret_name, scrub
from videollava.tracking.commit import read_commit

__all__ = [
    "PARAMS",
    "Lineage",
    "digest",
    "entry_keys",
    "flatten",
    "folder_md5",
    "input_key",
    "lock_entry",
    "locked_input_key",
    "locked_outputs",
    "outs_of",
    "parameter_names",
    "read_graph",
    "read_lineage",
    "read_yaml",
    "stage_key",
]

DATA = "data/index"
PARAMS = "params.yaml"
UNKNOWN = "unknown"  # what a tag says where nobody knows: an empty one reads like a fact
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True)
class Lineage:
    """What a run or a model version was made from; hashes are hex, "" where there is none.

    commit: git HEAD. dirty: tracked files differ from it (dvc.lock, which a run rewrites, aside); None where
    nobody knows. trouble: why git gave no (whole) answer. params: hash of params.yaml's values. lock: hash of
    dvc.lock. data: DVC's hash of the prepared data.
    """

    commit: str = ""
    dirty: bool | None = None
    params: str = ""
    lock: str = ""
    data: str = ""
    trouble: str = ""

    def tags(self) -> dict[str, str]:
        """The same as MLflow tags."""
        told = {
            "commit": self.commit or UNKNOWN,
            "dirty": UNKNOWN if self.dirty is None else str(self.dirty).lower(),
            "params_hash": self.params,
            "lock_hash": self.lock,
            "data_hash": self.data,
        }
        return told | ({"commit_trouble": self.trouble} if self.trouble else {})

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> Lineage:
        """Read `tags` back. What earlier releases wrote where git gave no answer (no commit, "clean") is unknown."""
        commit = tags.get("commit", "")
        commit = "" if commit == UNKNOWN else commit
        dirty = {"true": True, "false": False}.get(tags.get("dirty", "")) if commit else None
        params, lock, data = (tags.get(f"{name}_hash", "") for name in ("params", "lock", "data"))
        return cls(commit, dirty, params, lock, data, tags.get("commit_trouble", ""))

    def describe(self, length: int = 12) -> str:
        """The commit in words: "1a2b3c", "1a2b3c, with uncommitted changes", "unknown (why)"."""
        if not self.commit:
            return f"{UNKNOWN} ({self.trouble or 'git gave none'})"
        state = {True: ", with uncommitted changes", False: "", None: ", whether changed unknown"}
        return self.commit[:length] + state[self.dirty]


def read_lineage(workspace: Path) -> Lineage:
    """The lineage of what lies in `workspace` now."""
    lock = workspace / "dvc.lock"
    commit = read_commit(workspace)
    return Lineage(
        commit=commit.name,
        dirty=commit.dirty,
        params=digest(read_yaml(workspace / "params.yaml")),
        lock=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else "",
        data=_locked_outs(read_yaml(lock)).get(DATA, ""),
        trouble=commit.trouble,
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty where there is no file, InputError where something else is in it."""
    import yaml

    if not file.is_file():
        return {}
    try:
        text = file.read_text(encoding="utf-8")
        raw = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not valid YAML{_merging(file)}: {error}") from error
    if raw is not None and not isinstance(raw, dict):
        raise InputError(f"{file}: must be a mapping of keys, not {type(raw).__name__}{_merging(file)}")
    return raw or {}


def _merging(file: Path) -> str:
    return " (a merge left its marks in it: resolve it)" if b"<<<<<<< " in file.read_bytes() else ""


def read_graph(workspace: Path, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The stages of dvc.yaml as DVC names them: `fetch` for each of the sources is fetch@NAME. Empty without a file.

    values: of params.yaml, where they are not the file's. InputError where something else is in it, or it asks for a
    loop that is not over a mapping of params.yaml.
    """
    stages = read_yaml(workspace / "dvc.yaml").get("stages") or {}
    if not isinstance(stages, Mapping) or not all(isinstance(one, Mapping) for one in stages.values()):
        raise InputError(f"{workspace / 'dvc.yaml'}: stages must be a mapping of names to stages")
    found: dict[str, Any] = {}
    for name, entry in stages.items():
        if "foreach" not in entry:
            found[name] = dict(entry)
            continue
        over = re.fullmatch(r"\$\{([\w.]+)\}", str(entry["foreach"]))
        values = read_yaml(workspace / "params.yaml") if values is None else values
        keys = _lookup(values, over[1]) if over else None
        if not isinstance(keys, Mapping):
            raise InputError(
                f"{workspace / 'dvc.yaml'}: stage {name}: foreach {entry['foreach']!r}: no mapping of params.yaml"
            )
        found.update({f"{name}@{key}": _fill(entry["do"], str(key)) for key in keys})
    return found


def _fill(value: Any, key: str) -> Any:
    """A stage of a loop, for one key."""
    if isinstance(value, Mapping):
        return {name: _fill(item, key) for name, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, key) for item in value]
    return value.replace("${key}", key) if isinstance(value, str) else value


def digest(value: Any) -> str:
    """Hex SHA-256 of a plain value, the same for the same content."""
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lock_entry(workspace: Path, stage: str) -> dict[str, Any]:
    """The stage's entry of dvc.lock; empty where it never ran."""
    return (read_yaml(workspace / "dvc.lock").get("stages") or {}).get(stage) or {}


def stage_key(workspace: Path, stage: str, inputs: str = "") -> str:
    """Hash of what the stage read and wrote when it last ran, "" where it never did. inputs: the hash of what it read,
    where that is not dvc.lock's.
    """
    return entry_keys(stage, lock_entry(workspace, stage), inputs)[1]


def locked_input_key(workspace: Path, stage: str) -> str:
    """`input_key` as it was when the stage last ran, read from dvc.lock; "" where it never did."""
    return entry_keys(stage, lock_entry(workspace, stage))[0]


def outs_of(entry: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of a stage's outputs by path, of its entry of dvc.lock."""
    return {out["path"]: out.get("md5", "") for out in entry.get("outs") or ()}


def entry_keys(stage: str, entry: Mapping[str, Any], inputs: str = "") -> tuple[str, str]:
    """(`locked_input_key`, `stage_key`) of a stage's entry of dvc.lock."""
    if not entry:
        return "", ""
    deps = {dep["path"]: dep.get("md5", "") for dep in entry.get("deps") or ()}
    params = {file: held or {} for file, held in (entry.get("params") or {}).items()}
    inputs = inputs or _key(stage, deps, params)
    return inputs, digest({"inputs": inputs, "outs": outs_of(entry)})


def input_key(workspace: Path, stage: str, *, parameters: bool = True, used: Section | None = None) -> str:
    """Hash of what the stage is about to read: its data, its code, its parameters in params.yaml.

    used: the parameters in their place, where `--params` and `--set` may have made them others: what a checkpoint
    belongs to. parameters: False for who tells those in use himself.

    Under DVC, outputs of earlier stages are named by dvc.lock and not read again. Run by hand
    (`videollava finetune`), nobody has checked that the lock is true: files are told apart by size and time.
    """
    graph = read_graph(workspace)
    if stage not in graph:
        return ""
    params = read_yaml(workspace / "params.yaml") if used is None else used.model_dump(mode="json")
    held = {}
    for file, names in parameter_names(graph[stage]).items():
        if parameters or file != PARAMS:
            values = params if file == PARAMS else read_yaml(workspace / file)
            held[file] = {name: _lookup(values, name) for name in names}
    locked = _locked_outs(read_yaml(workspace / "dvc.lock"))
    made = {_path(out) for entry in graph.values() for out in _outs(entry)}
    deps = {dep: _hash_dep(workspace, dep, locked, made) for dep in graph[stage].get("deps") or ()}
    return _key(stage, deps, held)


def parameter_names(entry: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a stage of dvc.yaml reads of params.yaml and of other files: their names, by file."""
    found: dict[str, list[str]] = {}
    for one in entry.get("params") or ():
        for file, names in one.items() if isinstance(one, Mapping) else [(PARAMS, [one])]:
            found.setdefault(file, []).extend(names or ())
    return found


def _key(stage: str, deps: Mapping[str, str], params: Mapping[str, Mapping[str, Any]]) -> str:
    return digest(
        {"stage": stage, "deps": deps, "params": {file: held for file, held in params.items() if held}}
    )


def folder_md5(folder: Path) -> str:
    """DVC's hash of a folder: the md5 of its JSON listing (what .dvcignore names left out)."""
    files = [
        f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts and f.suffix != ".pyc"
    ]
    rows = [{"md5": _file_md5(f), "relpath": f.relative_to(folder).as_posix()} for f in files]
    rows.sort(key=lambda row: row["relpath"])
    return hashlib.md5(json.dumps(rows, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values as dotted keys and texts, secrets left out; a list is one JSON text."""
    value = _fields(value)
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for key, item in value.items():
            flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
        return flat
    if isinstance(value, str | list | tuple) and is_secret_name(prefix.rsplit(".", 1)[-1]):
        return {prefix: HIDDEN if value else ""}
    text = json.dumps(_plain(value)) if isinstance(value, list | tuple) else str(value)
    return {prefix: scrub(text)}


def _fields(value: Any) -> Any:
    if isinstance(value, Section):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value


def _plain(value: Any) -> Any:
    value = _fields(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # DVC reads 1e-4 (no dot) as a number, PyYAML as text.
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return float(value)
    return value


def _lookup(params: Mapping[str, Any], name: str) -> Any:
    node: Any = params
    for part in name.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _outs(entry: Mapping[str, Any]) -> list[Any]:
    return [*(entry.get("outs") or ()), *(entry.get("metrics") or ()), *(entry.get("plots") or ())]


def _path(out: Any) -> str:
    return next(iter(out)) if isinstance(out, Mapping) else str(out)


def locked_outputs(workspace: Path) -> dict[str, str]:
    """DVC's hash of every output that dvc.lock names, by path."""
    return _locked_outs(read_yaml(workspace / "dvc.lock"))


def _locked_outs(lock: Mapping[str, Any]) -> dict[str, str]:
    entries = (lock.get("stages") or {}).values()
    return {out["path"]: out.get("md5", "") for entry in entries for out in entry.get("outs") or ()}


def _hash_dep(workspace: Path, dep: str, locked: Mapping[str, str], made: set[str]) -> str:
    path = workspace / dep
    if dep in made:
        if os.environ.get("DVC_STAGE") and dep in locked:
            return locked[dep]
        return _listing(path)
    if path.is_dir():
        return folder_md5(path)
    return _file_md5(path) if path.is_file() else ""


def _listing(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path] if path.exists() else []
    rows = [(str(f.relative_to(path)), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return f"listing-{digest(rows)}"


def _file_md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
