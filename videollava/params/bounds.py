"""The kinds of values that parameters have, each with its bounds: what a section's fields are made of."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict
from pydantic_core import PydanticCustomError

__all__ = [
    "REGISTERED",
    "Amount",
    "Count",
    "Flag",
    "Fraction",
    "Listed",
    "Name",
    "Number",
    "OneOrMore",
    "Positive",
    "Rate",
    "Registered",
    "Section",
    "Share",
    "Whole",
    "Words",
]


class Section(BaseModel):
    """Frozen parameters; keys that it does not know are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True, hide_input_in_errors=True
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, checked as if they were read from a file (pydantic.ValidationError)."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self).model_validate({**kept, **changes})


def _refuse_truth(value: Any) -> Any:
    # To Python True is the number 1; to whoever wrote it, it is another parameter's value.
    if isinstance(value, bool):
        raise PydanticCustomError("float_type", "must be a number")
    return value


def _list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else _list(value)


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    again = sorted({value for value in values if values.count(value) > 1})
    if again:
        raise PydanticCustomError("twice", "names {again} twice", {"again": ", ".join(again)})
    return values


Flag = Annotated[bool, Strict()]
Whole = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
# The check of truth values comes last, so that it stands before the bounds: else the JSON schema loses them.
Number = Annotated[float, BeforeValidator(_refuse_truth)]
Positive = Annotated[float, Field(gt=0), BeforeValidator(_refuse_truth)]
Amount = Annotated[float, Field(ge=0), BeforeValidator(_refuse_truth)]
Rate = Annotated[float, Field(gt=0, le=10), BeforeValidator(_refuse_truth)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(_refuse_truth)]
Fraction = Annotated[float, Field(ge=0, lt=1), BeforeValidator(_refuse_truth)]
Name = Annotated[str, Field(min_length=1, pattern=r"^[^\s/:@]+$")]
# What MLflow takes for a logged model's name, and git within a tag's.
REGISTERED = r"^[^\s/:@.%\"'~^?*\[\\]+$"
Registered = Annotated[str, Field(min_length=1, pattern=REGISTERED)]
Words = Annotated[tuple[str, ...], BeforeValidator(_list), AfterValidator(_once)]
Listed = BeforeValidator(_list)
OneOrMore = BeforeValidator(_one_or_more)
