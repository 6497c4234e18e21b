"""Wrong set-ups are one sentence with a remedy, before any work."""

from __future__ import annotations

import json
import resource
from collections import namedtuple
from pathlib import Path

import pytest
from micro import micro

from videollava.errors import InputError
from videollava.machine.sections import Work
from videollava.train.launch import setup

Space = namedtuple("Space", "f_bavail f_frsize")


def test_slurm_without_sbatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        InputError, match=r"launcher is slurm, and there is no sbatch here: .* launcher: local"
    ):
        setup.check_launcher(Work(launcher="slurm", gpus=0))
    setup.check_launcher(Work(processes=2, gpus=0))


def test_fewer_gpus_than_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(setup, "count_gpus", lambda: 1)
    with pytest.raises(
        InputError, match="gpus is 4, and 1 is here: set gpus: 1, or see what CUDA_VISIBLE_DEVICES"
    ):
        setup.check_host("finetune", Work(gpus=4), micro(), tmp_path)
    setup.check_host("prepare", Work(gpus=4), micro(), tmp_path)  # needs none


def test_shared_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    work = Work(gpus=0, processes=8, workers=8, tokens_per_pack=16384)
    monkeypatch.setattr(setup.os, "statvfs", lambda path: Space(16384, 4096))
    with pytest.raises(
        InputError, match=r"has 64 MiB free, and 64 loading processes may need \d+: .*--shm-size=\d+m"
    ):
        setup.check_host("finetune", work, micro(), tmp_path, memory=tmp_path)
    setup.check_host("finetune", work.replace(workers=0), micro(), tmp_path, memory=tmp_path)


def test_open_files_are_raised_to_the_limit_and_found_too_few(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index = tmp_path / "data/index"
    index.mkdir(parents=True)
    (index / "shards.json").write_text(json.dumps([{}] * 30))
    limits, raised = (64, 256), []
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda which, values: raised.append(values))
    with pytest.raises(
        InputError, match=r"256 files open here, and 286 are needed \(30 shards\): raise the hard"
    ):
        setup.check_host("finetune", Work(gpus=0, workers=0), micro(), tmp_path)
    assert raised == [(256, 256)]
