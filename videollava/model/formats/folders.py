"""What people really point at: a file of a folder, a hub cache, a run with several checkpoints, a sharded state."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from videollava.errors import InputError

__all__ = ["CONFIGS", "explain_absence", "resolve"]

CONFIGS = (
    "config.json",
    "open_clip_config.json",
    "adapter_config.json",
    "projector.json",
    "mm_projector.bin",
)
STEP = re.compile(r"^(?:checkpoint|step)[-_](\d+)$")
SHARDED = "global_step*"  # DeepSpeed's folder of every rank's part
FSDP = ("pytorch_model_fsdp*", "distributed_checkpoint", "*.distcp")


def resolve(path: Path) -> Path:
    """The checkpoint folder that `path` means: itself, a file's, or the snapshot inside a hub cache folder.

    InputError where it holds several checkpoints and no model of its own: which one is for the user to say.
    """
    if path.is_file():
        return _folder_of(path)
    if not path.is_dir() or _is_checkpoint(path):
        return path
    snapshot = _find_snapshot(path)
    if snapshot is not None:
        return snapshot
    _refuse_several(path)
    return path


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).is_file() for name in CONFIGS)


def _folder_of(file: Path) -> Path:
    if file.suffix not in (".safetensors", ".bin", ".json"):
        raise InputError(f"{file}: a file; give the checkpoint's folder (config.json and weights)")
    if not _is_checkpoint(file.parent):
        raise InputError(
            f"{file}: weights alone say nothing of the model's shape; put its config.json beside it and give "
            f"the folder {file.parent}"
        )
    if file.suffix != ".json" and not _belongs(file):
        raise InputError(
            f"{file}: not the weight file that {file.parent} is loaded from ({', '.join(_main_files(file.parent))} "
            "is): rename it, or give the folder to mean that one"
        )
    return file.parent


def _belongs(file: Path) -> bool:
    """Whether loading the file's folder reads this file: the only weights, or a shard beside an index."""
    return file.name in _main_files(file.parent) or not _main_files(file.parent)


def _main_files(folder: Path) -> list[str]:
    """Weight files that loading `folder` may read, of the first kind that is there."""
    indexed = [*folder.glob("*.index.json")]
    shards = sorted(f.name for f in folder.glob("*-of-*") if f.suffix in (".safetensors", ".bin"))
    if indexed and shards:
        return shards
    whole = ("model.safetensors", "pytorch_model.bin", "adapter_model.safetensors", "adapter_model.bin")
    others = ("projector.safetensors", "mm_projector.bin", "non_lora_trainables.bin")
    return [name for name in (*whole, *others) if (folder / name).is_file()]


def _find_snapshot(folder: Path) -> Path | None:
    """The snapshot of a hub cache folder (`models--owner--name`, or its `snapshots`): the one `main` names, else
    the only one.
    """
    root = folder.parent if folder.name == "snapshots" else folder
    found = sorted(p for p in (root / "snapshots").glob("*") if p.is_dir()) if root.is_dir() else []
    if not found:
        return None
    main = root / "refs/main"
    if main.is_file() and (named := root / "snapshots" / main.read_text().strip()).is_dir():
        return named
    if len(found) > 1:
        raise InputError(
            f"{folder}: a hub cache folder with {len(found)} snapshots and no refs/main: name one of "
            f"{_list(found)}"
        )
    return found[0]


def _refuse_several(folder: Path) -> None:
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir() and _is_checkpoint(p)]
    steps = sorted((int(m[1]), p) for p in inner if (m := STEP.match(p.name)))
    if steps:
        listed = ", ".join(p.name for _, p in steps)
        raise InputError(
            f"{folder}: no model of its own, but checkpoints ({listed}): name one, the newest is {steps[-1][1]}"
        )
    if inner:
        raise InputError(f"{folder}: no model of its own; it holds {_list(inner)}: name the one you mean")


def _list(paths: Iterable[Path], limit: int = 4) -> str:
    names = [str(path) for path in paths]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def explain_absence(folder: Path) -> str:
    """What to do about a folder that lacks whole weights, or "" where nothing in it tells."""
    state = next(iter(sorted(folder.glob(SHARDED))), None)
    if state is not None:
        return (
            f"; {state.name} is DeepSpeed's sharded state: write the weights out of it with "
            f"`cd {folder} && python zero_to_fp32.py . .` (the script lies in the folder; older ones take "
            "`. pytorch_model.bin`) and load again"
        )
    if any(next(folder.glob(name), None) for name in FSDP):
        return "; it holds FSDP's sharded state: `accelerate merge-weights` writes the weights out of it"
    if (folder / "manifest.json").is_file():
        return "; a checkpoint of a training stage here: run the stage again, it goes on from it and writes the model"
    if not (folder / "config.json").is_file() and any(
        file.suffix in (".safetensors", ".bin") for file in folder.glob("*model*")
    ):
        return "; it holds weights: put the config.json of the same model beside them"
    return ""
