"""Decoder layers compiled (`work.compile`): norms, rotations and gates in a few kernels instead of dozens.

One compilation serves all layers and all packs, as their lengths are symbols in it. It changes no result beyond
float32 1e-5.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from videollava.errors import InputError
from videollava.model.attention import find_kernel

__all__ = ["check_compiling", "compile_layers"]

COMPILERS = ("cc", "gcc", "g++", "clang")


def check_compiling(strategy: str) -> None:
    """InputError where what compiles cannot, or where ZeRO-3 gathers weights inside what would be compiled."""
    if strategy.startswith("zero3"):
        raise InputError(
            f"compile is true and strategy {strategy}, which gathers each weight as it is used: set compile: false, "
            "or strategy: sharded"
        )
    named = os.environ.get("CXX") or os.environ.get("CC")
    if not (named or any(map(shutil.which, COMPILERS))):
        raise InputError(
            "compile is true, but there is no C compiler (gcc): install one, or set compile: false"
        )


def compile_layers(model: Any, **options: Any) -> None:
    """Compile the language model's layers in place, names of weights unchanged; options: torch.compile's."""
    if torch.cuda.is_available():
        find_kernel()
    for layer in model.model.language_model.layers:
        layer.compile(dynamic=True, **options)
