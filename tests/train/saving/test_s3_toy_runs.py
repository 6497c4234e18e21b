"""Toy runs whose checkpoints stand in S3: no fault of store or disk ends a training, or changes a digit of it."""

from __future__ import annotations

import re
import resource
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from door import Door
from stores import reach, serving
from toy import Run

from videollava.data.acquire.s3_client import Access
from videollava.errors import InputError
from videollava.train.launch.fence import Superseded
from videollava.train.saving import objects, s3
from videollava.train.saving.objects import Objects
from videollava.train.saving.places import FolderPlace
from videollava.train.saving.s3 import S3Place

STEPS = 6


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """The way to a server with the bucket `runs`."""
    with serving(tmp_path_factory.mktemp("seaweed")) as server, Door(server.ports[0]) as door:
        server.client().create_bucket(Bucket="runs")
        yield door


@pytest.fixture
def place(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> S3Place:
    for name, value in reach(door.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(objects, "ATTEMPTS", 1)
    monkeypatch.setattr(s3, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(s3, "LONGEST_PAUSE", 0.2)
    found = Objects("runs", f"{request.node.name}/", Access(), "machine.yaml: checkpoint_place")
    return S3Place(found, tmp_path / "spool", "first")


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], dict[str, torch.Tensor]]:
    """Losses and weights of the run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    run = Run(folder, FolderPlace(folder / "steps"))
    return run.go(STEPS), run.weights()


def check(
    run: Run, losses: dict[int, float], wanted: tuple[dict[int, float], dict[str, torch.Tensor]]
) -> None:
    assert losses == {step: wanted[0][step] for step in losses}
    for name, weight in run.weights().items():
        assert torch.equal(weight, wanted[1][name]), name


def before_step(run: Run, step: int, do: Callable[[], Any]) -> None:
    """Have something happen before a step is learned."""
    real = run.learn

    def learn(number: int) -> float:
        if number == step:
            do()
        return real(number)

    run.learn = learn  # type: ignore[method-assign]


def test_a_fresh_machine_goes_on_in_the_same_digits(place: S3Place, tmp_path: Path, wanted: Any) -> None:
    Run(tmp_path, place).go(3)
    fresh = Run(tmp_path, replace(place, spool=tmp_path / "elsewhere", attempt="second"))
    losses = fresh.go(STEPS)
    assert sorted(losses) == [3, 4, 5]
    check(fresh, losses, wanted)


def test_the_store_is_away_for_two_saves(
    place: S3Place,
    door: Door,
    tmp_path: Path,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(s3, "PATIENCE", 0.2)
    run = Run(tmp_path, place)
    before_step(run, 2, door.shut)  # while the second is being sent, perhaps
    before_step(run, 4, door.open)
    losses = run.go(STEPS)
    told = capsys.readouterr().out
    given_up = re.findall(
        r"checkpoint of step (\d) not written \(rank 0: s3://runs/.*\): the one before it stays", told
    )
    assert 1 <= len(given_up) <= 4
    assert "3" in given_up
    check(run, losses, wanted)
    whole = place.newest()
    assert whole is not None
    assert whole.step == STEPS


def test_the_store_comes_back_in_time(
    place: S3Place, door: Door, tmp_path: Path, wanted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, place)

    def shut() -> None:
        door.shut()
        threading.Timer(0.7, door.open).start()

    before_step(run, 2, shut)
    losses = run.go(STEPS)
    told = capsys.readouterr().out
    assert "trying again for 10 minutes" in told
    assert "answers again, after" in told
    assert "not written" not in told
    check(run, losses, wanted)


def test_the_disk_is_full_for_a_save(
    place: S3Place,
    tmp_path: Path,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The system refuses to write more: a limit on the size of files."""
    aside, before = S3Place.aside, resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin(place: S3Place, step: int) -> Path:
        folder = aside(place, step)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if step == 3 else before[0], before[1]))
        return folder

    monkeypatch.setattr(S3Place, "aside", begin)
    run = Run(tmp_path, place)
    drop = S3Place.drop

    def end(place: S3Place, step: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        drop(place, step)

    monkeypatch.setattr(S3Place, "drop", end)
    try:
        losses = run.go(STEPS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().out
    assert "checkpoint of step 3 not written (rank 0: File too large): the one before it stays" in told
    check(run, losses, wanted)


def test_another_machine_begins_the_same(place: S3Place, tmp_path: Path, wanted: Any) -> None:
    """It goes on from what stands, and the earlier one ends with a sentence at its next checkpoint."""
    first = Run(tmp_path, place)
    later = Run(tmp_path, replace(place, spool=tmp_path / "elsewhere", attempt="second"))
    losses: dict[int, float] = {}
    before_step(first, 3, lambda: losses.update(later.go(STEPS)))
    with pytest.raises(
        Superseded, match=r"s3://runs/.*another run of this stage, on .*, is at work there since"
    ) as told:
        first.go(STEPS)
    assert isinstance(told.value, InputError)  # told in one line, and not tried again
    assert min(losses) in (2, 3)
    check(later, losses, wanted)
