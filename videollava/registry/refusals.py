"""What a store refuses, said as a user's error: no traceback out of the registry."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from videollava.errors import InputError
from videollava.tracking.troubles import explain, is_from_store

__all__ = ["answered", "is_missing"]

P = ParamSpec("P")
R = TypeVar("R")


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, with whatever a store refuses as an InputError of one sentence."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except InputError:
            raise
        except Exception as error:
            if not is_from_store(error):
                raise
            raise InputError(f"the model registry refused: {explain(error).text}") from error

    return call


def is_missing(error: BaseException) -> bool:
    """Whether MLflow says that there is no such thing (an alias it does not know is an invalid value to it)."""
    code = getattr(error, "error_code", "")
    unknown_alias = code == "INVALID_PARAMETER_VALUE" and "alias" in str(error) and "not found" in str(error)
    return code == "RESOURCE_DOES_NOT_EXIST" or unknown_alias
