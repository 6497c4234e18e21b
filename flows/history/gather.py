"""What made.json says, gathered from journals, dvc.lock and this machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.history.made import Accepted, Made, MadeStage, read_made
from flows.places.git import ask_git
from flows.storage import stores
from videollava.errors import InputError
from videollava.params import Params
from videollava.registry.store import OBJECTS
from videollava.tracking import read_spent
from videollava.tracking.accepted import origin_key, standing
from videollava.tracking.journal import read_events
from videollava.tracking.lineage import entry_keys, lock_entry, read_yaml
from videollava.tracking.packages import differing_packages
from videollava.tracking.spent import find_journal, read_notes
from videollava.who import name_person

__all__ = ["describe", "gather", "read_scores"]

SAVED = ("refs/exps", "refs/tags/model", "refs/videollava/model")
PREFIX = "version."
PRICE = "machine.cost.per_gpu_hour"


def gather(
    root: Path,
    params: Params,
    find_run: Callable[[str, str], str] = lambda journal, key: "",
    retraining_run: str = "",
    who: str = "",
) -> Made:
    """What is known of the retraining in `root`. find_run: the MLflow run of a journal's identity, or of a stage's
    key; "" where there is none or MLflow does not answer. who: the person it is for; by default whoever runs this.
    """
    lock = read_yaml(root / "dvc.lock").get("stages") or {}
    found = {stage: describe(root, stage, *entry_keys(stage, entry)) for stage, entry in lock.items()}
    lacking = {made.key for made in found.values() if made.hours is None}
    told = _told_before(root, lacking) if lacking else {}
    stages = {}
    for stage, made in found.items():
        made = told.get(made.key, made) if made.hours is None else made
        stages[stage] = made.model_copy(update={"run": made.run or find_run(made.journal, made.key)})
    return Made(
        model=params.tracking.model,
        scores=read_scores(root),
        machine=_machine(),
        hours={stage: made.hours for stage, made in stages.items() if made.hours is not None},
        runs={stage: made.run for stage, made in stages.items() if made.run},
        retraining_run=retraining_run,
        who=who or name_person(root),
        python=platform.python_version(),
        packages={name: installed for name, (_, installed) in differing_packages(root).items()},
        accepted=tuple(Accepted(**one.record()) for one in standing(root)),
        stages=stages,
    )


def read_scores(root: Path) -> dict[str, Any]:
    """metrics.json as dvc.lock names it: from the workspace, else from DVC's cache; empty where neither has it."""
    outs = lock_entry(root, "evaluate").get("outs") or ()
    md5 = next((str(out.get("md5", "")) for out in outs if out["path"] == "metrics.json"), "")
    cached = Path(stores(root)[0].url) / OBJECTS / md5[:2] / md5[2:]
    for file in (root / "metrics.json", cached) if md5 else ():
        if file.is_file() and hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() == md5:
            return dict(json.loads(file.read_bytes()))
    return {}


def describe(root: Path, stage: str, inputs: str, key: str) -> MadeStage:
    """Who made a stage's outputs, by the journals here. inputs, key: as `entry_keys` has them of its lock entry."""
    path = find_journal(root, stage, inputs, key) or find_journal(root, stage, origin_key(root, stage))
    if path is None:
        return MadeStage(key=key)
    start = next(event for event in read_events(path)[0] if event["event"] == "start")
    tags, settings = start["tags"], start.get("params") or {}
    price = float(settings.get(PRICE) or 0.0)
    return MadeStage(
        key=key,
        hours=round(read_spent(path).hours, 6),
        journal=start["id"],
        host=start.get("host", ""),
        device=tags.get("device", ""),
        ranks=int(tags["ranks"]) if "ranks" in tags else None,
        pool=tags.get("pool", ""),
        worker=tags.get("worker", ""),
        price=price or None,
        currency=str(settings.get("machine.cost.currency") or "") if price else "",
        packages={k.removeprefix(PREFIX): v for k, v in tags.items() if k.startswith(PREFIX)},
        **read_notes(path),
    )


def _told_before(root: Path, keys: set[str]) -> dict[str, MadeStage]:
    """Stages of these keys as retrainings saved earlier describe them, by key."""
    told: dict[str, MadeStage] = {}
    commits = ask_git(root, "for-each-ref", "--format=%(objectname)", "--sort=-committerdate", *SAVED) or ""
    for commit in dict.fromkeys(commits.split()):
        if not keys - told.keys():
            break
        try:
            stages = read_made(root, commit).stages.values()
        except InputError:  # an experiment of DVC's own, or of a newer release
            continue
        for made in stages:
            if made.key in keys and made.hours is not None:
                told.setdefault(made.key, made.model_copy(update={"came_from": made.came_from or commit}))
    return told


def _machine() -> dict[str, str]:
    told = {"host": platform.node(), "system": platform.platform(), "cores": str(os.cpu_count() or "")}
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [m[1].strip() for card in cards if (m := re.search(r"Model:(.*)", card.read_text()))]
    driver = Path("/proc/driver/nvidia/version")
    if names:
        told["gpus"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    if driver.is_file():
        told["driver"] = driver.read_text().splitlines()[0]
    return told
