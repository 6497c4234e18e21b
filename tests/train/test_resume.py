"""Training is the same run however often it is killed, and finished training is left alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import micro

from videollava.errors import InputError
from videollava.train import finetune, loop, pretrain
from videollava.train.state import find_checkpoint


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
        pretrain.run(params, folder)
    finetune.run(params, whole)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            finetune.run(params, broken)
    assert not (broken / "models/videollava").exists()
    finetune.run(params, broken)
    assert weights(broken) == weights(whole)


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(
    workspace: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    params, folder = micro(), workspace("torn")
    pretrain.run(params, folder)
    finetune.run(params, folder)
    expected = weights(folder)
    (checkpoints,) = (folder / "checkpoints").glob("finetune-*")
    newest = sorted(checkpoints.glob("step-*"))[-1]
    data = (newest / "state.pt").read_bytes()
    (newest / "state.pt").write_bytes(data[: len(data) // 2])
    found = find_checkpoint(checkpoints)
    assert found is not None
    assert found.folder < newest
    capsys.readouterr()
    finetune.run(params, folder)
    said = capsys.readouterr().out
    assert "damaged" in said
    assert "goes on after step" in said
    assert weights(folder) == expected


def test_a_finished_run_resumed_learns_nothing_more(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder = micro(), workspace("done")
    pretrain.run(params, folder)
    finetune.run(params, folder)
    expected = weights(folder)
    kill_at(monkeypatch, 0)
    finetune.run(params, folder)
    assert weights(folder) == expected


def test_another_number_of_ranks_is_refused_with_the_way_out(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder = micro(), workspace("ranks")
    pretrain.run(params, folder)
    real = loop._about
    monkeypatch.setattr(loop, "_about", lambda job: real(job) | {"ranks": 4})
    with pytest.raises(InputError, match="made with ranks = 1, this run has 4"):
        pretrain.run(params, folder)
