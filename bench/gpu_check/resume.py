"""Kill -9 in the middle of stage 2, and resume: the weights of the run that nothing disturbed.

Two undisturbed runs beside it tell what this card's kernels leave open by themselves.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from bench.gpu_check.tiny import ROOT, settings
from bench.gpu_check.told import tell

KILLED_AFTER = 10  # steps
NEAR = 1e-4  # relative: the largest difference of a tensor, where two undisturbed runs differ too
TIMES = 3  # that of the two undisturbed ones, where it is more


def main(argv: Sequence[str] | None = None) -> int:
    """1 where the resumed run's weights are others."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--small", action="store_true", help="two epochs, and no second undisturbed run")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        whole, again, broken = (Path(folder) / name for name in ("whole", "again", "broken"))
        for workspace in (whole, again, broken):
            shutil.copytree(arguments.bundle / "tiny", workspace)
            (workspace / "machine.yaml").write_text("checkpoint_minutes: 0\nworkers: 0\n")
        epochs = 2 if arguments.small else 4
        undisturbed = {
            place: start(place, epochs) for place in ((whole,) if arguments.small else (whole, again))
        }
        killed = kill_on_the_way(broken, epochs)
        ended = start(broken, epochs).wait()
        codes = {place.name: process.wait() for place, process in undisturbed.items()}
        if ended or any(codes.values()):
            tell("finetune", resumed_exit=ended, exits=str(codes))
            return 1
        off = difference(broken, whole)
        figures = {} if arguments.small else {"undisturbed_twice_off_by": difference(again, whole)}
        equal = "bit for bit" if off == 0 else "no"
        tell("finetune, float32", killed_after_step=killed, equal=equal, resumed_off_by=off, **figures)
        twice = figures.get("undisturbed_twice_off_by", 0.0)
        allowed = max(NEAR, TIMES * twice) if twice else 0.0
        return int(off > allowed)


def start(workspace: Path, epochs: int) -> subprocess.Popen[bytes]:
    """`videollava finetune` there, in float32, a checkpoint each step."""
    changes = settings(f"finetune.epochs={epochs}", "finetune.precision=fp32")
    options = [part for setting in changes for part in ("--set", setting)]
    profile = str(ROOT / "videollava/profiles/tiny.yaml")
    command = [sys.executable, "-m", "videollava", "finetune", "--params", profile, *options]
    return subprocess.Popen(command, cwd=workspace)


def kill_on_the_way(workspace: Path, epochs: int) -> int:
    """Kill -9 once some steps are done; the newest checkpoint's step."""
    running = start(workspace, epochs)
    while newest(workspace) < KILLED_AFTER:
        if running.poll() is not None:
            raise SystemExit(f"it ended ({running.returncode}) before it was killed")
        time.sleep(0.001)
    running.kill()
    running.wait()
    return newest(workspace)


def newest(workspace: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    found = (workspace / "checkpoints").glob("finetune-*/step-????????")
    return max((int(folder.name[5:]) for folder in found), default=0)


def difference(one: Path, other: Path) -> float:
    """Of all weights, the largest by that of its tensor; 0.0: equal bit for bit."""
    mine, theirs = (load_file(place / "models/videollava/model.safetensors") for place in (one, other))
    return max(
        float((mine[name] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for name, value in theirs.items()
    )


if __name__ == "__main__":
    raise SystemExit(main())
