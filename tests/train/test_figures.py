"""What a step tells: figures by hand, and whose records where the loss jumps or is no number."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from micro import MACHINE, micro

from videollava.data.load.batches import Layout, Packs
from videollava.data.load.packing import Plan
from videollava.data.prepare.tables import load_split
from videollava.data.text.vocabulary import load_tokenizer
from videollava.errors import InputError
from videollava.tracking import track
from videollava.train import instruct, loop, pretrain, spikes
from videollava.train import measure as measuring
from videollava.train.measure import Figures, Seen, measure, sum_over_ranks
from videollava.train.tally import Tally
from videollava.train.wishes import COLUMNS

CPU = torch.device("cpu")


def told(peak: float) -> dict[str, float]:
    """Of the second epoch's only step, on one of two ranks."""
    engine = SimpleNamespace(device=CPU, ranks=2)
    flops = [np.array([[7e12, 8e12]]), np.array([[3e12, 4e12]])]
    job: Any = SimpleNamespace(name="finetune", flops=flops, peak_flops=peak, engine=engine)
    seen = Seen(tokens=600, samples=30, waited=0.5, by_kind={"loss_video": 1.5})
    return measure(job, 1, 1.25, seen, 2.0, 0.1, None)


def test_figures_of_a_step_by_hand() -> None:
    values = told(peak=1e13)
    assert values["loss_video"] == 1.5
    assert (values["tokens_per_second"], values["samples_per_second"]) == (300.0, 15.0)
    assert (values["data_wait_share"], values["step_seconds"]) == (0.25, 2.0)
    assert (values["mfu"], values["mfu_palm"]) == (pytest.approx(0.15), pytest.approx(0.2))
    assert "flops_per_second" not in values


def test_a_blank_pack_holds_no_sample(workspace: Callable[[str], Path]) -> None:
    """A step of one sample on two ranks: the one that has nothing runs a token that is none."""
    prepared, params = workspace("blank") / "data/index", micro()
    tokenizer = load_tokenizer(prepared / "tokenizer")
    layout = Layout.of(params.model, len(tokenizer), template="v1", image_aspect="pad")
    plan = Plan(2, np.array([0], np.int32), np.array([0, 1, 1]), np.array([0, 2]))
    packs = Packs(prepared, "finetune", tokenizer, layout, plan)
    job: Any = SimpleNamespace(engine=SimpleNamespace(device=CPU, ranks=1, sum=lambda x: x))
    wishes: Any = SimpleNamespace(columns=lambda: (0,) * COLUMNS)
    labels, tokens, samples, dropped = loop._take(job, 0, iter([packs[0], packs[1]]), wishes).counts.tolist()
    assert (labels, samples, dropped) == (packs[0].label_count, 1, 0)
    assert labels > 0
    assert tokens == packs[0].input_ids.numel() + 1


def test_without_a_known_peak_the_rate_is_told() -> None:
    values = told(peak=0.0)
    assert values["flops_per_second"] == 3e12  # of both ranks
    assert "mfu" not in values


def test_losses_of_kinds_are_means_over_all_ranks_labels() -> None:
    """Two ranks: 3 labels that lose 6 and 1 that loses 4 are 2.5 each; a kind that nobody had is left out."""
    tally = Tally(CPU)
    tally.sums, tally.labels = torch.tensor([0.0, 6.0, 5.0]), [0, 3, 2]
    other = torch.tensor([3.0, 0.0, 4.0, 0.0, 0, 1, 0], dtype=torch.float64)
    engine = SimpleNamespace(device=CPU, ranks=2, sum=lambda mine: mine + other)
    sums = sum_over_ranks(engine, torch.tensor(1.0), tally)
    counts = torch.tensor([6, 60, 6, 1])  # labels, tokens, samples, lost records
    loss, seen = Figures(0, 0.1, counts, sums, torch.tensor(0.5), tally, ranks=2, waited=0.25).read()
    assert loss == 2.0
    assert (seen.tokens, seen.samples, seen.dropped, seen.waited, seen.gradient_norm) == (60, 6, 1, 0.25, 0.5)
    assert seen.by_kind == {"loss_image": 2.5, "loss_video": 2.5}


def poison(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int, int], float]) -> None:
    """Let single records lose what `bad` (step, row) says; 0: what they do."""
    real, steps = Tally.add, [0]

    def add(self: Tally, batch: Any, losses: torch.Tensor) -> None:
        given = [bad(steps[0], row) for row in batch.records]
        extra = torch.tensor([*given, *[0.0] * (len(batch.lengths) - len(given))])[batch.target_segments]
        real(self, batch, losses + extra)

    def clear(self: Tally) -> None:
        steps[0] += 1
        begin(self)

    begin = Tally.clear
    monkeypatch.setattr(Tally, "add", add)
    monkeypatch.setattr(Tally, "clear", clear)


def test_the_record_whose_loss_is_no_number_is_named(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = workspace("broken")
    ids = load_split(folder / "data/index", "pretrain")["id"].to_pylist()
    poison(monkeypatch, lambda step, row: float("nan") if row == 5 else 0.0)
    real = instruct.forward

    def forward(model: Any, batch: Any, share: Any, **options: Any) -> torch.Tensor:
        loss = real(model, batch, share, **options)
        return loss * float("nan") if 5 in batch.records else loss

    monkeypatch.setattr(instruct, "forward", forward)
    with pytest.raises(InputError, match=r"the loss of step \d+ is nan") as caught:
        pretrain.run(micro(), folder, MACHINE)
    assert f"records: {ids[5]} nan)" in str(caught.value)
    assert "the checkpoint before this step stays" in str(caught.value)


def test_a_spike_is_told_with_its_records_and_a_remedy(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = workspace("jumps")
    monkeypatch.setattr(spikes, "WINDOW", 4)
    ids = load_split(folder / "data/index", "pretrain")["id"].to_pylist()
    real, worst = instruct.forward, []

    def forward(model: Any, batch: Any, share: Any, **options: Any) -> torch.Tensor:
        loss = real(model, batch, share, **options)
        return loss * 20 if worst and set(worst) & set(batch.records) else loss

    def bad(step: int, row: int) -> float:
        if step == 6 and not worst:
            worst.append(row)
        return 99.0 if row in worst else 0.0

    poison(monkeypatch, bad)
    monkeypatch.setattr(instruct, "forward", forward)
    with track("pretrain", micro(), folder):
        pretrain.run(micro(), folder, MACHINE)
    said = [line for line in capsys.readouterr().out.splitlines() if "jumps" in line]
    assert len(said) == 1
    assert f"records: {ids[worst[0]]} 1" in said[0]  # 99 and its own loss: 10x
    assert (
        "training goes on; if it stays up or comes often, look at these records, lower pretrain.learning_rate"
        in said[0]
    )
    (journal,) = (folder / "runs/pretrain").glob("*.jsonl")
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    (noted,) = [e for e in events if e["event"] == "metric" and "loss_spike" in e["values"]]
    assert noted["values"]["loss_spike"] > 1.5
    assert any(f"spike.{noted['step']}" in e["values"] for e in events if e["event"] == "tags")


def test_where_the_device_works_by_itself_a_step_is_told_when_the_next_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logged: list[int] = []
    monkeypatch.setattr(measuring, "log_metrics", lambda step, **_: logged.append(step))
    monkeypatch.setattr(measuring, "bound_dropped", lambda *_: None)
    for device, expected in (("cpu", [[1], [1, 2], [1, 2]]), ("meta", [[], [1], [1, 2]])):
        logged.clear()
        engine = SimpleNamespace(device=torch.device(device), ranks=1)
        job: Any = SimpleNamespace(
            name="bases", flops=[], engine=engine, logged_before=0, spikes=spikes.Spikes()
        )
        teller = measuring.Teller(job, SimpleNamespace(advance=lambda *_: None), dropped=2)  # type: ignore[arg-type]
        seen = []
        for step in (0, 1):
            counts, sums = torch.tensor([1, 2, 1, 1]), torch.tensor([3.0])
            teller.add(Figures(step, 0.1, counts, sums, None, None, ranks=1))
            seen.append(list(logged))
        teller.tell()
        assert [*seen, logged] == expected
        assert teller.dropped == 4
