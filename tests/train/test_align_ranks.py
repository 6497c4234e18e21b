"""`videollava align` on two ranks learns what one does: float32, 1e-5 over 20 steps, patch dropout and turns on."""

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
from safetensors.torch import load_file

EPOCHS = ("text_epochs=4", "image_epochs=7", "video_epochs=7")  # of five, three and three steps
BATCHES = ("text_batch_size=12", "batch_size=12", "video_batch_size=6")
DRAWS = ("patch_dropout=0.5", "video_patch_dropout=0.5", "flips=[pictures_align]")
OPTIONS = [f"align.{option}" for option in (*EPOCHS, *BATCHES, *DRAWS)]
STEPS = 62


def align(folder: Path, ranks: int, *changes: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of all steps and weights of both encoders, aligned by `ranks` processes."""
    write_machine(folder, checkpoint_minutes=15.0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    chosen = [part for setting in settings(*OPTIONS, *changes) for part in ("--set", setting)]
    line = ["-m", "videollava", "align", "--params", str(ROOT / "videollava/profiles/tiny.yaml"), *chosen]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VIDEOLLAVA_FOLLOWED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *line],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with open(folder / "plots/align.csv") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return losses, {
        f"{kind}.{name}": weight
        for kind in ("image", "video")
        for name, weight in load_file(folder / f"models/encoders/{kind}/model.safetensors").items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), ("align.loss=sigmoid", "align.micro_batch=2")])
def test_two_ranks_align_as_one_does_in_float32_at_1e_5_over_20_steps(
    workspace: Callable[[str], Path], changes: tuple[str, ...]
) -> None:
    """One rank encodes batches whole; two do so too, or in pieces."""
    wanted, one = align(workspace("one"), 1, *changes[:1])
    found, two = align(workspace("two"), 2, *changes)
    assert len(wanted) == STEPS
    assert found == pytest.approx(wanted, abs=FLOAT32)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        # A key's bias changes no attention: its gradient is rounding alone, which AdamW makes full steps of.
        if name.endswith("k_proj.bias"):
            continue
        torch.testing.assert_close(two[name], weight, rtol=0, atol=FLOAT32, msg=name)
