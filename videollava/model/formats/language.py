"""Language models to build on: Llama architectures from a folder, the hub, a GGUF file or a package."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from videollava.errors import InputError
from videollava.model.attention import VARLEN

__all__ = ["find_language_model", "load_language_model"]

PACKAGE = "package:"


def load_language_model(source: str | Path, dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """A causal language model and its tokenizer.

    source: a transformers folder, a GGUF file (or a folder holding one), a hub id, or `package:NAME` for the
    GGUF file that an installed Python package ships. Weights keep their type unless `dtype` is given (GGUF:
    float32).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from videollava.model.checkpoint import load_tokenizer, quiet

    place, gguf = find_language_model(source)
    options = {"gguf_file": gguf} if gguf else {}
    if gguf and importlib.util.find_spec("gguf") is None:
        raise InputError(f"{source}: reading GGUF needs the gguf package (`pip install videollava[gguf]`)")
    try:
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype or "auto", attn_implementation=VARLEN, **options
            )
        local = None if gguf or not Path(place).is_dir() else load_tokenizer(Path(place))
        tokenizer = local or AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"language model {str(source)!r}: cannot be loaded: {error}") from error
    if not (hasattr(model, "lm_head") and hasattr(getattr(model, "model", None), "embed_tokens")):
        raise InputError(
            f"language model {str(source)!r} is a {type(model).__name__}: Llama architectures alone (decoder "
            f"layers "
            "under `model`, an lm_head) can take visual tokens here"
        )
    return model, tokenizer


def find_language_model(source: str | Path) -> tuple[str, str | None]:
    """(folder or hub id, GGUF file name or None) that `source` means."""
    text = str(source)
    if text.startswith(PACKAGE):
        return _find_packaged(text.removeprefix(PACKAGE))
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise InputError(f"{path}: no such GGUF file")
        return str(path.parent), path.name
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file() or not files:
            return text, None
        if len(files) > 1:
            raise InputError(f"{path}: holds {len(files)} GGUF files; name one of them")
        return text, files[0].name
    if path.is_absolute() or text.count("/") != 1:
        raise InputError(f"language model {text!r}: no such folder, and not a hub id (owner/name)")
    return text, None


def _find_packaged(name: str) -> tuple[str, str]:
    spec = importlib.util.find_spec(name.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise InputError(f"{PACKAGE}{name}: this package is not installed; `pip install {name}`")
    files = sorted(Path(spec.origin).parent.rglob("*.gguf")) if spec.submodule_search_locations else []
    if len(files) != 1:
        raise InputError(f"{PACKAGE}{name}: ships {len(files)} GGUF files, one is expected")
    return str(files[0].parent), files[0].name
