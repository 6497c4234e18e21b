"""The tiny stages on the GPU beside the CPU: losses step by step in float32 and bfloat16, and the same answers.

Every stage starts from the same folder, whose models were made on the bundle's machine: a stage that fails, or drifts,
does not show in the next. Float32 is without TF32.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

from bench.gpu_check.tiny import MACHINE, tiny
from bench.gpu_check.told import Row, read_rows, tell

STAGES = {
    "bases": "train.bases",
    "align": "train.align",
    "pretrain": "train.pretrain",
    "finetune": "train.finetune",
    "evaluate": "evaluate.stage",
}
FIRST, EVERY = (
    1e-4,
    1e-2,
)  # relative: float32, other kernels; AdamW makes much of little at gradients near zero
HERE = "bench.gpu_check.stages"
POLL = 0.1  # seconds
ANSWERS = 0.9  # share of equal ones, float32


def main(argv: Sequence[str] | None = None) -> int:
    """1 where a stage failed on a device, or float32 is not the CPU's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="nothing: the stages are tiny anyway")
    parser.add_argument("--child", nargs=2, metavar=("DEVICE", "PRECISION"))
    arguments = parser.parse_args(argv)
    if arguments.child:
        return run_stages(arguments.bundle / "tiny", *arguments.child)
    from torch import cuda

    here = [("cuda", "fp32"), ("cuda", "bf16")] if cuda.is_available() else [("cpu", "bf16")]
    variants = [("cpu", "fp32"), *here]
    good = True
    for stage, rows in stages_of(arguments.bundle, variants):
        figures, agrees = beside(rows)
        tell(stage, **figures)
        good &= agrees
    return int(not good)


def stages_of(bundle: Path, variants: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Row]]]:
    """Each stage once all variants, which run side by side, are done with it: its row by variant."""
    names = [f"{device} {precision}" for device, precision in variants]
    found: dict[str, dict[str, Row]] = {name: {} for name in names}
    readers = []
    for name, (device, precision) in zip(names, variants, strict=True):
        process = subprocess.Popen(
            [sys.executable, "-m", HERE, "--bundle", str(bundle), "--child", device, precision],
            env=environment(device),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        readers.append(Thread(target=_read, args=(name, process, found[name]), daemon=True))
        readers[-1].start()
    for stage in STAGES:
        while any(stage not in rows for rows in found.values()) and any(r.is_alive() for r in readers):
            time.sleep(POLL)
        yield stage, {name: found[name].get(stage, {"error": "it did not run"}) for name in names}


def _read(name: str, process: subprocess.Popen[str], rows: dict[str, Row]) -> None:
    """Rows as they come; all else is said with the variant's name."""
    assert process.stdout is not None
    for line in process.stdout:
        told = next(read_rows([line]), None)
        if told is None:
            print(f"{name}: {line.rstrip()}", flush=True)
        else:
            rows[told["what"]] = told


def environment(device: str) -> dict[str, str]:
    """Of a process that is to see that device alone."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    threads = max(1, (os.cpu_count() or 2) // 2)
    return {**os.environ, **hidden, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}


def run_stages(start: Path, device: str, precision: str) -> int:
    """Each stage in a fresh copy of `start`; a row each."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = ("bases", "align", "pretrain", "finetune", "evaluate")
    params = tiny(*(f"{name}.precision={precision}" for name in names), "finetune.cache_features=false")
    for stage in STAGES:
        with tempfile.TemporaryDirectory() as folder:
            workspace = Path(folder) / "tiny"
            shutil.copytree(start, workspace)
            began = time.monotonic()
            try:
                losses = run_stage(stage, params, workspace)
            except Exception:
                traceback.print_exc()
                tell(stage, error=traceback.format_exc().strip().splitlines()[-1][:300])
                continue
            answers = read_answers(workspace) if stage == "evaluate" else []
            tell(stage, losses=losses, answers=answers, seconds=time.monotonic() - began)
    return 0


def run_stage(stage: str, params: Any, workspace: Path) -> list[float]:
    """Run it as the command line does, with its journal; the losses in that."""
    from videollava.tracking import track
    from videollava.tracking.journal import read_events

    with track(stage, params, workspace, MACHINE) as journal:
        import_module(f"videollava.{STAGES[stage]}").run(params, workspace, MACHINE)
    assert journal.path is not None
    events, _ = read_events(journal.path)
    return [event["values"]["loss"] for event in events if "loss" in event.get("values", {})]


def read_answers(workspace: Path) -> list[str]:
    """What was answered to each question."""
    lines = (workspace / "evaluation/predictions/toy_video_qa.jsonl").read_text().splitlines()
    return [json.loads(line)["prediction"] for line in lines]


def beside(rows: dict[str, Row]) -> tuple[dict[str, Any], bool]:
    """One stage's figures by variant (the first is the CPU's in float32), and whether all ran and float32 agrees."""
    good = all("error" not in row for row in rows.values())
    reference = next(iter(rows.values()))
    figures: dict[str, Any] = {}
    for name, row in rows.items():
        if "error" in row:
            figures[name] = row["error"]
            continue
        figures |= _figures(name, row, reference)
        figures[f"{name} s"] = row["seconds"]
        good &= not name.endswith("fp32") or _agrees(row, reference)
    return figures, good


def _figures(name: str, row: dict[str, Any], mine: dict[str, Any]) -> dict[str, Any]:
    losses, others = row["losses"], mine.get("losses") or []
    if row["answers"]:
        if row is mine:
            return {"answers": len(row["answers"])}
        return {f"{name} answers as the CPU's": _same(row["answers"], mine.get("answers") or [])}
    figures: dict[str, Any] = {f"{name} loss": [losses[0], losses[-1]]}
    if row is not mine and others:
        figures[f"{name} off by (first, most)"] = [_off(losses[:1], others[:1]), _off(losses, others)]
    return figures


def _agrees(row: dict[str, Any], mine: dict[str, Any]) -> bool:
    if "error" in mine:
        return False
    if row["answers"]:
        return _same(row["answers"], mine["answers"]) >= ANSWERS
    losses, others = row["losses"], mine["losses"]
    return (
        len(losses) == len(others) and _off(losses[:1], others[:1]) < FIRST and _off(losses, others) < EVERY
    )


def _off(losses: list[float], others: list[float]) -> float:
    """The largest relative difference."""
    return max((abs(a - b) / abs(b) for a, b in zip(losses, others, strict=False)), default=0.0)


def _same(answers: list[str], others: list[str]) -> float:
    return sum(a == b for a, b in zip(answers, others, strict=False)) / max(1, len(others))


if __name__ == "__main__":
    raise SystemExit(main())
