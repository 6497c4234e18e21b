"""Training is the same run however often it is killed, and finished training is left alone."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import MACHINE, ROOT, micro, settings

from videollava.data.prepare.tables import load_split
from videollava.errors import InputError
from videollava.tracking import input_key, track, write_curve
from videollava.train import finetune, loop, pretrain


class Killed(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


def weights(workspace: Path) -> str:
    """Hash of the final model's weights."""
    return hashlib.sha256((workspace / "models/videollava/model.safetensors").read_bytes()).hexdigest()


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real = loop._learn
    done = []

    def learn(*arguments: object) -> object:
        if len(done) == step:
            raise Killed
        done.append(1)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_learn", learn)


@pytest.mark.parametrize("step", [0, 1, 3])
def test_killed_at_any_step_ends_with_the_same_weights(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    params = micro("finetune.epochs=2")
    whole, broken = workspace("whole"), workspace("broken")
    for folder in (whole, broken):
        pretrain.run(params, folder, MACHINE)
    finetune.run(params, whole, MACHINE)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            finetune.run(params, broken, MACHINE)
    assert not (broken / "models/videollava").exists()
    finetune.run(params, broken, MACHINE)
    assert weights(broken) == weights(whole)


def test_a_checkpoint_belongs_to_the_parameters_in_use(workspace: Callable[[str], Path]) -> None:
    """`--set` leaves params.yaml as it is: training under other values must not go on from there."""
    folder = workspace("graph")
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    given, other = (
        input_key(folder, "pretrain", used=micro(*change)) for change in ((), ("pretrain.clip=0.5",))
    )
    assert given == input_key(folder, "pretrain", used=micro("finetune.clip=5.0"))
    assert given != other


def test_a_loss_that_is_no_number_names_the_step_its_records_and_what_to_do(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder = micro(), workspace("broken")
    pretrain.run(params, folder, MACHINE)
    real = loop._learn

    def learn(*given: object) -> object:
        figures = real(*given)  # type: ignore[arg-type]
        figures.sums[0] = float("nan")
        return figures

    monkeypatch.setattr(loop, "_learn", learn)
    ids = load_split(folder / "data/index", "finetune")["id"].to_pylist()
    with pytest.raises(
        InputError,
        match=r"the loss of step 1 is nan \(no record of this rank has such a loss by itself; this rank's records: ",
    ) as caught:
        finetune.run(params, folder, MACHINE)
    named = str(caught.value).partition("records: ")[2].partition(")")[0].split(", ")
    assert 1 < len(named) <= params.finetune.batch_size
    assert set(named) <= set(ids)
    assert "lower finetune.learning_rate (now 0.001)" in str(caught.value)


def test_the_gradients_norm_stands_in_the_curve(workspace: Callable[[str], Path]) -> None:
    folder = workspace("whole")
    with track("pretrain", micro(), folder):
        pretrain.run(micro(), folder, MACHINE)
        write_curve(folder / "plots/pretrain.csv")
    with open(folder / "plots/pretrain.csv") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(float(row["gradient_norm"]) > 0 for row in rows)


def newest(workspace: Path) -> int:
    """Step of the newest checkpoint, 0 without one."""
    found = (workspace / "checkpoints").glob("finetune-*/step-????????")
    return max((int(folder.name[5:]) for folder in found), default=0)


@pytest.mark.slow
def test_ten_real_kills_on_the_way_change_no_bit(workspace: Callable[[str], Path]) -> None:
    whole, broken = workspace("whole"), workspace("broken")
    params = micro("finetune.epochs=12")
    for folder in (whole, broken):
        pretrain.run(params, folder, MACHINE)
    finetune.run(params, whole, MACHINE)
    options = ["--params", str(ROOT / "videollava/profiles/tiny.yaml")]
    options += [part for setting in settings("finetune.epochs=12") for part in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIDEOLLAVA_FOLLOWED": "1", "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "videollava", "finetune", *options]
        return subprocess.Popen(command, cwd=broken, env=environment, stdout=subprocess.DEVNULL)

    draw, kills = random.Random(0), 0
    samples = load_split(whole / "data/index", "finetune").num_rows
    steps = 12 * math.ceil(samples / params.finetune.batch_size)
    while kills < 10:
        running, target = start(), min(newest(broken) + draw.randint(1, max(1, steps // 14)), steps - 1)
        while newest(broken) < target and running.poll() is None:
            time.sleep(0.001)
        time.sleep(draw.random() * 0.05)  # anywhere: in a step, in a checkpoint being written
        assert running.poll() is None, "it ended before it was killed"
        running.kill()
        running.wait()
        kills += 1
    assert not (broken / "models/videollava").exists()
    assert start().wait() == 0
    assert weights(broken) == weights(whole)


@pytest.mark.parametrize("damage", ["torn", "changed", "manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    workspace: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: str,
) -> None:
    params, folder = micro("finetune.epochs=2"), workspace("damaged")
    pretrain.run(params, folder, MACHINE)
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            finetune.run(params, folder, MACHINE)
    (checkpoints,) = (folder / "checkpoints").glob("finetune-*")
    before, last = sorted(checkpoints.glob("step-*"))
    file = last / ("manifest.json" if damage == "manifest" else "rank-00000.safetensors")
    data = bytearray(file.read_bytes())
    if damage == "changed":
        data[-1] ^= 1
    file.write_bytes(data if damage == "changed" else data[: len(data) // 2])
    capsys.readouterr()
    finetune.run(params, folder, MACHINE)
    said = capsys.readouterr().out
    assert "is damaged" in said
    assert f"goes on after step {int(before.name[5:])} of" in said


def test_a_finished_stage_leaves_no_checkpoints(workspace: Callable[[str], Path]) -> None:
    params, folder = micro(), workspace("done")
    pretrain.run(params, folder, MACHINE)
    finetune.run(params, folder, MACHINE)
    assert not [*(folder / "checkpoints").glob("pretrain-*"), *(folder / "checkpoints").glob("finetune-*")]
