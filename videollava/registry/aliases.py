"""The aliases `champion` and `previous` follow the trail: whoever reads them sets them right.

MLflow sets an alias without asking what it was, so a request may come late: after a crash never, from a slow process
after others have moved on. Three things can lie behind an alias that is not what the trail says:
- It lags: the last move's alias was not set yet. Its record is not marked as settled, and the alias is where that move
  came from. It is set.
- A late request set it: some earlier move's record still says that one is under way (a tag `setting.*`, there before
  the request and gone after its sender has looked again). It is set back, and that note is taken away, so that only one
  such request is expected of it. A process of this machine that has ended sends none.
- Somebody moved it, on MLflow's page or by another program. That enters the trail as what happened.
The notes are read before the alias, and a move from outside is a record like any other, which only the one who saw the
last record can write: what somebody else did meanwhile is never taken for a move from outside.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from videollava.registry.ledger import PromotionConflict, Record, again, mark, unmark
from videollava.registry.refusals import is_missing
from videollava.registry.trail import OUTSIDE, SETTING, SETTLED, Move, Story, now, read_story, write
from videollava.who import has_ended, this_process

__all__ = ["CHAMPION", "PREVIOUS", "exists", "read_aliases", "settle"]

CHAMPION = "champion"
PREVIOUS = "previous"
TRIES = 20  # looks; more than a few take others who move the champion all the time
SETTLED_MARK = {SETTLED: "1"}
log = logging.getLogger(__name__)
Note = tuple[int, str]


def settle(client: Any, model: str, mine: Sequence[Note] = (), strict: bool = False) -> Story:
    """The trail, and the aliases set to what it says.

    mine: notes (record, tag) that this process's own move left; they are taken away once all is right. strict: raise
    what the registry refuses; otherwise (readers, who may be allowed to read alone) it is said, and the trail counts.
    """
    notes = list(mine)
    for _ in range(TRIES):
        story = read_story(client, model)
        if not story.log.records:
            return story
        try:
            if _agrees(client, model, story, notes):
                for number, name in notes:
                    unmark(client, model, number, name)
                return story
        except Exception as error:
            if strict or not _is_refusal(error):
                raise
            log.warning(
                "champion of %s is version %d; its alias was not set: %s", model, story.champion, error
            )
            return story
    raise PromotionConflict(f"the champion of {model} is being moved all the time; try again")


def read_aliases(client: Any, name: str) -> dict[str, int]:
    """The aliases of a model, {} where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_registered_model(name).aliases
        return {alias: int(number) for alias, number in found.items()}
    except MlflowException as error:
        if is_missing(error):
            return {}
        raise


def exists(client: Any, model: str, number: int) -> bool:
    """Whether a version is in the registry (still)."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(model, str(number))
    except MlflowException as error:
        if is_missing(error):
            return False
        raise
    return True


def _agrees(client: Any, model: str, story: Story, notes: list[Note]) -> bool:
    """Whether the aliases are what the trail says; otherwise one step is made towards it."""
    record = story.record  # None: there are only requests yet
    aliases = read_aliases(client, model)
    at = aliases.get(CHAMPION, 0)
    settled = record is None or SETTLED in record.marks
    if at == story.champion:
        if record is not None and not settled:
            mark(client, model, record.number, SETTLED)
        _set_previous(client, model, story, aliases)
        return True
    late = _late(client, model, story, at)
    lags = record is not None and not settled and at == int(record.body["came_from"])
    if record is None or (not lags and late is None):
        _enter(client, model, story, at)
    elif not any(number == record.number for number, _ in notes):
        name = f"{SETTING}{uuid.uuid4().hex}"  # said first, looked at again, and then done
        mark(client, model, record.number, name, this_process())
        notes.append((record.number, name))
    else:
        _set_champion(client, model, story, at)
        if late is not None and not lags:
            _forget(client, model, late, at, notes)
    return False


def _late(client: Any, model: str, story: Story, at: int) -> tuple[Record, str] | None:
    """An earlier move to `at` and its note of a request to set the alias that may still be under way. Notes of
    processes that ended on this machine are taken away on the way.
    """
    for record in story.log.records:
        if record is story.record or record.body.get("to") != at:
            continue
        for name in (name for name in record.marks if name.startswith(SETTING)):
            if not has_ended(record.marks[name]):
                return record, name
            unmark(client, model, record.number, name)
    return None


def _forget(client: Any, model: str, late: tuple[Record, str], at: int, notes: list[Note]) -> None:
    record, name = late
    if (record.number, name) in notes:
        notes.remove((record.number, name))
    unmark(client, model, record.number, name)
    log.warning(
        "%s: the alias was set back from version %d, where a move that was cut short or slow (record %d of the trail) "
        "may have set it; if you moved it by hand, move it again or `videollava rollback %d`",
        model,
        at,
        record.number,
        at,
    )


def _enter(client: Any, model: str, story: Story, at: int) -> None:
    """Write down what somebody else did; where a move came first, the next look tells."""
    gone = story.champion and not exists(client, model, story.champion)
    how = (
        f"version {story.champion} was deleted from the registry"
        if gone
        else "the alias was moved outside of this software"
        if at
        else "the alias was taken away"
    )
    write(client, model, story, Move(OUTSIDE, at, story.champion, "", now(), (how,)), SETTLED_MARK)


def _set_champion(client: Any, model: str, story: Story, at: int) -> None:
    from mlflow.exceptions import MlflowException

    if not story.champion:
        again(client.delete_registered_model_alias, model, CHAMPION)
        return
    try:
        again(client.set_registered_model_alias, model, CHAMPION, str(story.champion))
    except MlflowException as error:
        if not is_missing(error) or exists(client, model, story.champion):
            raise
        _enter(client, model, story, at)  # it was deleted before it could begin


def _set_previous(client: Any, model: str, story: Story, aliases: dict[str, int]) -> None:
    set_to = aliases.get(PREVIOUS, 0)
    if set_to and story.before[-1:] == (set_to,):
        return  # MLflow deletes an alias with its version
    previous = next((number for number in reversed(story.before) if exists(client, model, number)), 0)
    if previous and previous != set_to:
        again(client.set_registered_model_alias, model, PREVIOUS, str(previous))
    elif not previous and set_to:
        again(client.delete_registered_model_alias, model, PREVIOUS)


def _is_refusal(error: Exception) -> bool:
    from videollava.tracking.troubles import is_from_store

    return is_from_store(error)
