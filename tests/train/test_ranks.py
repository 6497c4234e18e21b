"""Several ranks learn what one does: real processes, one rank with images only, the other with videos only."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equality import FLOAT32
from micro import ROOT, settings, write_machine
from rank_worker import STEPS, arrange, lose
from safetensors.torch import load_file

from videollava import cli
from videollava.model import checkpoint

HERE = Path(__file__).parent
OPTIONS = ["--params", str(ROOT / "videollava/profiles/tiny.yaml")]
RANKS = 2
VALIDATIONS = 10  # of a run, by default


def arguments(stage: str, *changes: str) -> list[str]:
    """The command line of a stage with the micro parameters."""
    given = {change.partition("=")[0] for change in changes}
    plain = (f"{name}.cache_features=false" for name in ("pretrain", "finetune"))
    chosen = settings(*(item for item in plain if item.partition("=")[0] not in given), *changes)
    return [stage, *OPTIONS, *(part for setting in chosen for part in ("--set", setting))]


def launch(
    folder: Path, stage: str, *changes: str, ranks: int = RANKS, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a stage on `ranks` processes in `folder`."""
    environment = {**os.environ, "PYTHONPATH": f"{HERE}:{ROOT}", "VIDEOLLAVA_FOLLOWED": "1", **environment}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.run(
        [*command, str(HERE / "rank_worker.py"), *arguments(stage, *changes)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,  # DeepSpeed compiles its own Adam once, for minutes
    )


def losses(folder: Path, stage: str, column: str = "loss") -> list[float]:
    """The loss of each step, as the run's curve has it."""
    with open(folder / "plots" / f"{stage}.csv") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


@pytest.fixture
def alone(workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Both stages (or one) in this process, on one rank."""
    arrange(monkeypatch.setattr)
    monkeypatch.setenv("VIDEOLLAVA_FOLLOWED", "1")

    def run(name: str, *stages: str) -> Path:
        folder = workspace(name)
        monkeypatch.chdir(folder)
        for stage in stages:
            assert cli.main(arguments(stage)) == 0
        return folder

    return run


def check_equal(ours: Path, expected: Path, stage: str) -> None:
    """The same losses, the same result, and nothing written twice."""
    found, wanted = losses(ours, stage), losses(expected, stage)
    assert len(found) == STEPS
    assert found == pytest.approx(wanted, abs=FLOAT32)
    assert found[-1] < found[0]
    for curve, column in (("held_out", "held_out_loss"), ("image", "loss_image"), ("video", "loss_video")):
        asked, answer = losses(ours, f"{stage}/{curve}", column), losses(expected, f"{stage}/{curve}", column)
        assert len(asked) == (VALIDATIONS if curve == "held_out" else STEPS)
        assert asked == pytest.approx(answer, abs=FLOAT32)
    assert len(list((ours / "runs" / stage).glob("*.jsonl"))) == 1
    file = {"pretrain": "projector/projector.safetensors", "finetune": "videollava/model.safetensors"}[stage]
    weights, others = load_file(ours / "models" / file), load_file(expected / "models" / file)
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=FLOAT32, msg=name)
    if stage == "finetune":
        assert checkpoint.load(ours / "models/videollava").tokenizer is not None


@pytest.mark.slow  # the next one holds the same, with two records less
def test_two_ranks_learn_as_one_does(alone: Callable[..., Path], workspace: Callable[[str], Path]) -> None:
    expected, ours = alone("one", "finetune"), workspace("two")
    done = launch(ours, "finetune")
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(ours, expected, "finetune")


def test_a_lost_record_makes_the_step_smaller_on_one_rank_and_on_two(
    alone: Callable[..., Path], workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32, 1e-5: the loss divides by the labels that were really read, on all ranks."""
    monkeypatch.setenv("LOSE", "3,30")
    lose(monkeypatch.setattr)
    expected, ours = alone("one", "finetune"), workspace("two")
    done = launch(ours, "finetune")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "records left out, their media did not decode" in done.stdout
    check_equal(ours, expected, "finetune")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sharded", "replicated", "zero2", "zero3"])
def test_both_stages_on_two_ranks_and_back_after_a_kill(
    alone: Callable[..., Path], workspace: Callable[[str], Path], strategy: str
) -> None:
    expected, ours = alone("one", "pretrain", "finetune"), workspace("two")
    write_machine(ours, strategy=strategy)
    for stage in ("pretrain", "finetune"):
        done = launch(ours, stage)
        assert done.returncode == 0, done.stderr[-3000:]
        check_equal(ours, expected, stage)
    # Killed at the fourth step: the rest is the same run.
    broken = workspace("broken")
    write_machine(broken, strategy=strategy)
    for name in ("models/projector",):
        (broken / name).mkdir(parents=True)
        for file in (ours / name).iterdir():
            (broken / name / file.name).write_bytes(file.read_bytes())
    assert launch(broken, "finetune", KILL_AFTER="3").returncode != 0
    assert not (broken / "models/videollava").exists()
    # A state in parts is for as many ranks as wrote it; a whole one goes on on any number.
    done = launch(broken, "finetune", ranks=1)
    if not strategy.startswith("zero"):
        assert done.returncode == 0, done.stderr[-3000:]
        check_equal(broken, expected, "finetune")
        return
    assert done.returncode != 0
    assert "made with ranks = 2, this run has 1" in done.stderr
    done = launch(broken, "finetune")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 3" in done.stdout
    assert losses(broken, "finetune") == losses(ours, "finetune")
    assert load_file(broken / "models/videollava/model.safetensors").keys()


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2-offload", "zero3-offload"])
def test_two_ranks_learn_in_the_hosts_memory_as_one_does(
    alone: Callable[..., Path], workspace: Callable[[str], Path], strategy: str
) -> None:
    """Float32, 1e-5, with DeepSpeed's own Adam."""
    expected, ours = alone("one", "finetune"), workspace("two")
    write_machine(ours, strategy=strategy)
    done = launch(ours, "finetune")
    assert done.returncode == 0, done.stderr[-3000:]
    check_equal(ours, expected, "finetune")


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 2), (2, 1)])
def test_a_run_that_was_killed_goes_on_on_another_number_of_ranks(
    alone: Callable[..., Path], workspace: Callable[[str], Path], before: int, after: int
) -> None:
    """Float32, 1e-5, to the uninterrupted run of one rank, over 20 steps."""
    expected, ours = alone("one", "finetune"), workspace("other")
    assert launch(ours, "finetune", ranks=before, KILL_AFTER="3").returncode != 0
    done = launch(ours, "finetune", ranks=after)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "goes on after step 3" in done.stdout
    check_equal(ours, expected, "finetune")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "adapter"), [("sharded", "lora"), ("zero3", "lora"), ("sharded", "qlora")]
)
def test_an_adapter_on_two_ranks(
    alone: Callable[..., Path], workspace: Callable[[str], Path], strategy: str, adapter: str
) -> None:
    ours = workspace("two")
    write_machine(ours, strategy=strategy)
    options = [
        f"finetune.adapter={adapter}",
        "finetune.lora={r: 4, alpha: 8, dropout: 0.0}",
    ]
    done = launch(ours, "finetune", *options, "finetune.cache_features=true")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("features of") == 1  # made once, by rank 0
    assert losses(ours, "finetune")[-1] < losses(ours, "finetune")[0]
    if strategy == "sharded":
        one = workspace("one")
        assert launch(one, "finetune", *options, "finetune.cache_features=true", ranks=1).returncode == 0
        assert losses(ours, "finetune") == pytest.approx(losses(one, "finetune"), abs=FLOAT32)
    names = load_file(ours / "models/videollava/adapter/adapter_model.safetensors")
    assert any("lora_B" in name and weight.abs().max() > 0 for name, weight in names.items())
    checkpoint.load(ours / "models/videollava")
