"""Which format a folder is in, and its weights under our names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor

from videollava.errors import InputError
from videollava.model.formats import adapted, clip, hf, languagebind, original, ours
from videollava.model.formats.files import has_weights, read_config
from videollava.model.formats.tables import HEAD, is_said_tied

__all__ = ["Format", "Opened", "detect", "expected_specs", "open_checkpoint"]

Format = Literal["ours", "original", "transformers", "languagebind", "clip", "openclip"]
OURS = tuple(ours.CLASSES)
# What classes raise at a config with a value of another type, or one that they have no use for.
UNREADABLE = (
    StrictDataclassError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


class Opened(Protocol):
    """A checkpoint with our config of it and its weights in our names, a file at a time."""

    @property
    def config(self) -> Any: ...
    @property
    def tokenizer(self) -> Path | None: ...
    def shards(self) -> Iterator[dict[str, Tensor]]: ...


@dataclass(frozen=True)
class Whole:
    """A checkpoint small enough to be read at once."""

    config: Any
    read: Callable[[], dict[str, Tensor]]
    tokenizer: Path | None = None

    def shards(self) -> Iterator[dict[str, Tensor]]:
        yield self.read()


def detect(folder: Path) -> Format:
    """The format of a checkpoint folder; InputError names those there are."""
    if clip.is_openclip(folder):
        return "openclip"
    if original.holds_projector_alone(folder) and not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: holds a projector alone and no config.json: put the run's config.json beside it and name its "
            "base, or make models/projector of it (`videollava convert`)"
        )
    config = read_config(folder)
    kind = config.get("model_type")
    if kind in OURS:
        return "ours"
    if original.is_original(config):
        return "original"
    if languagebind.is_languagebind(config):
        return "languagebind"
    if kind == "video_llava":
        return "transformers"
    if clip.is_clip(config):
        return "clip"
    raise InputError(
        f"{folder}/config.json: model_type {kind!r} is no format read here; there are ours "
        f"({', '.join(OURS)}), the "
        "original's (llava with mm_image_tower or mm_video_tower, LanguageBind*), transformers' video_llava, "
        "clip and "
        "OpenCLIP. A language model alone goes through load_language_model"
    )


def open_checkpoint(folder: Path, base: Path | str | None = None) -> Opened:
    """Open a folder of any format, an adapter with its base. base: what a LoRA or projector-only folder was trained
    on, by default the one it names; InputError where the folder needs none.
    """
    try:
        return _open(folder, base)
    except InputError as error:
        if str(folder) in str(error):
            raise
        raise InputError(f"{folder}: {error}") from error
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: its config.json holds what no such config may: {reason}") from error


def _open(folder: Path, base: Path | str | None) -> Opened:
    if adapted.holds_adapter(folder):
        return adapted.open_adapted(folder, base, open_checkpoint, expected_specs)
    form = detect(folder)
    if base is not None and (form != "original" or has_weights(folder)):
        raise InputError(
            f"{folder}: has all weights of its own, and nothing of the base {base} would be in the result: leave the "
            "base out (it is for an adapter, or a projector alone)"
        )
    if form == "ours":
        return ours.open_source(folder)
    if form == "original":
        return original.open_source(folder, base)
    if form == "transformers":
        return hf.open_source(folder)
    if form == "openclip":
        return Whole(*clip.open_openclip(folder), folder)
    config = read_config(folder)
    if form == "languagebind":
        return Whole(
            languagebind.pair_config(config), lambda: languagebind.read_pair(folder, config)[1], folder
        )
    if config["model_type"] == "clip":
        return Whole(*clip.open_clip_pair(folder, config), folder)
    return Whole(clip.clip_vision_config(config), lambda: clip.read_clip_tower(folder, config)[1])


def expected_specs(config: Any) -> Mapping[str, tuple[int, ...]]:
    """Shape of every weight that a model of this config saves (tied ones once), without making it."""
    kind = ours.CLASSES[config.model_type]
    try:
        with torch.device("meta"):
            model = kind(kind.config_class.from_dict(config.to_dict()))
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(f"no model can be made by this config: {' '.join(str(error).split())}") from error
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if is_said_tied(config):
        shapes.pop(HEAD, None)
    return shapes
