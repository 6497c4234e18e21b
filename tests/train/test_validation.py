"""The loss on what is held out: its value, its rhythm, and that training does not notice it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from micro import MACHINE, micro
from torch import nn

from videollava.data.load.batches import Batch, Layout, Packs, lay_in_row
from videollava.data.load.packing import Lengths
from videollava.data.prepare.tables import load_split
from videollava.data.text.bounds import bound_of
from videollava.data.text.prompts import IGNORED, Encoded
from videollava.model import checkpoint
from videollava.tracking import track, write_curves
from videollava.train import finetune, pretrain
from videollava.train.instruct import forward
from videollava.train.saving.saver import Saver
from videollava.train.validation import Validation, held_out_loss, plan_once

CPU = torch.device("cpu")


def lengths(*tokens: int) -> Lengths:
    counts = np.array(tokens)
    return Lengths(counts, np.ones_like(counts), counts.astype(float))


def curve(folder: Path, name: str, column: str) -> dict[int, float]:
    with open(folder / "plots" / f"{name}.csv") as file:
        return {int(row["step"]): float(row[column]) for row in csv.DictReader(file)}


def run(stage: Any, folder: Path, *changes: str) -> Path:
    name = stage.__name__.rpartition(".")[2]
    with track(name, micro(*changes), folder):
        stage.run(micro(*changes), folder, MACHINE)
        write_curves(folder / "plots", name)
    return folder


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_sample_is_in_one_pack_and_every_rank_has_as_many(ranks: int) -> None:
    plan = plan_once(lengths(5, 9, 3, 4, 8, 30), ranks, budget=12)
    packs = [plan.pack(number).tolist() for rank in range(ranks) for number in plan.packs_of(0, rank)]
    assert sorted(sample for pack in packs for sample in pack) == [0, 1, 2, 3, 4, 5]
    assert [5] in packs  # longer than a pack may be: by itself
    tokens = [sum((5, 9, 3, 4, 8, 30)[sample] for sample in pack) for pack in packs if pack != [5]]
    assert max(tokens) <= 12
    assert len({len(plan.packs_of(0, rank)) for rank in range(ranks)}) == 1


def test_the_rhythm_is_the_recipe_s_and_the_last_step_belongs_to_it() -> None:
    assert Validation(None, 4).steps(10) == {3, 5, 8, 10}  # type: ignore[arg-type]
    assert Validation(None, 10).steps(3) == {1, 2, 3}  # type: ignore[arg-type]
    assert Validation(None, 1).steps(7) == {7}  # type: ignore[arg-type]


def test_the_mean_is_over_labels_and_nothing_is_left_behind() -> None:
    """Packs with 1 and 3 labels that lose 4 and 2 each: (4 + 3 * 2) / 4, whatever the packs."""
    batches = [lay_in_row(n, [Encoded([1] * (k + 1), [IGNORED] + [5] * k)]) for n, k in enumerate((1, 3))]
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1))
    model[1].eval()  # frozen, as encoders are

    def lose(model: nn.Module, batch: Batch, share: Any) -> torch.Tensor:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
        return torch.tensor((4.0, 6.0)[batch.number]) / share

    class Given(list[Batch]):
        plan = plan_once(lengths(2, 4), 1, budget=4)

    engine = SimpleNamespace(device=CPU, rank=0, sum=lambda tensor: tensor)
    before = torch.get_rng_state()
    found = held_out_loss(Validation(Given(batches[::-1]), 1), model, lose, engine)  # type: ignore[arg-type]
    assert found == pytest.approx(2.5)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model] == [True, False]


def test_training_is_bit_equal_with_and_without_it(workspace: Callable[[str], Path]) -> None:
    """The weights, and every other figure of the curve; with an adapter's dropout on."""
    adapted = ("finetune.adapter=lora", "finetune.lora={r: 4, alpha: 8, dropout: 0.2}")
    weights, curves = [], []
    for asked in (0, 3):
        folder = run(pretrain, workspace(f"asked-{asked}"), f"pretrain.validations={asked}")
        run(finetune, folder, *adapted, f"finetune.validations={asked}")
        weights.append((folder / "models/videollava/model.safetensors").read_bytes())
        curves.append((folder / "plots/finetune.csv").read_bytes())
        assert len(curve(folder, "finetune/held_out", "held_out_loss")) == asked
    assert weights[0] == weights[1]
    assert curves[0] == curves[1]


def test_the_last_value_is_the_finished_model_s(workspace: Callable[[str], Path]) -> None:
    """Against each held-out record by itself, without packs: float32, 1e-5."""
    params, folder = micro(), workspace("whole")
    run(pretrain, folder)
    run(finetune, folder)
    loaded = checkpoint.load(folder / "models/videollava")
    prepared = folder / "data/index"
    count = load_split(prepared, "finetune-valid").num_rows
    assert count > 1
    layout = Layout.of(
        params.model,
        loaded.model.config.text_config.vocab_size,
        template="v1",
        image_aspect=params.finetune.image_aspect,
        bound=bound_of(params, "finetune"),
    )
    packs = Packs(
        prepared, "finetune-valid", loaded.tokenizer, layout, plan_once(lengths(*[9] * count), 1, 9)
    )
    total, labels = 0.0, 0
    with torch.no_grad():
        for number in range(count):
            total += float(forward(loaded.model, packs[number], 1.0))
            labels += len(packs[number].targets)
    measured = curve(folder, "finetune/held_out", "held_out_loss")
    last = max(curve(folder, "finetune", "loss"))
    assert measured[last] == pytest.approx(total / labels, abs=2e-3)  # features are kept in bfloat16
    assert len(measured) == min(10, last)
    assert min(measured) == max(1, -(-last // 10))


def test_kinds_of_samples_are_told_apart_in_the_curves(workspace: Callable[[str], Path]) -> None:
    """Each step's loss is the mean of its kinds' losses, weighed by their labels; no text here: a header alone."""
    folder = run(pretrain, workspace("whole"))
    loss = curve(folder, "pretrain", "loss")
    video, image = (curve(folder, f"pretrain/{kind}", f"loss_{kind}") for kind in ("video", "image"))
    assert (folder / "plots/pretrain/text.csv").read_text() == "step,loss_text\n"
    assert set(video) | set(image) == set(loss)
    for step, value in loss.items():
        parts = [kind[step] for kind in (video, image) if step in kind]
        assert min(parts) - 1e-4 <= value <= max(parts) + 1e-4


@pytest.mark.parametrize("after", [2, 4])
def test_a_resumed_run_measures_what_the_whole_one_does(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Bit-equal: each file of the curves."""
    whole, broken = workspace("whole"), workspace("broken")
    run(pretrain, whole)
    run(pretrain, broken)
    run(finetune, whole, "finetune.validations=3")
    real, done = Saver.save, []

    def save(*given: Any, **options: Any) -> None:
        real(*given, **options)
        done.append(1)
        if len(done) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run(finetune, broken, "finetune.validations=3")
    run(finetune, broken, "finetune.validations=3")
    for file in ("finetune.csv", "finetune/held_out.csv", "finetune/video.csv", "finetune/image.csv"):
        assert (broken / "plots" / file).read_bytes() == (whole / "plots" / file).read_bytes()
