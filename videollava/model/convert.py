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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.formats import hf, original, original_export
from videollava.model.formats.detect import detect, open_foreign
from videollava.model.formats.files import Spec, find_weights, read_config, write_config, write_stream
from videollava.model.formats.hub import find_checkpoint
from videollava.model.formats.lora import ADAPTER_FILES, Adapter, read_adapter
from videollava.model.video_llava import VideoLlavaConfig

__all__ = ["Converted", "Target", "convert", "merge"]

log = logging.getLogger(__name__)

Target = Literal["ours", "original", "transformers"]
Shards = Iterable[Mapping[str, Tensor]]
PROJECTOR_CONFIG = "projector.json"
PLAIN_FILES = ("generation_config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json")
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

    A LoRA folder of ours and a projector alone stay what they are. base: the model under an original LoRA or
    projector-only folder. What transformers' class cannot hold is exported there under ours, with a note.
    check: compare logits (by default where the model fits into memory). InputError where the target cannot
    hold the model, weights do not fit their config, or logits differ; `dst` is then not written.
    """
    source, target = find_checkpoint(src), Path(dst)
    if base is None and to == "ours" and original.holds_projector_alone(source):
        return _write(target, lambda aside: original.write_projector(source, aside))
    if (source / PROJECTOR_CONFIG).is_file():
        return _write(target, lambda aside: _convert_projector(source, aside, to))
    if (source / "adapter_config.json").is_file() and not (source / "config.json").is_file():
        return _write(target, lambda aside: _convert_adapter(source, aside, to, base))
    config, shards, tokenizer = _open(source, base)
    exported = EXPORTS[to](config)

    def write(aside: Path) -> None:
        _write_checked(config, shards, exported, aside)
        _copy_tokenizer(tokenizer, aside, to, config)

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


def _open(source: Path, base: Path | str | None) -> tuple[Any, Shards, Path | None]:
    """Config of ours, weights in our names, and where the tokenizer lies."""
    form = detect(source)
    if form != "ours":
        opened = open_foreign(source, form, base)
        return opened.config, opened.shards(), opened.tokenizer
    given = read_config(source)
    checkpoint.check_ours(source, given)
    config = checkpoint.CLASSES[given["model_type"]].config_class.from_dict(given)
    return config, find_weights(source).shards(), source


def _write_checked(config: Any, shards: Shards, export: Export, aside: Path) -> None:
    """Stream the weights through; what passed by is held against the config at the end."""
    specs: dict[str, Spec] = {}
    dtypes: list[str] = []

    def passing() -> Iterator[Mapping[str, Tensor]]:
        extra = export.extra
        for tensors in shards:
            for name, tensor in tensors.items():
                specs[name] = ("", tuple(tensor.shape))
                if tensor.is_floating_point():
                    dtypes.append(str(tensor.dtype).removeprefix("torch."))
            yield {**export.rename(tensors), **extra}
            extra = {}

    write_stream(passing(), aside)
    kind = checkpoint.CLASSES[config.model_type]
    checkpoint.check_specs(checkpoint.expected_specs(kind, config.to_dict()), specs, "the source")
    written = dict(export.config)
    for name in ("dtype", "torch_dtype"):
        if name in written:
            written[name] = written[name] or next(iter(dtypes), None)
    write_config(written, aside)


def _copy_tokenizer(folder: Path | None, aside: Path, to: Target, config: Any) -> None:
    if folder is None:
        if to == "transformers":
            hf.write_processor(config, None, aside)
        return
    for name in (*PLAIN_FILES, *TOKENIZER_EXTRAS):
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


def _fits(source: Path, check: bool | None) -> bool:
    if check is not None:
        return check
    size = sum(file.stat().st_size for file in source.iterdir() if file.suffix in (".safetensors", ".bin"))
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


def compare(before: Tensor, after: Tensor) -> float:
    """Largest difference; InputError where it is more than rounding of the type that was computed in."""
    difference = float((before.float() - after.float()).abs().max())
    allowed = (1e-4 if before.dtype == torch.float32 else 5e-2) * max(1.0, float(before.abs().max()))
    if not difference <= allowed:
        raise InputError(
            f"logits before and after differ by {difference:.3g} (allowed: {allowed:.1g}): the result would "
            f"be another "
            "model and is not written"
        )
    return difference


@torch.inference_mode()
def probe(model: Any) -> Tensor:
    """A model's outputs on a random input of every kind it takes, the same for the same shapes."""
    config = model.config
    if not isinstance(config, VideoLlavaConfig):
        return _probe_encoder(model)
    return model(**probe_inputs(config, model.dtype)).logits


def probe_inputs(config: VideoLlavaConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random ids with a random image and clip, where the model has encoders for them."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(0, config.text_config.vocab_size, (12,), generator=draw).tolist()
    # A placeholder inside the vocabulary must not be drawn as text.
    text = [0 if token in (config.image_token_id, config.video_token_id) else token for token in text]
    ids, inputs = text[:4], {}
    if "image" in config.towers:
        shape = (1, config.vision_config.num_channels, *config.vision_config.size)
        inputs["pixel_values_images"] = torch.randn(shape, generator=draw).to(dtype)
        ids = ids + [config.image_token_id] * config.image_tokens + text[4:8]
    if "video" in config.towers:
        video: Any = config.video_config
        shape = (1, video.num_frames, video.num_channels, *video.size)
        inputs["pixel_values_videos"] = torch.randn(shape, generator=draw).to(dtype)
        ids = ids + [config.video_token_id] * config.video_tokens()
    return {"input_ids": torch.tensor([ids + text[8:]]), **inputs}


def _probe_encoder(model: Any) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    config = model.config
    tower = getattr(config, "vision_config", config)
    if not hasattr(tower, "num_frames"):
        return model(torch.randint(0, config.vocab_size, (1, 8), generator=draw)).pooler_output
    pixels = torch.randn(1, tower.num_frames, tower.num_channels, *tower.size, generator=draw).to(model.dtype)
    if config is tower:
        return model(pixels).pooler_output
    ids = torch.randint(0, config.text_config.vocab_size, (1, 8), generator=draw)
    return torch.cat([model.encode_vision(pixels), model.encode_text(ids)])


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


def _convert_adapter(source: Path, aside: Path, to: Target, base: Path | str | None) -> None:
    if to != "original":
        raise InputError(
            f"{source}: un-merged LoRA is exported to the original's layout; for {to}, merge it first"
        )
    folder = original.find_base(source, {}, base)
    config = _open(folder, None)[0]
    _require_whole(config, to)
    original_export.export_adapter(find_weights(source, ADAPTER_FILES).read(), source, config, aside)


def merge(
    adapter: Path | str, dst: Path | str, base: Path | str | None = None, check: bool | None = None
) -> Converted:
    """Merge a LoRA folder, ours or the original's, into its base and write the whole model in our format.

    Logits of the merged model are held against the base with the adapter beside it.
    """
    folder, target = find_checkpoint(adapter), Path(dst)
    read_config(folder, "adapter_config.json")
    foreign = (folder / "config.json").is_file() and original.is_original(read_config(folder))
    if foreign:
        source = original.open_source(folder, base)
        assert source.adapter is not None
        config, shards, tokenizer = source.config, source.shards(), source.tokenizer
        bare = dataclasses.replace(source, adapter=dataclasses.replace(source.adapter, pairs={}))
        beside = original.adapter_to_ours(source.adapter)
        origin, plain = source.main.files[0].parent, lambda: bare.shards()
    else:
        origin = original.find_base(folder, {}, base)
        beside = read_adapter(folder)
        config, plain_shards, tokenizer = _open(origin, None)
        kind = checkpoint.CLASSES[config.model_type]
        beside.require(checkpoint.expected_specs(kind, config.to_dict()))
        shards = ({n: beside.apply(n, t) for n, t in part.items()} for part in plain_shards)
        plain = lambda: find_weights(origin).shards()  # noqa: E731
    before = _unmerged_logits(config, plain(), beside) if _fits(origin, check) else None

    def write(aside: Path) -> None:
        _write_checked(config, shards, _export_ours(config), aside)
        _copy_tokenizer(tokenizer, aside, "ours", config)

    return _write(target, write, lambda aside: _compare(before, aside, _logits))


@torch.inference_mode()
def _unmerged_logits(config: Any, shards: Shards, adapter: Adapter) -> Tensor:
    """The base's logits with low-rank updates computed beside its layers."""
    tensors = {n: t for part in shards for n, t in part.items()}
    tensors = {n: adapter.whole.get(n, t).to(t.dtype) for n, t in tensors.items()}
    model = checkpoint.build(config, tensors, "the base")
    for name, (down, up) in adapter.pairs.items():
        scale = adapter.scale(name)

        def add(
            _: Any,
            given: tuple[Tensor],
            out: Tensor,
            down: Tensor = down,
            up: Tensor = up,
            scale: float = scale,
        ) -> Tensor:
            x = given[0]
            return out + (scale * (x.float() @ down.float().T @ up.float().T)).to(out.dtype)

        model.get_submodule(name).register_forward_hook(add)
    return probe(model)
