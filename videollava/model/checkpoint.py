"""Saving and loading models: our own folders exactly, and folders of others through `formats`.

A folder of ours is config.json (with `format_version`), model.safetensors (or shards with their index) and,
for whole models, the tokenizer. It is written aside and renamed, so a reader never meets a half-written one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from videollava.data.llama_tokenizer import load_llama_tokenizer
from videollava.errors import InputError
from videollava.model.encoders import LanguageBind, LanguageBindTextModel, LanguageBindVisionModel
from videollava.model.formats.detect import detect, open_foreign
from videollava.model.formats.files import Spec, find_weights, read_config, short, write_config, write_shards
from videollava.model.formats.hub import find_checkpoint
from videollava.model.formats.lora import read_adapter
from videollava.model.formats.original import find_base
from videollava.model.formats.towers import read_tower_from
from videollava.model.video_llava import ATTENTION, FORMAT_VERSION, VideoLlavaForConditionalGeneration

__all__ = [
    "Loaded",
    "Quantization",
    "build",
    "check_specs",
    "load",
    "load_tokenizer",
    "load_tower",
    "save",
]

CLASSES: dict[str, type[Any]] = {
    kind.config_class.model_type: kind
    for kind in (
        VideoLlavaForConditionalGeneration,
        LanguageBind,
        LanguageBindVisionModel,
        LanguageBindTextModel,
    )
}
Quantization = Literal["4bit", "8bit"]
KEPT_WHOLE = ("model.image_tower", "model.video_tower", "model.multi_modal_projector", "lm_head")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class Loaded:
    """A model in evaluation mode and its tokenizer (None where the folder has none)."""

    model: Any
    tokenizer: Any


def load(
    path: Path | str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    base: Path | str | None = None,
    quantize: Quantization | None = None,
) -> Loaded:
    """Load a checkpoint of any format known here, a folder or hub id; weights keep their saved type unless
    `dtype` is given.

    Formats: ours; the original Video-LLaVA (whole, or LoRA or projector alone on its `base`) and
    LanguageBind; transformers' Video-LLaVA and CLIP; OpenCLIP. quantize: hold the language model in 4 or 8
    bits (CUDA).
    """
    folder = find_checkpoint(path)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return _load_adapted(folder, dtype, device, base, quantize)
    form = detect(folder)
    if form == "ours":
        config = read_config(folder)
        check_ours(folder, config)
        model = _from_pretrained(CLASSES[config["model_type"]], folder, dtype or "auto", device, quantize)
        return Loaded(model, load_tokenizer(folder))
    opened = open_foreign(folder, form, base)
    tensors = {name: tensor for shard in opened.shards() for name, tensor in shard.items()}
    model = build(opened.config, tensors, str(folder), dtype, device, quantize)
    return Loaded(model, load_tokenizer(opened.tokenizer) if opened.tokenizer else None)


def build(
    config: Any,
    tensors: Mapping[str, Tensor],
    origin: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantize: Quantization | None = None,
) -> Any:
    """A model from a config of ours and weights in our names; refused where they do not fit each other."""
    kind = CLASSES[config.model_type]
    specs = {name: ("", tuple(tensor.shape)) for name, tensor in tensors.items()}
    check_specs(expected_specs(kind, config.to_dict()), specs, origin)
    kept = dtype or next(tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
    return _from_pretrained(kind, None, kept, device, quantize, config=config, state_dict=dict(tensors))


def _load_adapted(
    folder: Path,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    base: Path | str | None,
    quantize: Quantization | None,
) -> Loaded:
    """The base of a LoRA folder of ours with the adapter merged into it, in memory."""
    if quantize is not None:
        raise InputError(
            f"{folder}: an adapter cannot be merged into quantised weights: `videollava merge` it first"
        )
    loaded = load(find_base(folder, {}, base), dtype, device)
    adapter = read_adapter(folder)
    weights = dict(loaded.model.named_parameters())
    adapter.require({name: weight.shape for name, weight in weights.items()})
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(adapter.apply(name, weight.cpu()))
    return loaded


def load_tower(path: Path | str) -> LanguageBindVisionModel:
    """The vision encoder of any folder that holds one: ours, LanguageBind's, CLIP or OpenCLIP."""
    config, tensors = read_tower_from(Path(path))
    model: LanguageBindVisionModel = build(config, tensors, str(path))
    return model


def check_ours(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse newer formats and missing, unexpected or misshapen weights, before reading any."""
    check_version(folder, config)
    expected = expected_specs(CLASSES[config["model_type"]], config)
    check_specs(expected, find_weights(folder).specs(), str(folder))


def _from_pretrained(
    kind: type[Any],
    folder: Path | None,
    dtype: torch.dtype | str,
    device: torch.device | str | None,
    quantize: Quantization | None,
    **options: Any,
) -> Any:
    whole = kind is VideoLlavaForConditionalGeneration
    if device is not None:
        options["device_map"] = {"": device}
    if quantize is not None:
        options["quantization_config"] = quantization(quantize, whole)
    options["attn_implementation"] = ATTENTION if whole else "sdpa"
    with quiet():
        return kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **options).eval()


def quantization(bits: Quantization, whole: bool = True) -> Any:
    """transformers' config to hold the language model in 4 or 8 bits, and everything visual as it is.

    bitsandbytes goes by full names: a bare "image_tower" would match nothing and the encoders would be
    quantised.
    """
    import importlib.util

    from transformers import BitsAndBytesConfig

    if not whole:
        raise InputError("encoders are not quantised: load them as they are")
    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise InputError(
            f"{bits} loading needs a CUDA GPU and bitsandbytes (`pip install videollava[quantize]`): "
            "load without quantize, or with dtype=torch.bfloat16 for half the memory"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(KEPT_WHOLE))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(KEPT_WHOLE),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_version(folder: Path, config: Mapping[str, Any]) -> None:
    version = config.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise InputError(
            f"{folder}/config.json: format_version is {version!r}, not a whole number from 1: save it again"
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder}: saved in format {version}, this release reads up to {FORMAT_VERSION}: install a "
            f"newer videollava"
        )


def expected_specs(kind: type[Any], config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every weight that a model of this config saves (tied ones once), without making it."""
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(dict(config)))
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in tied_names(model):
        shapes.pop(name, None)
    return shapes


def tied_names(model: Any) -> list[str]:
    """Weights that are another weight under a second name."""
    text = getattr(model.config, "text_config", None)
    tied = isinstance(model, VideoLlavaForConditionalGeneration) and (
        model.config.tie_word_embeddings or getattr(text, "tie_word_embeddings", False)
    )
    return ["lm_head.weight"] if tied else []


def check_specs(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Spec], origin: str) -> None:
    """InputError that lists what is missing, unexpected or of another shape."""
    problems = []
    missing = expected.keys() - found.keys()
    unexpected = found.keys() - expected.keys()
    shapes = [
        f"{name} {list(found[name][1])} instead of {list(expected[name])}"
        for name in expected.keys() & found.keys()
        if found[name][1] != expected[name]
    ]
    if missing:
        problems.append(f"missing weights ({len(missing)}): {short(missing)}")
    if unexpected:
        problems.append(f"unexpected weights ({len(unexpected)}): {short(unexpected)}")
    if shapes:
        problems.append(f"wrong shapes ({len(shapes)}): {short(shapes)}")
    if problems:
        raise InputError(
            f"{origin}: the weights do not fit its config.json; {'; '.join(problems)}. "
            "Take config and weights from one and the same save, or use `videollava convert`"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer saved in `folder`, or None."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        return load_llama_tokenizer(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def save(
    model: Any, tokenizer: Any, path: Path | str, state_dict: Mapping[str, Tensor] | None = None
) -> Path:
    """Write a folder that `load` reads back exactly; an existing one is replaced once the new one is whole.

    state_dict: the weights where the model does not hold them itself (gathered from ZeRO-3).
    """
    folder = Path(path)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_model(model, aside, state_dict)
    if tokenizer is not None:
        tokenizer.save_pretrained(aside)
    replace_folder(aside, folder)
    return folder


def write_model(model: Any, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """config.json, generation_config.json and the weights, as transformers writes them but in our names."""
    config = describe(model.config, type(model))
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    write_config(config, folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    tensors = dict(model.state_dict() if state_dict is None else state_dict)
    for name in tied_names(model):
        tensors.pop(name, None)
    write_shards(tensors, folder)


def describe(config: Any, kind: type[Any]) -> dict[str, Any]:
    """The content of config.json."""
    return {**config.to_dict(), "format_version": FORMAT_VERSION, "architectures": [kind.__name__]}


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
