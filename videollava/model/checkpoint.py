"""Saving and loading models: our own folders exactly, and folders of others through `formats`.

A folder of ours is config.json (with `format_version`), model.safetensors (or shards with their index) and,
for whole models, the tokenizer. It is written aside and renamed, so a reader never meets a half-written one.
"""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from videollava.data.text.llama_tokenizer import load_llama_tokenizer
from videollava.errors import InputError
from videollava.model.encoders import LanguageBindVisionModel
from videollava.model.formats.adapted import generation_folder, holds_adapter
from videollava.model.formats.clip import holds_clip_words
from videollava.model.formats.detect import expected_specs, open_checkpoint
from videollava.model.formats.files import (
    DTYPES,
    TOKENIZER_FILES,
    Spec,
    read_config,
    short,
    unwrap,
    write_config,
    write_shards,
)
from videollava.model.formats.hub import find_checkpoint
from videollava.model.formats.ours import CLASSES
from videollava.model.formats.tables import HEAD, TABLE, Tables, is_said_tied, is_same, settle_tables
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
    "refuse_lost",
    "save",
    "specs_of",
    "take_generation",
    "widest_type",
]

log = logging.getLogger(__name__)
# It recommends a package whenever it is imported on a CPU, by PEFT too.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

Quantization = Literal["4bit", "8bit"]
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
PARTS = re.compile(r"^(model\.(?:image_tower|video_tower|multi_modal_projector))\.")
KEPT_WHOLE = ("model.image_tower", "model.video_tower", "model.multi_modal_projector", "lm_head")


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
    LanguageBind; transformers' Video-LLaVA and CLIP; OpenCLIP; PEFT's LoRA on any Video-LLaVA of these. quantize:
    hold the language model in 4 or 8 bits (bitsandbytes), all else in its type. InputError where any weight is
    missing: none is made up.
    """
    folder = find_checkpoint(path)
    if quantize is not None and holds_adapter(folder):
        raise InputError(
            f"{folder}: an adapter cannot be merged into quantised weights: `videollava merge` it first"
        )
    opened = open_checkpoint(folder, base)
    tensors = {name: tensor for shard in opened.shards() for name, tensor in shard.items()}
    model = build(opened.config, tensors, str(folder), dtype, device, quantize)
    if opened.tokenizer is None:
        return Loaded(model, None)
    take_generation(model, generation_folder(opened))
    return Loaded(model, load_tokenizer(opened.tokenizer))


def build(
    config: Any,
    tensors: Mapping[str, Tensor],
    origin: str,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    quantize: Quantization | None = None,
) -> Any:
    """A model from a config of ours and weights in our names; refused where they do not fit each other.

    Without `dtype` each part (an encoder, the projector, the language model) has the type its weights have.
    """
    check_specs(expected_specs(config), specs_of(tensors), origin)
    widest = dtype or widest_type(tensors.values(), origin)
    model = _from_pretrained(config, dict(tensors), widest, device, quantize, origin)
    if dtype is None and quantize is None:
        _keep_types(model, tensors, origin)
    return model


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, Spec]:
    return {name: (DTYPES.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}


def widest_type(tensors: Iterable[Tensor], origin: str) -> torch.dtype:
    """A type that holds every one of these weights as it is."""
    types = {tensor.dtype for tensor in tensors if tensor.is_floating_point()}
    if not types <= FLOATS:
        raise InputError(
            f"{origin}: weights of type {', '.join(map(str, types - FLOATS))}: take full-precision ones"
        )
    return reduce(torch.promote_types, types)


def _keep_types(model: Any, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Give each part the type that its weights were saved in: exact, since it was loaded in a wider one."""
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(_part(name), []).append(tensor)
    types = {part: widest_type(found, origin) for part, found in parts.items()}
    mixed = [part for part, found in parts.items() if len({tensor.dtype for tensor in found}) > 1]
    if mixed:
        log.warning(
            "%s: weights of several types in %s are loaded in the widest, so that none is rounded",
            origin,
            mixed,
        )
    if len(set(types.values())) > 1:
        for name, weight in model.named_parameters():
            weight.data = weight.data.to(types[_part(name)])


def _part(name: str) -> str:
    found = PARTS.match(name)
    return found[1] if found else "the model"


def take_generation(model: Any, folder: Path | None) -> None:
    """The tokens that end an answer, where the folder's generation_config.json says so (several, with some models)."""
    if folder is None or not (model.can_generate() and (folder / "generation_config.json").is_file()):
        return
    given = read_config(folder, "generation_config.json")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if given.get(name) is not None:
            setattr(model.generation_config, name, given[name])


def load_tower(path: Path | str, dtype: torch.dtype | None = None) -> LanguageBindVisionModel:
    """The vision encoder of any folder that holds one: ours, LanguageBind's, CLIP or OpenCLIP."""
    config, tensors = read_tower_from(find_checkpoint(path))
    model: LanguageBindVisionModel = build(config, tensors, str(path), dtype)
    return model


def _from_pretrained(
    config: Any,
    tensors: dict[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str | None,
    quantize: Quantization | None,
    origin: str,
) -> Any:
    kind = CLASSES[config.model_type]
    whole = kind is VideoLlavaForConditionalGeneration
    options: dict[str, Any] = {"attn_implementation": ATTENTION if whole else "sdpa"}
    if device is not None:
        options["device_map"] = {"": device}
    if quantize is not None:
        if not whole:
            raise InputError("encoders are not quantised: load them as they are")
        options["quantization_config"] = quantization(quantize, dtype)
    with quiet():
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    refuse_lost(model, report, origin)
    return model.eval()


def refuse_lost(model: Any, report: Mapping[str, Any], origin: str) -> None:
    """InputError where transformers filled a weight with random numbers, by its own account of a load."""
    own = dict(model.named_parameters())  # a tied weight under its first name alone
    missing = [name for name in report["missing_keys"] if name in own]
    others = [*report.get("mismatched_keys", ()), *report.get("error_msgs", ())]
    if missing or others:
        told = f"missing: {short(missing)}" if missing else f"misfits: {short(map(str, others))}"
        raise InputError(
            f"{origin}: not every weight was loaded ({told}): the file and its config.json do not fit"
        )


def quantization(bits: Quantization, compute: torch.dtype = torch.bfloat16) -> Any:
    """transformers' config to hold the language model in 4 or 8 bits, and its head and everything visual as they are.

    4 bits are NF4, in products of the type `compute`; 8 bits always compute in float16. bitsandbytes goes by full
    names: a bare "image_tower" would match nothing and the encoders would be quantised. InputError where it is not
    installed.
    """
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"a model in {bits} needs bitsandbytes (`pip install 'videollava[quantize]'`): load without quantize, "
            "or with dtype=torch.bfloat16 for half the memory; train with finetune.adapter: lora"
        )
    if bits == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(KEPT_WHOLE))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
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
            f"{origin}: the weights do not fit its config.json; {'; '.join(problems)}. {_remedy(missing, found)}"
        )


def _remedy(missing: Iterable[str], found: Mapping[str, Spec]) -> str:
    if any(0 in shape for _, shape in found.values()):
        return (
            "Empty weights are what a save of DeepSpeed ZeRO-3 leaves: write them out of its state "
            "(`python zero_to_fp32.py . .` in the checkpoint's folder)"
        )
    if any(dtype in ("U8", "I8") or name.endswith((".absmax", ".SCB")) for name, (dtype, _) in found.items()):
        return "These weights were saved quantised: take the full-precision ones"
    tied = "If its head is the embedding table, say tie_word_embeddings: true in config.json. "
    usual = "Take config and weights from one and the same save, or use `videollava convert`"
    return tied + usual if set(missing) == {HEAD} else usual


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer saved in `folder`, or None."""
    if holds_clip_words(folder):
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
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
    try:
        write_model(model, aside, state_dict)
        if tokenizer is not None:
            tokenizer.save_pretrained(aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    replace_folder(aside, folder)
    return folder


def write_model(model: Any, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """config.json, generation_config.json and the weights, as transformers writes them but in our names."""
    if getattr(model, "is_quantized", False):
        raise InputError("a quantised model is not saved: save the full-precision one, or its adapter alone")
    config = copy.deepcopy(model.config)
    tensors = unwrap(model.state_dict() if state_dict is None else state_dict)
    if isinstance(model, VideoLlavaForConditionalGeneration):
        tensors = _settle(config, tensors, model.lm_head.weight is model.get_input_embeddings().weight)
    check_specs(expected_specs(config), specs_of(tensors), "the model to be saved")
    described = describe(config, type(model))
    described["dtype"] = str(widest_type(tensors.values(), "the model to be saved")).removeprefix("torch.")
    write_config(described, folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
    write_shards(tensors, folder)


def _settle(config: Any, tensors: dict[str, Tensor], one: bool) -> dict[str, Tensor]:
    """Weights to save and, in `config`, whether head and table are one: as these tensors are, whatever it said.

    one: whether they are in the model, for gathered weights that hold only one of them.
    """
    table, head = tensors.get(TABLE), tensors.get(HEAD)
    if table is None or head is None:
        config.tie_word_embeddings = one or is_said_tied(config)
        return Tables(settle_tables(config, True), under_head=table is None).arrange(tensors)
    config.tie_word_embeddings = config.tie_word_embeddings or one
    return Tables(settle_tables(config, is_same(table, head))).arrange(tensors)


def describe(config: Any, kind: type[Any]) -> dict[str, Any]:
    """The content of config.json. Weights are saved in full: what a quantised base was loaded with stays out."""
    content = {**config.to_dict(), "format_version": FORMAT_VERSION, "architectures": [kind.__name__]}
    for part in (content, content.get("text_config") or {}):
        for name in ("quantization_config", "_name_or_path"):  # the other is a place on this machine
            part.pop(name, None)
    return content


def replace_folder(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
