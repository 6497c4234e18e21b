"""`videollava align` on two ranks learns what one does: float32, 1e-5, patch dropout and turns on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from equality import FLOAT32
from micro import ROOT, settings
from safetensors.torch import load_file

OPTIONS = ("align.patch_dropout=0.5", "align.video_patch_dropout=0.5", "align.image_epochs=2")


def align(folder: Path, ranks: int) -> dict[str, torch.Tensor]:
    """Weights of both encoders, aligned by `ranks` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    chosen = [part for setting in settings(*OPTIONS) for part in ("--set", setting)]
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
    return {
        f"{kind}.{name}": weight
        for kind in ("image", "video")
        for name, weight in load_file(folder / f"models/encoders/{kind}/model.safetensors").items()
    }


@pytest.mark.slow
def test_two_ranks_align_as_one_does(workspace: Callable[[str], Path]) -> None:
    one, two = align(workspace("one"), 1), align(workspace("two"), 2)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        # A key's bias changes no attention: its gradient is rounding alone, which AdamW makes full steps of.
        if name.endswith("k_proj.bias"):
            continue
        torch.testing.assert_close(two[name], weight, rtol=0, atol=FLOAT32, msg=name)
