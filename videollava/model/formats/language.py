"""Language models to build on: Llama architectures from a folder, the hub, a GGUF file or a package."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch

from videollava.errors import InputError
from videollava.model.attention import VARLEN
from videollava.model.config import read_language
from videollava.model.formats.files import find_weights, has_weights
from videollava.model.formats.folders import resolve
from videollava.origin import PACKAGE, find_packaged

__all__ = ["find_language_model", "load_language_model", "outline_language_model"]

TORCH = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
PLAIN = TORCH.keys()  # types of weights that are not quantised


def load_language_model(
    source: str | Path, dtype: torch.dtype | None = None, **options: Any
) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    source: a transformers folder, a GGUF file (or a folder holding one), a hub id, or `package:NAME` for the
    GGUF file that an installed Python package ships. Weights keep their type unless `dtype` is given (GGUF:
    float32). options: from_pretrained's own. InputError where a weight is missing or of another shape: nothing is
    filled with random numbers.
    """
    from transformers import AutoTokenizer

    from videollava.model.checkpoint import load_tokenizer

    place, gguf = find_language_model(source)
    reading = {"gguf_file": gguf} if gguf else {}
    if gguf and importlib.util.find_spec("gguf") is None:
        raise InputError(f"{source}: reading GGUF needs the gguf package (`pip install videollava[gguf]`)")
    try:
        extra = _unpack() if gguf else {"config": _read_config(place)}
        model = _load(place, str(source), dtype, {**options, **extra, **reading})
        if gguf:
            _forget_packing(model)
        local = None if gguf or not Path(place).is_dir() else load_tokenizer(Path(place))
        tokenizer = local or AutoTokenizer.from_pretrained(place, **reading)
    except InputError as error:
        raise InputError(f"language model {str(source)!r}: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"language model {str(source)!r}: cannot be loaded: {error}") from error
    return model, tokenizer


def outline_language_model(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The same from a transformers folder without its weights: its parameters are on meta, its buffers as ever."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    from videollava.model.checkpoint import load_tokenizer

    config = _read_config(str(folder))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=VARLEN)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config)  # of no weights, and made of no file
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model, load_tokenizer(folder)


def _unpack() -> dict[str, Any]:
    """Options under which newer releases unpack a GGUF file's weights; older ones always do."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _forget_packing(model: Any) -> None:
    """The weights are plain ones now: without this a release that packs refuses to save them."""
    model.is_quantized = False
    for owner, name in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)


def _load(place: str, source: str, dtype: torch.dtype | None, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    from videollava.model.checkpoint import quiet, refuse_lost

    with quiet():
        model, report = AutoModelForCausalLM.from_pretrained(
            place,
            dtype=dtype or _saved_type(place),
            attn_implementation=VARLEN,
            output_loading_info=True,
            **options,
        )
    if not (hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "embed_tokens")):
        raise InputError(
            f"a {type(model).__name__}: Llama architectures alone (decoder layers under `model`, an lm_head) can "
            "take visual tokens here"
        )
    refuse_lost(model, report, source)
    # Where both were in the file and differ, they are two whatever the config says.
    model.config.tie_word_embeddings = model.lm_head.weight is model.model.embed_tokens.weight
    return model


def _read_config(place: str) -> Any:
    """The language model's config, its rotary positions in one form; InputError where its weights are quantised."""
    from transformers.configuration_utils import PreTrainedConfig

    given, _ = PreTrainedConfig.get_config_dict(place)
    if given.get("quantization_config") and not _is_plain(place):
        method = given["quantization_config"].get("quant_method", "some method")
        raise InputError(f"its weights are saved quantised ({method}): name the full-precision model")
    if "auto_map" in given or not given.get("model_type"):
        return None
    config = read_language(given)
    _take_rows(config, place)
    return config


def _saved_type(place: str) -> torch.dtype | str:
    """The type that holds every weight as it was saved, whatever the config says; "auto" where they are not here."""
    if not has_weights(Path(place)):
        return "auto"
    kinds = {kind for kind, _ in find_weights(Path(place)).specs().values()} & PLAIN
    return reduce(torch.promote_types, (TORCH[kind] for kind in kinds)) if kinds else "auto"


def _is_plain(place: str) -> bool:
    folder = Path(place)
    return has_weights(folder) and {kind for kind, _ in find_weights(folder).specs().values()} <= PLAIN


def _take_rows(config: Any, place: str) -> None:
    """The vocabulary that the weights have, where the config was left behind when tokens were added."""
    if not has_weights(Path(place)):
        return
    specs: Mapping[str, Any] = find_weights(Path(place)).specs()
    rows = {specs[n][1][0] for n in ("model.embed_tokens.weight", "lm_head.weight") if n in specs}
    if len(rows) == 1 and max(rows) > int(getattr(config, "vocab_size", 0)):
        config.vocab_size = rows.pop()


def find_language_model(source: str | Path) -> tuple[str, str | None]:
    """(folder or hub id, GGUF file name or None) that `source` means."""
    text = str(source)
    if text.startswith(PACKAGE):
        return find_packaged(text)
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{path}: no such GGUF file")
        return str(path.parent), path.name
    if path.exists():
        path = path if any(path.glob("*.gguf")) else resolve(path)
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file() or not files:
            return str(path), None
        if len(files) > 1:
            raise InputError(f"{path}: holds {len(files)} GGUF files; name one of them")
        return str(path), files[0].name
    if path.is_absolute() or text.count("/") != 1:
        raise InputError(f"language model {text!r}: no such folder, and not a hub id (owner/name)")
    return text, None
