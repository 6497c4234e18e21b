"""Micro parameters: the tiny profile made as small as it can be."""

from __future__ import annotations

from pathlib import Path

from pictures import write_sources

from videollava.params import Params, load_params

ROOT = Path(__file__).parents[2]

MICRO = (
    "model.image_size=32",
    "model.frames=4",
    "model.embed_dim=32",
    "model.vision={width: 32, layers: 2, heads: 2, mlp: 64}",
    "model.text={width: 32, layers: 1, heads: 2, mlp: 64}",
    "model.language={width: 32, layers: 2, heads: 2, mlp: 64, positions: 1024}",
    "fetch.workers=1",
    "prepare.workers=1",
    "bases.epochs=1",
    "bases.precision=fp32",
    "align.batch_size=4",
    "align.video_batch_size=4",
    "align.text_batch_size=8",
    "align.text_epochs=1",
    "align.image_epochs=1",
    "align.video_epochs=1",
    "align.precision=fp32",
    "pretrain.epochs=1",
    "pretrain.batch_size=6",
    "pretrain.tokens_per_pack=1024",
    "pretrain.precision=fp32",
    "pretrain.workers=0",
    "pretrain.checkpoint_steps=1",
    "finetune.epochs=1",
    "finetune.batch_size=6",
    "finetune.tokens_per_pack=1024",
    "finetune.precision=fp32",
    "finetune.workers=0",
    "finetune.checkpoint_steps=1",
    "evaluate.precision=fp32",
    "evaluate.workers=0",
    "evaluate.benchmarks=[toy_video_qa]",
)


def micro(*overrides: str) -> Params:
    """The tiny profile made as small as it can be, with changes."""
    return load_params(ROOT / "videollava/profiles/tiny.yaml", settings(*overrides))


def settings(*changes: str) -> list[str]:
    """MICRO with changes in the place of what they change."""
    changed = {change.partition("=")[0] for change in changes}
    return [*(item for item in MICRO if item.partition("=")[0] not in changed), *changes]


def sources(folder: Path) -> str:
    """The override that makes two dozen clips and as many pictures the sources."""
    clips = "{name: clips, kind: generated, format: clips, train: 24, test: 8, seed: 1}"
    return f"fetch.sources=[{clips}, {write_sources(folder)}]"
