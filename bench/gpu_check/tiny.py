"""A workspace in miniature: the tiny profile's stages over some dozens of clips and pictures, a few steps each."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

from videollava.data.toy.drawing import still
from videollava.data.toy.scenes import scenes
from videollava.machine import Machine
from videollava.params import Params, load_params

__all__ = ["MACHINE", "ROOT", "make_workspace", "settings", "tiny"]

MACHINE = Machine(workers=2)
ROOT = Path(__file__).parents[2]
CLIPS, TESTED, PICTURES = 88, 20, 48
SETTINGS = (
    "shards.frames={count: 4, size: 64, form: rounded}",  # no decoder travels
    "model.patch_size=16",
    "model.embed_dim=64",
    "model.vision={width: 64, layers: 3, heads: 2, mlp: 128}",
    "model.text={width: 64, layers: 1, heads: 2, mlp: 128}",
    "model.language={width: 64, layers: 2, heads: 2, mlp: 128, positions: 2048}",
    "bases.epochs=1",
    "align.batch_size=16",
    "align.video_batch_size=16",
    "align.text_batch_size=16",
    "align.text_epochs=1",
    "align.image_epochs=1",
    "align.video_epochs=1",
    "align.flips=[]",
    "align.least_learned=0",
    "pretrain.epochs=1",
    "pretrain.batch_size=16",
    "finetune.epochs=1",
    "finetune.batch_size=16",
    "evaluate.benchmarks=[toy_video_qa]",
    "evaluate.max_new_tokens=8",
    "evaluate.limit=20",
)


def tiny(*changes: str) -> Params:
    """The tiny profile with SETTINGS, and changes in the place of what they change."""
    return load_params(ROOT / "videollava/profiles/tiny.yaml", settings(*changes))


def settings(*changes: str) -> list[str]:
    """SETTINGS with changes in the place of what they change."""
    changed = {change.partition("=")[0] for change in changes}
    return [*(setting for setting in SETTINGS if setting.partition("=")[0] not in changed), *changes]


def make_workspace(folder: Path) -> None:
    """Data prepared and every model made, on this machine's CPU: what each stage is then started from alone."""
    from importlib import import_module

    folder = folder.resolve()
    folder.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    clips = f"clips: {{kind: generated, format: clips, train: {CLIPS}, test: {TESTED}, seed: 1}}"
    params = tiny(f"sources={{{clips}, {write_pictures(folder / 'from')}}}")
    for module in (
        "data.acquire.fetch",
        "data.prepare.shards",
        "data.prepare.index",
        "train.bases",
        "train.align",
        "train.pretrain",
        "train.finetune",
    ):
        import_module(f"videollava.{module}").run(params, folder, MACHINE)
    # What the stages read is in data/index.
    for spent in ("from", "data/raw", "checkpoints", "runs", "plots"):
        shutil.rmtree(folder / spent, ignore_errors=True)


def write_pictures(folder: Path) -> str:
    """An archive of drawn stills with captions and questions, as three sources (inside of a YAML mapping)."""
    folder.mkdir(parents=True)
    items: dict[str, list[dict[str, object]]] = {"align": [], "pretrain": [], "finetune": []}
    with tarfile.open(folder / "pictures.tar", "w") as archive:
        for number, scene in enumerate(scenes("train", PICTURES, 7)):
            data, place = still(scene)
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
            shown = f"a {scene.shows.color} {scene.shows.shape}"
            told = [("<image>\nDescribe it.", f"{shown} at the {place}")]
            asked = [("<image>\nwhat color is it?", scene.shows.color), ("what shape?", scene.shows.shape)]
            for use, turns in (("align", told), ("pretrain", told), ("finetune", asked)):
                talk = [
                    {"from": who, "value": text}
                    for turn in turns
                    for who, text in zip(("human", "gpt"), turn, strict=True)
                ]
                items[use].append({"id": f"{use}-{number}", "image": f"{number}.png", "conversations": talk})
    return ", ".join(_source(folder, use, rows) for use, rows in items.items())


def _source(folder: Path, use: str, rows: list[dict[str, object]]) -> str:
    notes, archive = folder / f"{use}.json", folder / "pictures.tar"
    notes.write_text(json.dumps(rows))
    hashes = ", ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in (archive, notes))
    return (
        f"pictures_{use}: {{kind: archive, format: llava, use: {use}, urls: ['{archive.as_uri()}'], "
        f"annotations: '{notes.as_uri()}', sha256: [{hashes}]}}"
    )
