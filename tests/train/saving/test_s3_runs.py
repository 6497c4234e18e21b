"""Runs whose checkpoints stand in S3: a fresh machine goes on from there, and no fault of the store ends a training."""

from __future__ import annotations

import hashlib
import re
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from door import Door
from micro import MACHINE, micro
from safetensors.torch import load_file
from stores import reach, serving

from videollava.errors import InputError
from videollava.machine import Machine
from videollava.train import finetune, instruct, loop, pretrain
from videollava.train.launch.fence import Superseded
from videollava.train.look_in import find, write_model
from videollava.train.saving import holder, objects, s3
from videollava.train.saving.s3 import S3Place

pytestmark = pytest.mark.slow  # test_s3_toy_runs.py shows the same in seconds, of a toy
PARAMS = micro("finetune.epochs=2")
PLACE = "s3://runs/video"


class Killed(BaseException):
    """Stands for kill -9: nothing in the program catches it."""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The way to a server with the bucket `runs`."""
    with serving(tmp_path_factory.mktemp("seaweed")) as server, Door(server.ports[0]) as door:
        server.client().create_bucket(Bucket="runs")
        yield door


@pytest.fixture
def store(door: Door, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of it; its environment, and patience of a test."""
    import boto3
    from botocore.config import Config

    for name, value in reach(door.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.2)
    return boto3.session.Session().client("s3", config=Config(proxies={}))


@pytest.fixture(scope="module")
def whole(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which stage 2 was never interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "work"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("raw", "checkpoints", "runs"))
    pretrain.run(PARAMS, folder, MACHINE)
    finetune.run(PARAMS, folder, MACHINE)
    return folder


@pytest.fixture
def machine(whole: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Fresh machines with stage 1 done, by name."""

    def copy(name: str) -> Path:
        kept = shutil.ignore_patterns("checkpoints", "videollava")
        return Path(shutil.copytree(whole, tmp_path / name, ignore=kept))

    return copy


def weights(workspace: Path) -> str:
    """Hash of the final model's weights."""
    return hashlib.sha256((workspace / "models/videollava/model.safetensors").read_bytes()).hexdigest()


def away() -> Machine:
    """MACHINE, its checkpoints in S3."""
    return MACHINE.replace(checkpoint_place=PLACE)


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]) -> None:
    """Have something happen before a step, from 0 on, is learned; once."""
    real, done = loop._learn, []

    def learn(*arguments: object) -> object:
        done.append(1)
        if len(done) == step + 1:
            do()
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_learn", learn)


def kill() -> None:
    raise Killed


def listed(store: Any) -> list[str]:
    return [entry["Key"] for entry in store.list_objects_v2(Bucket="runs").get("Contents", ())]


def test_a_fresh_machine_goes_on_from_the_store_bit_by_bit(
    whole: Path,
    machine: Callable[[str], Path],
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost, fresh = machine("lost"), machine("fresh")
    with monkeypatch.context() as patch:
        at_step(patch, 4, kill)
        with pytest.raises(Killed):
            finetune.run(PARAMS, lost, away())
    steps = sorted({re.findall(r"step-\d+", key)[0] for key in listed(store) if "/step-" in key})
    assert 1 <= len(steps) <= 3
    assert not list((lost / "checkpoints").glob("finetune-*/step-*/*"))
    shutil.rmtree(lost)
    monkeypatch.setattr(holder, "_named", [])  # another process
    capsys.readouterr()
    finetune.run(PARAMS, fresh, away())
    assert re.search(r"goes on after step [234] of ", capsys.readouterr().out)
    assert weights(fresh) == weights(whole)
    assert listed(store) == []  # the outputs are sealed
    assert not list((fresh / "checkpoints").glob("finetune-*"))


def test_training_goes_on_while_the_store_is_away_and_says_so(
    whole: Path,
    machine: Callable[[str], Path],
    store: Any,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Away for two saves, each given up after a moment; then the next takes its place."""
    folder = machine("work")
    monkeypatch.setattr(s3, "PATIENCE", 0.3)
    at_step(monkeypatch, 2, door.shut)
    real = S3Place.drop
    dropped: list[int] = []

    def drop(place: S3Place, step: int) -> None:
        dropped.append(step)
        if len(dropped) == 2:
            door.open()
        real(place, step)

    monkeypatch.setattr(S3Place, "drop", drop)
    finetune.run(PARAMS, folder, away())
    told = capsys.readouterr().out
    assert len(dropped) == 2
    for step in dropped:
        assert re.search(
            rf"checkpoint of step {step} not written \(.*s3://runs/.*: the one before it stays", told
        )
    assert weights(folder) == weights(whole)
    assert listed(store) == []


def test_a_store_that_comes_back_gets_the_save_that_waited(
    whole: Path,
    machine: Callable[[str], Path],
    store: Any,
    door: Door,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = machine("work")

    def shut() -> None:
        door.shut()
        threading.Timer(1.0, door.open).start()

    at_step(monkeypatch, 2, shut)
    finetune.run(PARAMS, folder, away())
    told = capsys.readouterr().out
    assert "trying again for 10 minutes" in told
    assert "answers again, after" in told
    assert "not written" not in told
    assert weights(folder) == weights(whole)


def test_a_full_disk_on_the_way_is_said_and_training_goes_on(
    whole: Path,
    machine: Callable[[str], Path],
    store: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system refuses to write more: a limit on a file's size, here, and no file larger than it."""
    folder = machine("work")
    aside, drop, before = S3Place.aside, S3Place.drop, resource.getrlimit(resource.RLIMIT_FSIZE)
    full: list[int] = []

    def begin(place: S3Place, step: int) -> Path:
        found = aside(place, step)
        if step == 3 and not full:
            full.append(step)
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        return found

    def end(place: S3Place, step: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        drop(place, step)

    monkeypatch.setattr(S3Place, "aside", begin)
    monkeypatch.setattr(S3Place, "drop", end)
    try:
        finetune.run(PARAMS, folder, away())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().out
    assert "checkpoint of step 3 not written (rank 0: File too large): the one before it stays" in told
    assert full == [3]
    assert weights(folder) == weights(whole)


def test_a_place_that_cannot_be_used_refuses_before_any_training(
    machine: Callable[[str], Path], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("work")
    monkeypatch.setattr(s3, "PATIENCE_AT_START", 0.1)
    at_step(monkeypatch, 0, lambda: pytest.fail("it trained"))
    for address, message in {
        "s3://no-such-bucket/x": r"machine.yaml: checkpoint_place: s3://no-such-bucket/x/finetune-.*create the bucket",
        str(
            folder / "params.yaml"
        ): r"params.yaml/finetune-.*can't be written there: Not a directory.*checkpoint_place",
    }.items():
        with pytest.raises(InputError, match=message):
            finetune.run(PARAMS, folder, MACHINE.replace(checkpoint_place=address))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match=r"machine.yaml: checkpoint_place: .*credentials"):
        finetune.run(PARAMS, folder, away())


@pytest.mark.parametrize("address", [PLACE, "shared"])
def test_of_two_runs_of_one_key_the_later_ends_alone_and_right(
    whole: Path,
    machine: Callable[[str], Path],
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    """Two machines at once: the second begins while the first is between two steps, and ends before it goes on."""
    first, second = machine("first"), machine("second")
    where = MACHINE.replace(checkpoint_place=address if "://" in address else str(tmp_path / address))

    def begin_second() -> None:
        names, holder._named = holder._named, []
        finetune_again()
        holder._named = names

    def finetune_again() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_learn", real)
            # It is killed at the end: what it kept stays there.
            patch.setattr(S3Place, "clear", lambda place: None)
            patch.setattr("videollava.train.saving.places.FolderPlace.clear", lambda place: None)
            finetune.run(PARAMS, second, where)

    real = loop._learn
    at_step(monkeypatch, 3, begin_second)
    with pytest.raises(Superseded, match=r"another run of this stage, on .*, is at work there since"):
        finetune.run(PARAMS, first, where)
    assert weights(second) == weights(whole)
    assert not (first / "models/videollava").exists()


def test_what_a_stage_has_learned_so_far_is_asked_of_the_store(
    store: Any, machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Every step is kept there and the result not written: its newest checkpoint is that result, each weight."""
    folder, place = machine("looked-in"), "s3://runs/looked-in"
    kept = Machine(**{**dict(MACHINE), "checkpoint_place": place})

    def save(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(instruct, "_save", save)
        patch.setattr(instruct, "Job", partial(instruct.Job, followed=True))
        with pytest.raises(Killed):
            finetune.run(PARAMS, folder, kept)
    seen = find("finetune", folder, kept, tmp_path / "aside")
    assert seen.whole.where.startswith(f"{place}/finetune-")
    write_model(seen, PARAMS, folder / "models", tmp_path / "model")
    finetune.run(PARAMS, folder, kept)
    ours, made = (
        load_file(one / "model.safetensors") for one in (tmp_path / "model", folder / "models/videollava")
    )
    assert ours.keys() == made.keys()
    assert all(torch.equal(ours[name], made[name]) for name in made)
