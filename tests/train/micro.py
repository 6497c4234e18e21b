"""Micro parameters: the tiny profile made as small as it can be."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pictures import USES, write_sources

from videollava.machine import Machine
from videollava.params import Params, load_params

ROOT = Path(__file__).parents[2]

# In this process, and a checkpoint at every step.
MACHINE = Machine(gpus=0, workers=0, tokens_per_pack=1024, checkpoint_minutes=0.0)
MICRO = (
    "model.image_size=32",
    "model.frames=4",
    "model.embed_dim=32",
    "model.vision={width: 32, layers: 2, heads: 2, mlp: 64}",
    "model.text={width: 32, layers: 1, heads: 2, mlp: 64}",
    "model.language={width: 32, layers: 2, heads: 2, mlp: 64, positions: 1024}",
    "bases.epochs=1",
    "bases.precision=fp32",
    "align.batch_size=4",
    "align.video_batch_size=4",
    "align.text_batch_size=8",
    "align.text_epochs=1",
    "align.image_epochs=1",
    "align.video_epochs=1",
    "align.precision=fp32",
    "align.least_learned=0",  # of a dozen steps
    "pretrain.epochs=1",
    "pretrain.batch_size=6",
    "pretrain.precision=fp32",
    "finetune.epochs=1",
    "finetune.batch_size=6",
    "finetune.precision=fp32",
    "evaluate.precision=fp32",
    "evaluate.benchmarks=[toy_video_qa]",
)


def micro(*overrides: str) -> Params:
    """The tiny profile made as small as it can be, with changes."""
    return load_params(ROOT / "videollava/profiles/tiny.yaml", settings(*overrides))


def settings(*changes: str) -> list[str]:
    """MICRO with changes in the place of what they change."""
    changed = {change.partition("=")[0] for change in changes}
    return [*(item for item in MICRO if item.partition("=")[0] not in changed), *changes]


def sources(folder: Path, uses: Sequence[str] = USES) -> str:
    """The override that makes two dozen clips, and as many pictures for each of `uses`, the sources."""
    clips = "clips: {kind: generated, format: clips, train: 24, test: 8, seed: 1}"
    return f"sources={{{clips}, {write_sources(folder, uses)}}}"


def write_machine(folder: Path, **changes: object) -> None:
    """MACHINE, with changes, as the machine file of `folder`."""
    values = {**MACHINE.model_dump(mode="json", exclude_unset=True), **changes}
    (folder / "machine.yaml").write_text(json.dumps(values))
