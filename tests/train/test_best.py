"""`take: best`: a stage ends with the weights of its lowest held-out loss, interrupted or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file

from videollava.errors import InputError
from videollava.machine import Machine
from videollava.train import loop, pretrain

TAKES_BEST = ("pretrain.take=best", "pretrain.validations=7")
LOSSES = (3.0, 1.0, 2.0, 1.5, 4.0, 1.0, 5.0)  # of seven steps: lowest after the second, and no lower later


class Killed(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


def projector(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models/projector/projector.safetensors")


class Measured:
    """Held-out losses as LOSSES has them; what had been learned when each was asked for. Killed after step `kill`."""

    def __init__(self, patch: pytest.MonkeyPatch, kill: int = 0) -> None:
        self.learned: dict[int, dict[str, torch.Tensor]] = {}
        self.kill, self.done = kill, 0
        real = loop._learn

        def learn(job: Any, model: Any, taken: Any, rate: float) -> Any:
            self.done = taken.number + 1
            return real(job, model, taken, rate)

        patch.setattr(loop, "_learn", learn)
        patch.setattr(loop, "held_out_loss", self.ask)

    def ask(self, _: Any, model: Any, *__: Any) -> float:
        if self.done == self.kill:
            raise Killed
        self.learned[self.done] = {
            name.rpartition("multi_modal_projector.")[2]: weight.detach().clone()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        return LOSSES[self.done - 1]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_lowest_is_taken_and_the_last_without_it(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured, folder = Measured(monkeypatch), workspace("best")
    pretrain.run(micro(*TAKES_BEST), folder, MACHINE)
    assert sorted(measured.learned) == [1, 2, 3, 4, 5, 6, 7]
    assert same(projector(folder), measured.learned[2])
    assert not same(projector(folder), measured.learned[7])
    said = "ends with the weights of step 2 of 7, whose held-out loss was lowest (1)"
    assert said in capsys.readouterr().out
    pretrain.run(micro("pretrain.validations=7"), folder, MACHINE)
    assert same(projector(folder), measured.learned[7])


@pytest.mark.parametrize("kill", [2, 4, 7])
def test_killed_and_resumed_it_is_the_same(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, kill: int
) -> None:
    """Bit-equal: the best so far goes with the checkpoints."""
    folder = workspace("killed")
    with monkeypatch.context() as patch:
        measured = Measured(patch, kill)
        with pytest.raises(Killed):
            pretrain.run(micro(*TAKES_BEST), folder, MACHINE)
    later = Measured(monkeypatch)
    pretrain.run(micro(*TAKES_BEST), folder, MACHINE)
    assert min(later.learned) == kill  # it went on from the checkpoint of the step before
    assert same(projector(folder), (later.learned if kill <= 2 else measured.learned)[2])


def test_where_nothing_can_tell_it_is_refused(workspace: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"pretrain\.take: best needs held-out records"):
        pretrain.run(micro("pretrain.take=best", "pretrain.validations=0"), workspace("none"), MACHINE)
    machine = Machine(**{**dict(MACHINE), "strategy": "zero2"})
    with pytest.raises(InputError, match="strategy zero2: DeepSpeed keeps no second copy"):
        pretrain.run(micro("pretrain.take=best"), workspace("zero"), machine)
