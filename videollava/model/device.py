"""The device a model is held on."""

from __future__ import annotations

import torch

from videollava.errors import InputError

__all__ = ["choose_device"]


def choose_device(name: str | None) -> str:
    """The device of that name; without one "cuda" where there is a GPU. InputError where this machine has none such."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise InputError(f"device {name!r}: not on this machine; there are {', '.join(there)}") from error
    return name
