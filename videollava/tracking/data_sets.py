"""The data that a run reads, as MLflow's data sets: the index and each source's shards, by DVC's hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from videollava.tracking.lineage import DATA, read_graph, read_yaml

__all__ = ["read_data_sets"]

SHARDS = "data/shards/"
EVALUATED = ("evaluate",)


def read_data_sets(workspace: Path, stage: str = "") -> list[dict[str, Any]]:
    """What `stage` learns from or asks (without one: a whole retraining), each with `name`, `digest` (32 hex digits),
    `source` (JSON), `profile` (JSON of counts, or "") and `context`. Empty where it reads no index, or dvc.lock has
    none.
    """
    graph = read_graph(workspace)
    if stage and DATA not in (graph.get(stage, {}).get("deps") or ()):
        return []
    stages = read_yaml(workspace / "dvc.lock").get("stages") or {}
    locked = {out["path"]: out for entry in stages.values() for out in entry.get("outs") or ()}
    if DATA not in locked:
        return []
    read = [path for path in (graph.get("index", {}).get("deps") or ()) if path.startswith(SHARDS)]
    context = "evaluation" if stage in EVALUATED else "training"
    return [
        {
            "name": path.removeprefix(SHARDS),
            "digest": str(locked[path].get("md5", "")).removesuffix(".dir"),
            "source": json.dumps({"path": path, "md5": locked[path].get("md5", "")}),
            "profile": _profile(workspace, path, locked[path]),
            "context": context,
        }
        for path in (DATA, *read)
        if path in locked
    ]


def _profile(workspace: Path, path: str, out: dict[str, Any]) -> str:
    """Records by split, or of the source; bytes as DVC counts them."""
    told = {name: out[name] for name in ("size", "nfiles") if name in out}
    file = workspace / path / "summary.json"
    if file.is_file():
        summary = json.loads(file.read_text())
        splits = {name: counts["records"] for name, counts in summary.get("splits", {}).items()}
        told |= splits or ({"records": summary["records"]} if "records" in summary else {})
    return json.dumps(told)
