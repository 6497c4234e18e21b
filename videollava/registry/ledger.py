"""A log in the registry that only one writer at a time can extend: the numbered versions of the model `NAME.trail`.

Each record names the one it follows. The first that follows record k is the next of the log; later ones that claim the
same are void, and their writers read that. So whoever comes first is settled by one request, without lock or clock.

Why versions of one model, and not a model for each record (`NAME.move.7`, whose name is unique as well):
- Read in MLflow's source (store/model_registry/sqlalchemy_store.py, 3.17): `create_model_version` takes the next number
  and writes the version with all of its tags in one transaction; number and name are the primary key, so of two at once
  the second waits for the first and takes the next number. What has a number can be read before the next one is given:
  who sees record 7 sees all before it. A registered model with its tags is one transaction too.
- A deleted version keeps its row, so its number is never given again; a deleted model frees its name at once.
- Whoever may create models may create `NAME.move.7`; a record of this log takes the right to edit `NAME.trail`.
- One more model on MLflow's page, not one for each move; a thousand records are read by one request.
MLflow's client sends a request again where an answer was lost, which makes two records: both hold the writer's nonce,
and the second is void. Who renames the model renames `NAME.trail` too, or the log begins anew with what the aliases
say.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from videollava.errors import InputError
from videollava.registry.refusals import is_missing

__all__ = [
    "Log",
    "PromotionConflict",
    "Record",
    "append",
    "begin_log",
    "is_log",
    "mark",
    "read_log",
    "unmark",
]

SUFFIX = ".trail"
OF = "trail_of"  # a tag of the model: it is no model, but the log of one
BODY = "record"
VOID = "void"
PAGE = 10_000
TRIES = 3
NONE: Mapping[str, str] = {}
LONGEST = 30_000  # bytes of one tag: MySQL's TEXT holds 65,535, and four may be one letter
log = logging.getLogger(__name__)
_named: set[tuple[str, Any]] = set()


class PromotionConflict(InputError):
    """Somebody else moved the champion, or is moving it."""


@dataclass(frozen=True)
class Record:
    """One record. number: its place. nonce: its writer's own. body: what it says. marks: its other tags."""

    number: int
    nonce: str
    follows: tuple[int, str]
    body: Mapping[str, Any]
    marks: Mapping[str, str]


@dataclass(frozen=True)
class Log:
    """records: those that count, oldest first. void: those that came too late. there: whether there is a log at all."""

    records: tuple[Record, ...] = ()
    void: tuple[Record, ...] = ()
    there: bool = True

    @property
    def head(self) -> tuple[int, str]:
        """What the next record has to follow."""
        return (self.records[-1].number, self.records[-1].nonce) if self.records else (0, "")


def read_log(client: Any, model: str) -> Log:
    """All records. Those that cannot be read are left out and named in the log of this process."""
    from mlflow.exceptions import MlflowException

    items: list[Any] = []
    token = None
    try:
        while True:
            page = client.search_model_versions(
                f"name = '{model}{SUFFIX}'",
                max_results=PAGE,
                order_by=["version_number ASC"],
                page_token=token,
            )
            items += page
            token = page.token
            if not token:
                break
    except MlflowException as error:
        if is_missing(error):
            return Log(there=False)
        raise
    return _sort([record for item in items if (record := _read(item, model))], bool(items))


def begin_log(client: Any, model: str) -> None:
    """Have the model there whose versions are the log."""
    from mlflow.exceptions import MlflowException

    about = (
        f"Which version of {model} was champion when, by whom and why: each version of this entry is a move, written "
        f"by `videollava promote` and `rollback` and shown by `videollava models --trail`. It is no model; leave it."
    )
    try:
        client.create_registered_model(model + SUFFIX, tags={OF: model}, description=about)
    except MlflowException as error:
        if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
            raise


def is_log(registered: Any) -> bool:
    """Whether one of MLflow's registered models is the log of another."""
    return OF in (registered.tags or {})


def append(
    client: Any, model: str, known: Log, body: Mapping[str, Any], about: str, marks: Mapping[str, str] = NONE
) -> Record | None:
    """Make `body` the record after `known`; None where another came first. marks: tags it has from the beginning,
    `{}` in their names being its nonce. about: what MLflow's page says of it.
    """
    from mlflow.exceptions import MlflowException

    nonce = uuid.uuid4().hex
    tags = _tags({"nonce": nonce, "follows": known.head, **body})
    tags |= {name.format(nonce): value for name, value in marks.items()}
    for last in (False,) * (TRIES - 1) + (True,):
        try:
            client.create_model_version(
                model + SUFFIX,
                source="trail:/moves",  # MLflow wants one, and a server an absolute path
                tags=tags,
                description=about[:1000],
                await_creation_for=0,
            )
        except MlflowException:
            now = read_log(client, model)
            if not _written(now, nonce) and now.head == known.head:
                if last:
                    raise
                continue
        break
    now = read_log(client, model)
    for late in (record for record in now.void if record.nonce == nonce):
        _try_mark(client, model, late.number)
    return next((record for record in now.records if record.nonce == nonce), None)


def mark(client: Any, model: str, number: int, name: str, value: str = "1") -> None:
    """Note something about a record."""
    again(client.set_model_version_tag, model + SUFFIX, str(number), name, value)


def unmark(client: Any, model: str, number: int, name: str) -> None:
    """Take a note back."""
    from mlflow.exceptions import MlflowException

    try:
        again(client.delete_model_version_tag, model + SUFFIX, str(number), name)
    except MlflowException as error:
        if not is_missing(error):  # somebody deleted the record
            raise


def again(act: Callable[..., Any], *arguments: str) -> None:
    """Set or delete a tag or an alias, once more where the store refused: of two who do the same at once, one gets an
    error of its database.
    """
    from mlflow.exceptions import MlflowException

    try:
        act(*arguments)
    except MlflowException as error:
        if is_missing(error):
            raise
        act(*arguments)


def _try_mark(client: Any, model: str, number: int) -> None:
    """Say of a record that it came too late: wanted only where somebody deletes the one before it."""
    try:
        mark(client, model, number, VOID)
    except Exception as error:
        log.debug("record %d of the trail of %s: not marked as void: %s", number, model, error)


def _written(now: Log, nonce: str) -> bool:
    return any(record.nonce == nonce for record in (*now.records, *now.void))


def _sort(records: list[Record], there: bool) -> Log:
    """Which count. A record whose predecessor was deleted counts too: its writer saw that one count."""
    numbers = {record.number for record in records}
    counting: list[Record] = []
    void: list[Record] = []
    head: tuple[int, str] = (0, "")
    for record in sorted(records, key=lambda record: record.number):
        number = record.follows[0]
        after_deleted = head[0] < number < record.number and number not in numbers
        if VOID not in record.marks and (record.follows == head or after_deleted):
            counting.append(record)
            head = (record.number, record.nonce)
        else:
            void.append(record)
    return Log(tuple(counting), tuple(void), there)


def _tags(body: Mapping[str, Any]) -> dict[str, str]:
    """The body as tags: one, or several for what is longer than a tag."""
    text = json.dumps(body)  # ASCII, so that a letter is a byte
    parts = [text[at : at + LONGEST] for at in range(0, len(text), LONGEST)]
    return {f"{BODY}.{at}" if at else BODY: part for at, part in enumerate(parts)}


def _read(item: Any, model: str) -> Record | None:
    tags = dict(item.tags or {})
    text = tags.pop(BODY, "")
    while part := tags.pop(f"{BODY}.{len(text) // LONGEST}", ""):
        text += part
    try:
        body = json.loads(text)
        nonce, (number, before) = str(body.pop("nonce")), body.pop("follows")
        return Record(int(item.version), nonce, (int(number), str(before)), body, tags)
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("trail of %s: record %s cannot be read and is left out: %.80s", model, item.version, text)
        return None
