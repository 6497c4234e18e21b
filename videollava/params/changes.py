"""Parameters to change, typed and each of them optional: what somebody may ask of a retraining from afar.

Made from the sections, so it has their kinds, bounds and words. `gate` and `tracking` are not among them: who asks for
a retraining decides neither what may become champion nor where it is written down.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Optional

from pydantic import BaseModel, ConfigDict, Field, create_model

from videollava.params.bounds import Section
from videollava.params.sections import Params

__all__ = ["Changes", "as_overrides"]

OTHERS = ("profile", "gate", "tracking")  # the profile is asked for by its own name


class _Partial(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


def _partial(section: type[Section], name: str, without: tuple[str, ...] = ()) -> type[_Partial]:
    """`section` with every field optional, and sections in it likewise. What fields must be to each other is checked
    once they are among the others, before anything runs.
    """
    fields: dict[str, Any] = {}
    for key, field in section.model_fields.items():
        if key in without or field.exclude:
            continue
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            kind = _partial(kind, f"{name}{kind.__name__}")
        elif field.metadata:
            kind = Annotated[(kind, *field.metadata)]
        fields[key] = (Optional[kind], Field(None, description=field.description))  # noqa: UP045
    return create_model(name, __base__=_Partial, __doc__=section.__doc__, **fields)


if TYPE_CHECKING:

    class Changes(_Partial):
        """Sections of params.yaml, with what is to be changed in them."""

else:
    Changes = _partial(Params, "Changes", OTHERS)
    Changes.__doc__ = "Sections of params.yaml, with what is to be changed in them."


def as_overrides(changes: Changes) -> list[str]:
    """The same as "SECTION.KEY=VALUE"."""
    return [f"{key}={json.dumps(value)}" for key, value in _set(changes)]


def _set(changes: BaseModel, above: str = "") -> Iterator[tuple[str, Any]]:
    plain = changes.model_dump(mode="json", exclude_unset=True)
    for key in changes.model_fields_set:
        value = getattr(changes, key)
        if isinstance(value, _Partial):
            yield from _set(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", plain[key]
