"""How a run ends before its end: stopped and resumed it is the whole run; finished, what it had learned."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MACHINE, micro

from videollava import tracking
from videollava.ends import AGAIN, BUDGET, INTERRUPTED, Ended
from videollava.errors import InputError
from videollava.machine import Cost, Machine
from videollava.tracking import track
from videollava.tracking.spent import read_notes
from videollava.train import finetune, loop, pretrain
from videollava.train.ending import Asked, ask_to_finish, heeding
from videollava.train.going_on import VARIABLE, other_checkpoint, settle_other
from videollava.train.late import Late
from videollava.train.spending import Spending
from videollava.train.wishes import COLUMNS, Decision, Wishes, decide

FREE = Spending(Cost(), 1, False, 0.0)


def weights(workspace: Path) -> str:
    """Hash of the final model's weights."""
    return hashlib.sha256((workspace / "models/videollava/model.safetensors").read_bytes()).hexdigest()


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[Any], object]) -> list[int]:
    """Have `act` do with the job in the middle of a step (from 0); the list that gets the numbers of the steps done."""
    real, done = loop._learn, []

    def learn(*arguments: Any) -> object:
        figures = real(*arguments)
        if len(done) == step:
            act(arguments[0])
        done.append(figures.step)
        return figures

    monkeypatch.setattr(loop, "_learn", learn)
    return done


def send(number: signal.Signals) -> Callable[[Any], None]:
    return lambda _: os.kill(os.getpid(), number)


def test_ranks_sums_decide_and_each_wish_has_its_column() -> None:
    assert decide(None) == Decision()
    for column, name in enumerate(("save", "stop", "finish", "over_budget")):
        sums = torch.zeros(COLUMNS, dtype=torch.int64)
        sums[column] = 3  # of three ranks
        assert decide(Late(sums)) == Decision(**{name: True})
    assert decide(Late(torch.tensor([0, 0, 1, 0])), learned=False) == Decision()


def test_rank_0_alone_wishes_by_its_clock_once_for_each_checkpoint() -> None:
    now = [0.0]
    first, other = (Wishes(rank, 15.0, Asked(), FREE, clock=lambda: now[0]) for rank in (0, 1))
    assert first.columns() == (0, 0, 0, 0)
    now[0] = 15 * 60.0
    assert (first.columns()[0], other.columns()[0]) == (1, 0)
    now[0] += 1.0  # wished for, not yet made
    assert first.columns()[0] == 0
    first.begin()
    now[0] += 15 * 60.0 - 1.0
    assert first.columns()[0] == 0
    now[0] += 1.0
    assert first.columns()[0] == 1
    always = Wishes(0, 0.0, Asked(), FREE)
    assert [always.columns()[0] for _ in range(3)] == [1, 1, 1]


def test_money_counts_all_ranks_and_what_was_spent_before() -> None:
    now = [0.0]
    spending = Spending(Cost(per_gpu_hour=2.5, ceiling=100.0), 8, True, 32.0, lambda: now[0])
    now[0] = 3600.0 - 1
    assert not spending.over
    now[0] = 3600.0
    assert spending.over  # 32 + 8 hours at 2.5
    assert spending.in_words() == "100.00 USD are spent (40.00 GPU-hours at 2.5)"
    assert not Spending(Cost(per_gpu_hour=2.5), 8, True, 1e9).over


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, AGAIN), (signal.SIGINT, INTERRUPTED)])
def test_a_signal_makes_one_last_checkpoint_and_the_run_goes_on_to_the_same_bits(
    workspace: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    params, rare = micro("finetune.epochs=2"), MACHINE.replace(checkpoint_minutes=15.0)
    whole, broken = workspace("whole"), workspace("broken")
    for folder in (whole, broken):
        pretrain.run(params, folder, MACHINE)
    finetune.run(params, whole, rare)
    with monkeypatch.context() as patch, heeding("finetune", broken, 60.0):
        done = at_step(patch, 2, send(number))
        with pytest.raises(Ended) as ended:
            finetune.run(params, broken, rare)
    assert ended.value.status == status
    assert str(ended.value).startswith("finetune: stopped after step 3 of ")
    assert done == [0, 1, 2]
    assert [one.name for one in broken.glob("checkpoints/finetune-*/step-*")] == ["step-00000003"]
    with monkeypatch.context() as patch:
        done = at_step(patch, 99, print)
        finetune.run(params, broken, rare)
        assert done[0] == 3
    assert weights(broken) == weights(whole)


def test_a_signal_outside_of_steps_ends_at_once_and_means_again(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with heeding("finetune", tmp_path, 60.0), pytest.raises(Ended) as ended:
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.status == AGAIN
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("in_steps", "told"), [(True, "its newest checkpoint stays"), (False, "its last checkpoint is whole")]
)
def test_who_does_not_end_in_time_is_told_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], in_steps: bool, told: str
) -> None:
    """Checkpointing may be slow, or what comes after it."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    asked = Asked("finetune", grace=20.0, stopped_by=signal.SIGTERM, in_steps=in_steps)
    asked._give_up()
    assert ended == [AGAIN]
    assert f"finetune: not ended within 20 s, and so ended at once: {told}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("ended", "sent"),
    [(Ended(AGAIN, "stopped"), 0), (Ended(INTERRUPTED, "stopped"), 0), (Ended(BUDGET, "it is spent"), 1)],
)
def test_who_stops_a_stage_does_not_wait_for_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Ended, sent: int
) -> None:
    """Nobody followed the run yet, so that its whole journal is told with the next stage."""
    finished: list[Any] = []
    monkeypatch.setattr(tracking, "REPLAY_AFTER", 0.0)
    monkeypatch.setattr(tracking, "_finish", lambda *given: finished.append(given))
    with pytest.raises(Ended), track("pretrain", micro(), tmp_path, MACHINE):
        raise ended
    assert len(finished) == sent
    assert journal_of(tmp_path)[-1]["status"] == "KILLED"


def journal_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = (folder / "runs/pretrain").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("how", ["signal", "request"])
def test_finished_now_is_what_was_learned_until_then(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    params, folder = micro("pretrain.epochs=3"), workspace("early")

    def ask(_: Any) -> None:
        if how == "signal":
            return os.kill(os.getpid(), signal.SIGUSR2)
        (path,) = (folder / "runs/pretrain").glob("*.jsonl")
        return ask_to_finish(folder, "pretrain", json.loads(path.read_text().splitlines()[0])["id"])

    ask_to_finish(folder, "pretrain", "of another run")
    with (
        monkeypatch.context() as patch,
        heeding("pretrain", folder, 60.0),
        track("pretrain", params, folder, MACHINE),
    ):
        patch.setattr("videollava.train.ending.LOOK", 0.0)
        done = at_step(patch, 1, ask)
        pretrain.run(params, folder, MACHINE)
    assert done == [0, 1]
    assert (folder / "models/projector/projector.safetensors").is_file()
    events = journal_of(folder)
    (told,) = [e["values"] for e in events if e["event"] == "tags" and "finished_early" in e["values"]]
    assert str(told["finished_early"]).startswith("after step 2 of ")
    assert events[-1]["status"] == "FINISHED"
    (path,) = (folder / "runs/pretrain").glob("*.jsonl")
    assert read_notes(path) == {"finished_early": told["finished_early"]}
    # The request is fulfilled; what is trained once more goes on from there, to the end.
    assert not (folder / "checkpoints/finish/pretrain.json").exists()
    with monkeypatch.context() as patch, track("pretrain", params, folder, MACHINE):
        done = at_step(patch, 99, print)
        pretrain.run(params, folder, MACHINE)
    assert done[0] == 2
    assert len(done) > 2
    assert read_notes(max((folder / "runs/pretrain").glob("*.jsonl"))) == {}


def test_at_the_ceiling_it_ends_with_a_checkpoint_and_says_how_to_go_on(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder = micro("pretrain.epochs=2"), workspace("dear")
    cost = Cost(per_gpu_hour=2.0, ceiling=500.0, currency="EUR")

    def spend(job: Any) -> None:
        job.spending.before += 250.0

    done = at_step(monkeypatch, 3, spend)
    dear = Machine.model_validate({**dict(MACHINE), "checkpoint_minutes": 15.0, "cost": cost})
    with pytest.raises(Ended) as ended, track("pretrain", params, folder, dear):
        pretrain.run(params, folder, dear)
    assert ended.value.status == BUDGET
    told = (
        r"pretrain: 500\.\d+ EUR are spent \(250\.\d+ process-hours at 2\), the ceiling is 500\.00: stopped"
    )
    assert re.match(told, str(ended.value))
    assert "stopped after step 4 of 14" in str(ended.value)
    assert done == [0, 1, 2, 3]
    assert [one.name for one in folder.glob("checkpoints/pretrain-*/step-*")] == ["step-00000004"]
    assert "raise cost.ceiling in machine.yaml" in str(ended.value)
    last = journal_of(folder)[-1]
    assert (last["status"], last["error"]) == ("KILLED", str(ended.value))
    # Started again it counts on from there, without a step more.
    with pytest.raises(Ended, match=r"500\.\d+ EUR are spent .* stopped after step 4"):
        pretrain.run(params, folder, dear)
    assert len(done) == 4


def rare() -> Machine:
    """No checkpoint but the last."""
    return MACHINE.replace(checkpoint_minutes=15.0)


def test_another_pack_size_goes_on_from_the_checkpoint_of_another_run(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, folder, other = micro("pretrain.epochs=2"), workspace("old"), workspace("new")
    with monkeypatch.context() as patch, heeding("pretrain", folder, 60.0):
        at_step(patch, 2, send(signal.SIGTERM))
        with pytest.raises(Ended):
            pretrain.run(params, folder, rare())
    (kept,) = folder.glob("checkpoints/pretrain-*/step-*")
    monkeypatch.setenv(VARIABLE, str(kept))
    done = at_step(monkeypatch, 99, print)
    smaller = rare().replace(tokens_per_pack=512)
    with track("pretrain", params, other, smaller):
        pretrain.run(params, other, smaller)
    assert done[0] == 3
    (journal,) = (other / "runs/pretrain").glob("*.jsonl")
    assert read_notes(journal) == {"went_on_from": f"{kept.parent.name}/{kept.name} of another run"}
    # On another way it is refused, and what differs is said.
    for change, told in (("seed=9", "seed = "), ("pretrain.batch_size=7", "steps = ")):
        with pytest.raises(InputError, match=f"made with {told}"):
            pretrain.run(micro("pretrain.epochs=2", change), workspace(f"with-{change}"), rare())


def test_a_checkpoint_of_another_stage_is_refused_by_name_and_one_that_is_none(tmp_path: Path) -> None:
    environment: dict[str, str] = {}
    with pytest.raises(InputError, match="not a whole checkpoint"):
        settle_other(str(tmp_path), "finetune", environment)
    manifest = {"format": 2, "step": 3, "about": {"stage": "pretrain"}, "files": {}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="a checkpoint of pretrain, not of finetune"):
        settle_other(str(tmp_path), "finetune", environment)
    assert not environment
    assert settle_other(str(tmp_path), "", environment) == "pretrain"
    assert other_checkpoint("finetune", environment) is None
    assert other_checkpoint("pretrain", environment) == tmp_path
