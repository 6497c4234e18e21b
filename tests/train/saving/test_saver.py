"""What the loop knows of saving: snapshots on the step, writes that fail, errors that don't stay silent, sums."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy import Run

from videollava.errors import InputError
from videollava.train.launch.fence import Superseded
from videollava.train.launch.meeting import Together
from videollava.train.saving import files, saver
from videollava.train.saving.parts import Index, Parts, Reading
from videollava.train.saving.places import KEEP, Damaged, FolderPlace, read_manifest
from videollava.train.saving.resuming import read_weights


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, dict[str, float]]]:
    """What goes into the journal."""
    told: list[tuple[int, dict[str, float]]] = []
    monkeypatch.setattr(saver, "log_metrics", lambda step, **values: told.append((step, values)))
    return told


class Gate(FolderPlace):
    """A folder whose `put` waits until it is told to go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reached, self.go = threading.Event(), threading.Event()

    def put(self, step: int, file: str) -> None:
        self.reached.set()
        assert self.go.wait(60)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path / "steps")
    yield made
    made.go.set()


def test_what_is_kept_is_the_step_of_the_snapshot_while_training_goes_on(
    tmp_path: Path, gate: Gate, logged: list[tuple[int, dict[str, float]]], capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, gate)
    run.learn(0)
    kept = {name: weight.detach().clone() for name, weight in run.model.named_parameters()}
    with run.saver as saving:
        saving.save(1, {"dropped": 3})
        assert gate.reached.wait(60)
        assert not saving.is_free()
        assert not saving.is_free()
        run.learn(1)
        assert gate.newest() is None  # not before all of it is there
        gate.go.set()
    assert capsys.readouterr().out.count("still being written: it waits for its turn") == 1
    found = gate.newest()
    assert found is not None
    assert (found.step, found.about["dropped"], found.about["engine"]) == (1, 3, "torch")
    weights = read_weights(gate, found)
    assert weights.keys() == {"first.weight", "first.bias", "second.weight", "scale"}
    assert all(torch.equal(weight, kept[name]) for name, weight in weights.items())
    assert not torch.equal(weights["first.weight"], run.model.first.weight)
    (stall, written) = logged
    assert stall[0] == written[0] == 1
    assert 0 < stall[1]["checkpoint_stall_seconds"] < 60
    sizes = sum(file.stat().st_size for file in Path(found.where).iterdir() if file.name != "manifest.json")
    assert written[1]["checkpoint_bytes"] == sizes
    assert written[1]["checkpoint_seconds"] > 0


def test_a_rank_file_is_safetensors_with_moments_by_name(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.go(2)
    tensors = load_file(tmp_path / "steps/step-00000002/rank-00000.safetensors")
    weight = run.model.first.weight
    moments = run.engine.optimizer.state[weight]
    assert torch.equal(tensors["optimizer/first.weight/exp_avg"], moments["exp_avg"])
    assert torch.equal(tensors["optimizer/first.weight/exp_avg_sq"], moments["exp_avg_sq"])
    assert float(tensors["optimizer/scale/step"]) == 2.0
    assert not [name for name in tensors if "frozen" in name]


def test_the_last_two_are_kept_and_any_number_of_steps_goes_on_bit_equal(tmp_path: Path) -> None:
    whole, broken = Run(tmp_path / "whole"), tmp_path / "broken"
    losses = whole.go(6)
    before = Run(broken).go(3)
    after = Run(broken)
    assert {**before, **after.go(6)} == losses
    assert all(
        torch.equal(one, other)
        for one, other in zip(after.model.parameters(), whole.model.parameters(), strict=True)
    )
    names = sorted(folder.name for folder in (broken / "steps").iterdir())
    assert names == ["step-00000005", "step-00000006"]
    assert len(names) == KEEP


class Failing(FolderPlace):
    """A place whose `where` fails at step 2."""

    def __init__(self, folder: Path, where: str, error: BaseException) -> None:
        super().__init__(folder)
        self.where, self.error = where, error

    def _fail(self, where: str, step: int) -> None:
        if where == self.where and step == 2:
            raise self.error

    def put(self, step: int, file: str) -> None:
        self._fail("put", step)

    def aside(self, step: int) -> Path:
        folder = super().aside(step)
        self._fail("aside", step)
        return folder

    def seal(self, step: int, manifest: Any) -> None:
        self._fail("seal", step)
        super().seal(step, manifest)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["put", "seal", "file"])
def test_a_write_that_fails_is_said_the_one_before_stays_and_training_goes_on(
    tmp_path: Path,
    where: str,
    logged: list[tuple[int, dict[str, float]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = Failing(tmp_path / "steps", where, FULL)
    run = Run(tmp_path, place)
    with run.saver as saving:
        for step in range(3):
            run.learn(step)
            with monkeypatch.context() as patch:
                if where == "file" and step == 1:
                    patch.setattr(files.Summing, "write", _full)
                saving.save(step + 1, {}, wait=True)
            if step == 1:
                found = place.newest()
                assert found is not None
                assert found.step == 1
                assert [file.name for file in place.folder.iterdir()] == ["step-00000001"]
    said = capsys.readouterr().out
    assert said.count("checkpoint of step 2 not written") == 1
    assert "No space left on device): the one before it stays" in said
    assert sorted(folder.name for folder in place.folder.iterdir()) == ["step-00000001", "step-00000003"]
    assert [step for step, values in logged if "checkpoint_bytes" in values] == [1, 3]


def _full(*_: Any) -> int:
    raise FULL


@pytest.mark.parametrize("where", ["put", "seal", "aside"])
@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), Superseded("one.0", "two.0")])
def test_what_is_no_failing_write_is_raised_in_the_loop(tmp_path: Path, where: str, error: Exception) -> None:
    run = Run(tmp_path, Failing(tmp_path / "steps", where, error))
    with pytest.raises(type(error)):
        run.go(3)
    assert FolderPlace(tmp_path / "steps").newest() is not None


def save_and_fail(run: Run, error: BaseException) -> None:
    with run.saver as saving:
        run.learn(0)
        saving.save(1, {})
        raise error


def test_a_run_that_fails_keeps_what_was_being_written(tmp_path: Path) -> None:
    place = Gate(tmp_path / "steps")
    run = Run(tmp_path, place)
    threading.Timer(0.2, place.go.set).start()
    with pytest.raises(InputError, match="no number"):
        save_and_fail(run, InputError("the loss is no number"))
    found = place.newest()
    assert found is not None
    assert found.step == 1


def test_one_that_hangs_is_dropped_when_the_run_fails_and_that_is_said(
    tmp_path: Path, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, gate)
    run.saver.patience = 0.1
    with pytest.raises(KeyboardInterrupt):
        save_and_fail(run, KeyboardInterrupt())
    assert "the checkpoint being written was dropped" in capsys.readouterr().out


def test_one_of_another_run_or_of_other_weights_is_refused(tmp_path: Path) -> None:
    Run(tmp_path).go(2)
    other = Run(tmp_path)
    other.saver.about["steps"] = 20
    with pytest.raises(
        InputError, match=r"made with steps = None, this run has 20; go on with the same steps"
    ):
        other.saver.resume()
    other = Run(tmp_path)
    other.model.second.requires_grad_(False)
    with pytest.raises(
        InputError, match=r"step-00000002: holds weights that don't learn here: second\.weight; it"
    ):
        other.saver.resume()
    other = Run(tmp_path)
    other.model.frozen.requires_grad_(True)
    with pytest.raises(InputError, match=r"lacks weights that learn here: frozen\.bias, frozen\.weight"):
        other.saver.resume()


def test_a_run_begins_from_a_checkpoint_of_another_one_where_it_has_none_itself(tmp_path: Path) -> None:
    losses = Run(tmp_path / "old").go(5)
    old = tmp_path / "old/steps/step-00000004"
    (tmp_path / "old/steps/step-00000005").rename(tmp_path / "last")
    run = Run(tmp_path / "new")
    assert run.saver.resume(old)[0] == 4
    assert run.learn(4) == losses[4]
    Run(tmp_path / "new").go(2)
    assert Run(tmp_path / "new").saver.resume(old)[0] == 2
    other = Run(tmp_path / "other")
    other.saver.about["samples"] = 80
    with pytest.raises(
        InputError, match=r"step-00000004: made with samples = None, this run has 80: what it has"
    ):
        other.saver.resume(old)
    with pytest.raises(InputError, match=r"nowhere: not a whole checkpoint: manifest\.json"):
        Run(tmp_path / "none").saver.resume(tmp_path / "nowhere")


def test_an_index_or_a_file_from_elsewhere_runs_no_code_and_is_no_checkpoint(tmp_path: Path) -> None:
    """Nothing that is read is a pickle; sums are checked before anything of the model changes."""
    Run(tmp_path).go(2)
    newest = tmp_path / "steps/step-00000002"
    assert not [file for file in newest.iterdir() if b"ctorch" in file.read_bytes()]
    data = bytearray((newest / "rank-00000.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "rank-00000.safetensors").write_bytes(data)
    with pytest.raises(
        InputError, match=r"not a whole checkpoint: rank-00000\.safetensors isn't what was written"
    ):
        read_weights(FolderPlace(newest.parent), read_manifest(newest))
    run = Run(tmp_path)
    assert run.saver.resume()[0] == 1
    (newest / "rank-00000.safetensors").write_bytes(data[:-1])
    with pytest.raises(Damaged, match=r"rank-00000\.safetensors: of another size"):
        read_manifest(newest)
    manifest = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(manifest | {"format": 3}))
    with pytest.raises(InputError, match="checkpoint format 3 is newer than this program's 2"):
        run.saver.resume()


def test_a_disk_too_small_is_refused_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    monkeypatch.setattr(run.saver.kept, "nbytes", lambda: free)
    with pytest.raises(
        InputError, match=r"3 checkpoints of .* GB at a time need .* GB more, and .* GB are free"
    ):
        run.saver.resume()


def test_what_other_kinds_of_weights_take(tmp_path: Path) -> None:
    """Each element type, shapes with nothing in them, and a layout that keeps every type aligned."""
    values = {
        "half": torch.arange(3, dtype=torch.bfloat16),
        "none": torch.zeros(0, 4),
        "whole": torch.tensor(7, dtype=torch.int64),
        "bit": torch.tensor([True, False, True]),
        "double": torch.arange(2, dtype=torch.float64),
    }
    parts = Parts(Together())
    parts.snapshot(values)
    sums = parts.write(tmp_path)
    assert {name: files.sum_of(tmp_path / name) for name in sums} == sums
    index = Index.read(tmp_path)
    read = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in index.kept().items()}
    Reading(index, read).read(tmp_path)
    assert read.keys() == values.keys()
    assert all(
        torch.equal(read[name], value) and read[name].dtype == value.dtype for name, value in values.items()
    )
