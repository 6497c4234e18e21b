"""The sources that dvc.yaml's stages read, one line each: DVC takes no list from params.yaml.

`index` reads the shards of every source, `evaluate` what was fetched for a benchmark, and gold files that lie elsewhere
(evaluate.folders), `align` what was fetched for the zero-shot sets that it asks (align.zero_shot). A dependency must be
exactly one output of another stage. Of a folder above them DVC would not notice that a source is gone, and in a fresh
clone it would pull none of the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from videollava.data.acquire.lock import place_locks
from videollava.data.prepare.golds import gold_entries
from videollava.errors import InputError
from videollava.params import Params, read_mapping

__all__ = [
    "asked_sources",
    "benchmark_sources",
    "check_listed",
    "join_params",
    "list_sources",
    "listed_sources",
]

GRAPH = "dvc.yaml"
RAW = "data/raw"
SHARDS = "data/shards"
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
MARK = "# of evaluate.folders"
MARKED = re.compile(rf"^ *- (\S.*{MARK})\n", re.MULTILINE)


def listed_sources(workspace: Path) -> list[str]:
    """Names of the sources whose shards dvc.yaml lists as dependencies."""
    return [Path(path).name for path in _listed(workspace, "index", _line(SHARDS))]


def list_sources(workspace: Path, names: Iterable[str]) -> bool:
    """Make dvc.yaml's stage index list these sources, in their order; whether that changed it.

    Each also gets its lock, an empty one where it was never looked at. InputError where it has no such stage.
    """
    names = list(names)
    if (workspace / GRAPH).is_file():
        place_locks(workspace, names)
    return _list(workspace, "index", _line(SHARDS), [f"{SHARDS}/{name}" for name in names])


def join_params(workspace: Path, params: Params) -> bool:
    """Make dvc.yaml list what `params` say: the sources of index, the benchmarks' data of evaluate and of align.
    Whether that changed it; InputError where a benchmark's folder is that of an unknown source.
    """
    changed = [list_sources(workspace, params.sources)]
    for stage, names in (("evaluate", benchmark_sources(params)), ("align", asked_sources(params))):
        changed.append(_list(workspace, stage, _line(RAW), [f"{RAW}/{name}" for name in names]))
    gold = [f"{_quoted(path)}  {MARK}" for path in benchmark_files(workspace, params)]
    changed.append(_list(workspace, "evaluate", MARKED, gold))
    return any(changed)


def benchmark_sources(params: Params) -> list[str]:
    """Sources that benchmarks are read from (evaluate.folders: data/raw/NAME), in the order of `sources`."""
    return _sources_of(params, params.evaluate.folders)


def asked_sources(params: Params) -> list[str]:
    """Those of them that the zero-shot sets are read from which `align` asks while encoders learn."""
    names = params.align.zero_shot if params.align.train else ()
    return _sources_of(params, {name: params.evaluate.zero_shot_folder(name) for name in names})


def _sources_of(params: Params, folders: Mapping[str, str]) -> list[str]:
    named = {}
    for benchmark, folder in folders.items():
        parts = Path(folder).parts
        if parts[:2] != ("data", "raw") or len(parts) < 3:
            continue
        if parts[2] not in params.sources:
            raise InputError(
                f"params.yaml: evaluate.folders.{benchmark}: {folder}: no source {parts[2]!r}; there are: "
                f"{', '.join(params.sources) or 'none'}"
            )
        named[parts[2]] = benchmark
    return [name for name in params.sources if name in named]


def benchmark_files(workspace: Path, params: Params) -> list[str]:
    """Question and gold files of the benchmarks that are asked, where no stage makes them; folders that hold some.

    Another gold file evaluates again; media, which may be large, are compared at the evaluation itself.
    """
    found: dict[str, None] = {}
    for name in params.evaluate.benchmarks:
        folder = params.evaluate.folders.get(name, RAW)
        if Path(folder).parts[:2] != ("data", "raw") and (workspace / folder).is_dir():
            found |= dict.fromkeys(
                (Path(folder) / path.name).as_posix() for path in gold_entries(workspace / folder)
            )
    return list(found)


def check_listed(workspace: Path, names: Iterable[str]) -> None:
    """InputError where dvc.yaml lists other sources than params.yaml has: DVC would not see that one changed."""
    names = list(names)
    file = workspace / "params.yaml"
    # What `--set` says is not what DVC reads.
    if (
        not (workspace / GRAPH).is_file()
        or not file.is_file()
        or list(read_mapping(file).get("sources") or ()) != names
    ):
        return
    if (listed := listed_sources(workspace)) != names:
        raise InputError(
            f"{workspace / GRAPH}: stage index lists the shards of {', '.join(listed) or 'no source'}, and params.yaml "
            f"has the sources {', '.join(names)}; `videollava data join` writes them there"
        )


def _listed(workspace: Path, stage: str, line: re.Pattern[str]) -> list[str]:
    file = workspace / GRAPH
    found = _stage(file.read_text(), stage) if file.is_file() else None
    return [one[1] for one in line.finditer(found[0])] if found else []


def _list(workspace: Path, stage: str, line: re.Pattern[str], wanted: list[str]) -> bool:
    file = workspace / GRAPH
    if not file.is_file() or _listed(workspace, stage, line) == wanted:
        return False
    text = file.read_text()
    found = _stage(text, stage)
    if not found:
        raise InputError(f"{file}: no stage {stage} with deps; restore it: `git checkout dvc.yaml`")
    first = line.search(found[0])
    place = found.start() + first.start() if first else found.end("head")
    lines = "".join(f"{found['indent']}  - {one}\n" for one in wanted)
    rest = line.sub("", text[place : found.end()])
    half = file.with_name(f"{GRAPH}.tmp")
    half.write_text(text[:place] + lines + rest + text[found.end() :])
    half.replace(file)
    return True


def _line(folder: str) -> re.Pattern[str]:
    return re.compile(rf"^ *- ({folder}/{NAME}) *\n", re.MULTILINE)


def _quoted(path: str) -> str:
    return path if re.fullmatch(r"[\w./-]+", path) else json.dumps(path)


def _stage(text: str, name: str) -> re.Match[str] | None:
    """The stage's deps; group head: as far as the first of them, and one line that tells of it."""
    start = re.search(rf"^  {name}:[^\n]*\n", text, re.MULTILINE)
    head = r"(?P<head>(?:   [^\n]*\n|\s*\n)*?(?P<indent> {4,})deps:[^\n]*\n(?: *#[^\n]*\n)?)"
    rest = r"(?: *(?:- |#)[^\n]*\n|\s*\n)*"
    return re.compile(head + rest).match(text, start.end()) if start else None
