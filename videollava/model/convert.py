"""Checkpoints from one format to another, shard by shard, and adapters merged into their base.

Weights are renamed, never computed with, and pass a file at a time, so memory stays near the largest file
whatever the model. Where the model fits into memory, its logits on a random input are compared before and
after.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.config import VideoLlavaConfig
from videollava.model.formats import hf, original, original_export
from videollava.model.formats.adapted import Adapted, generation_folder
from videollava.model.formats.detect import Opened, expected_specs, open_checkpoint
from videollava.model.formats.files import (
    TOKENIZER_FILES,
    Spec,
    find_weights,
    read_config,
    write_config,
    write_stream,
)
from videollava.model.formats.hub import find_checkpoint
from videollava.model.formats.tables import TABLE, is_said_tied
from videollava.model.probe import compare, probe, probe_inputs

__all__ = ["Converted", "Target", "convert", "merge", "probe", "probe_inputs"]

log = logging.getLogger(__name__)

Target = Literal["ours", "original", "transformers"]
PROJECTOR_CONFIG = "projector.json"
GENERATION = "generation_config.json"
TOKENIZER_EXTRAS = ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja")


@dataclass(frozen=True)
class Converted:
    """What was written; `difference`: the largest between logits before and after, None if not compared.

    note: what the user should know of the result, or "".
    """

    folder: Path
    difference: float | None
    note: str = ""


def convert(
    src: Path | str, dst: Path | str, to: Target, base: Path | str | None = None, check: bool | None = None
) -> Converted:
    """Write the checkpoint `src`, of whatever format, as `dst` in the format `to`.

    A projector alone stays what it is, and so does an adapter on its way to the original; for the other formats it
    is merged. base: the model under an adapter or a projector-only folder. What transformers' class cannot hold is
    exported there under ours, with a note. check: compare logits (by default where the model fits into memory).
    InputError where `dst` holds anything, the target cannot hold the model, weights do not fit their config, or
    logits differ; `dst` is then not written.
    """
    source, target = find_checkpoint(src), _free(Path(dst))
    if base is None and to == "ours" and original.holds_projector_alone(source):
        return _write(target, lambda aside: original.write_projector(source, aside))
    if (source / PROJECTOR_CONFIG).is_file():
        if base is not None:
            raise InputError(
                f"{source}: a projector alone stays one, without the base {base}: leave the base out"
            )
        return _write(target, lambda aside: _convert_projector(source, aside, to))
    opened = open_checkpoint(source, base)
    if isinstance(opened, Adapted) and to == "original" and not isinstance(opened.base, original.Source):
        return _write(target, lambda aside: _convert_adapter(source, aside, opened))
    exported = EXPORTS[to](opened.config)

    def write(aside: Path) -> None:
        _write_checked(opened, exported, aside)
        _copy_tokenizer(opened, aside, to)

    before = _logits(source, base) if _fits(source, check) else None
    written = _write(target, write, lambda aside: _compare(before, aside, exported.logits))
    return dataclasses.replace(written, note=exported.note)


@dataclass(frozen=True)
class Export:
    """A target format: its config.json, its names, weights of its own, and how its logits are had."""

    config: Mapping[str, Any]
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    extra: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    logits: Callable[[Path], Tensor] = dataclasses.field(default_factory=lambda: _logits)
    note: str = ""


def _export_ours(config: Any) -> Export:
    kind = checkpoint.CLASSES[config.model_type]
    return Export(checkpoint.describe(config, kind), lambda tensors: tensors)


def _export_original(config: Any) -> Export:
    _require_whole(config, "original")
    rename = lambda tensors: original_export.from_ours(tensors, config)  # noqa: E731
    return Export(original_export.export_config(config), rename, original_export.buffers(config))


def _export_transformers(config: Any) -> Export:
    _require_whole(config, "transformers")
    obstacle = hf.find_obstacle(config)
    if obstacle:
        note = (
            f"{obstacle}. So it is exported under this package's class: from_pretrained reads it once "
            "videollava.model.video_llava is imported, and plain transformers refuses it"
        )
        log.warning(note)
        return dataclasses.replace(_export_ours(config), note=note)
    return Export(
        hf.export_config(config), lambda tensors: hf.from_ours(tensors, config), logits=_transformers_logits
    )


EXPORTS: dict[Target, Callable[[Any], Export]] = {
    "ours": _export_ours,
    "original": _export_original,
    "transformers": _export_transformers,
}


def _require_whole(config: Any, to: str) -> None:
    if not isinstance(config, VideoLlavaConfig):
        raise InputError(
            f"an encoder alone ({config.model_type}) is not exported to {to}: convert it to ours"
        )


def _write_checked(opened: Opened, export: Export, aside: Path) -> None:
    """Stream the weights through; what passed by is held against the config at the end."""
    specs: dict[str, Spec] = {}
    types: dict[torch.dtype, Tensor] = {}

    def passing() -> Iterator[Mapping[str, Tensor]]:
        extra = export.extra
        for tensors in opened.shards():
            specs.update(checkpoint.specs_of(tensors))
            types.update({tensor.dtype: tensor.new_empty(0) for tensor in tensors.values()})
            yield {**export.rename(tensors), **extra}
            extra = {}

    write_stream(passing(), aside)
    checkpoint.check_specs(expected_specs(opened.config), specs, "the source")
    written = dict(export.config)
    # The widest, so that whoever loads by it rounds no weight.
    widest = str(checkpoint.widest_type(types.values(), "the source")).removeprefix("torch.")
    for name in ("dtype", "torch_dtype"):
        if name in written:
            written[name] = written[name] or widest
    write_config(written, aside)


def _copy_tokenizer(opened: Opened, aside: Path, to: Target) -> None:
    folder, generation, config = opened.tokenizer, generation_folder(opened), opened.config
    if generation is not None and (generation / GENERATION).is_file():
        shutil.copyfile(generation / GENERATION, aside / GENERATION)
    if folder is None:
        if to == "transformers":
            hf.write_processor(config, None, aside)
        return
    for name in (*TOKENIZER_FILES, *TOKENIZER_EXTRAS):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, aside / name)
    if to == "original" or (to == "ours" and (aside / "tokenizer.json").is_file()):
        return
    if to == "transformers":
        hf.write_processor(config, checkpoint.load_tokenizer(folder), aside)
        return
    # A tokenizer.model alone is read differently by different releases: settle it here.
    tokenizer = checkpoint.load_tokenizer(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)


def _free(target: Path) -> Path:
    """`target`, where nothing would be lost by writing it: a person may have named a folder that holds more."""
    if target.is_symlink() or (target.is_dir() and any(target.iterdir())):
        raise InputError(
            f"{target}: is there already and would be replaced whole; remove it, or name another folder"
        )
    return target


def _write(
    target: Path, write: Callable[[Path], None], check: Callable[[Path], float | None] = lambda _: None
) -> Converted:
    """Write aside, check, and only then put in place."""
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        write(aside)
        difference = check(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    checkpoint.replace_folder(aside, target)
    return Converted(target, difference)


def _fits(source: Path, check: bool | None, base: Path | None = None) -> bool:
    if check is not None:
        return check
    files = (file for folder in (source, base) if folder is not None for file in folder.iterdir())
    size = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".bin"))
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 3 * size < available:
        return True
    log.warning(
        "%s: %.1f GiB of weights, too much to compare logits here; names and shapes are", source, size / 2**30
    )
    return False


def _logits(folder: Path, base: Path | str | None = None) -> Tensor:
    """Logits of a fixed random input (see probe) after loading `folder`."""
    return probe(checkpoint.load(folder, base=base).model)


def _compare(before: Tensor | None, aside: Path, logits: Callable[[Path], Tensor]) -> float | None:
    return None if before is None else compare(before, logits(aside)[..., : before.shape[-1]])


@torch.inference_mode()
def _transformers_logits(folder: Path) -> Tensor:
    """The same input through transformers' own class, loaded as anyone would."""
    import inspect

    from transformers import VideoLlavaForConditionalGeneration

    ours = hf.ours_config(read_config(folder))
    with checkpoint.quiet():
        model = VideoLlavaForConditionalGeneration.from_pretrained(
            folder, dtype="auto", local_files_only=True
        ).eval()
    inputs = probe_inputs(ours, model.dtype)
    if "pixel_values" in inspect.signature(model.forward).parameters:  # its name in newer releases
        inputs["pixel_values"] = inputs.pop("pixel_values_images")
    return model(**inputs).logits


def _convert_projector(source: Path, aside: Path, to: Target) -> None:
    given = read_config(source, PROJECTOR_CONFIG)
    if to != "original":
        raise InputError(
            f"{source}: a projector alone is exported to the original's mm_projector.bin, not to {to}"
        )
    weights = find_weights(source, ("projector.safetensors",)).read()
    original_export.export_projector(weights, given["projector_type"], aside)


def _convert_adapter(source: Path, aside: Path, opened: Adapted) -> None:
    _require_whole(opened.config, "original")
    original_export.export_adapter(opened.adapter, source, opened.base.config, aside)


def merge(
    adapter: Path | str, dst: Path | str, base: Path | str | None = None, check: bool | None = None
) -> Converted:
    """Merge a LoRA folder (ours, transformers', the original's) into its base and write the whole model in our
    format.

    Logits of the merged model are held against the base with the adapter beside it.
    """
    folder, target = find_checkpoint(adapter), _free(Path(dst))
    read_config(folder, "adapter_config.json")
    opened = open_checkpoint(folder, base)
    if not isinstance(opened, Adapted):
        raise InputError(f"{folder}: not an adapter's folder")
    before = _unmerged_logits(opened) if _fits(folder, check, original.find_base(folder, {}, base)) else None

    def write(aside: Path) -> None:
        _write_checked(opened, _export_ours(opened.config), aside)
        _copy_tokenizer(opened, aside, "ours")

    return _write(target, write, lambda aside: _compare(before, aside, _logits))


@torch.inference_mode()
def _unmerged_logits(opened: Adapted) -> Tensor:
    """The base's logits with low-rank updates computed beside its layers."""
    tensors = {name: tensor for part in opened.plain() for name, tensor in part.items()}
    model = checkpoint.build(opened.config, tensors, "the base")
    for name, (down, up) in opened.adapter.pairs.items():
        update = partial(_add_update, down.float(), up.float(), opened.adapter.scales[name])
        model.get_submodule(name).register_forward_hook(update)
        if f"{name}.weight" == TABLE and is_said_tied(opened.config):
            model.lm_head.register_forward_hook(update)
    return probe(model)


def _add_update(
    down: Tensor, up: Tensor, scale: float, module: Any, given: tuple[Tensor], out: Tensor
) -> Tensor:
    """A layer's output with the adapter's part added: the hook of an embedding table, a convolution, a linear layer."""
    if isinstance(module, torch.nn.Embedding):
        inner = up[given[0]] @ down
    elif isinstance(module, torch.nn.Conv2d):
        inner = conv2d(conv2d(given[0].float(), down, stride=module.stride, padding=module.padding), up)
    else:
        inner = given[0].float() @ down.T @ up.T
    return out + (scale * inner).to(out.dtype)
