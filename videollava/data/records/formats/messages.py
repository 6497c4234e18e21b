"""`messages` with `images` and `videos` (ms-swift, LLaMA-Factory), and sharegpt's conversations + system.

The templates here have a system prompt of their own: a record's is put before its first question, as chat templates
without a system role do, but for the stock phrases, which are left out. Media that no mark stands for come before the
first question, as in ms-swift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from videollava.data.records.conversations import REQUESTS
from videollava.data.records.conversion import ROLES, TURNS, content_of, conversation_of
from videollava.data.records.formats.format import Context, Item, ItemFormat
from videollava.data.records.formats.llava import LLAVA, first_turn
from videollava.data.records.formats.marking import mend_marks, put_marks
from videollava.data.records.marks import find_marks, mark
from videollava.data.records.rejected import RecordError

__all__ = ["MESSAGES"]

STOCK = {
    "you are a helpful assistant",
    "you are a helpful and harmless assistant",
    "you are a useful and harmless assistant",
}
PREFERENCES = ("rejected_response", "rejected_images", "chosen", "rejected", "rejected_messages")
# Placeholders of ms-swift's boxes, which its templates fill in.
BOXES = ("<bbox>", "<ref-object>")


def _fits(item: Item) -> bool:
    first = first_turn(item)
    return {"role", "content"} <= set(first) or _is_pair(first) or ("system" in item and "from" in first)


def _is_pair(turn: Any) -> bool:
    return isinstance(turn, Mapping) and {"human", "assistant"} <= set(turn)


def _as_llava(item: Item, place: str, context: Context) -> Item:
    turns = conversation_of(item)
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        return item  # from_llava says what is wrong
    _refuse_others(item, place, context)
    turns = [part for turn in turns for part in _expand(turn)]
    system = item.get("system")
    if _role(turns[0]) == "system":
        system, turns = content_of(turns[0]), turns[1:]
    if len(turns) == 1 and ROLES.get(_role(turns[0])) == "gpt":
        turns = _as_caption(turns[0])
    if isinstance(system, str) and system.strip():
        turns = _with_system(system, turns, context)
    rest = {name: item[name] for name in item if name not in TURNS}
    plain = {**rest, TURNS[0]: turns}
    return put_marks(mend_marks(plain, place, context.notes), place, context.notes)


def _refuse_others(item: Item, place: str, context: Context) -> None:
    """What is trained in another way, or means nothing without the tool that wrote it."""
    if item.get("label") is False:
        raise RecordError(
            "bad answer", f"{place}: field label: false says that the answer is a bad one; drop it"
        )
    if item.get("tools"):
        raise RecordError(
            "tools", f"{place}: field tools: calls of tools are not trained here; drop the record"
        )
    if item.get("objects"):
        raise RecordError(
            "boxes",
            f"{place}: field objects: write boxes into the texts ({', '.join(BOXES)} stay empty here)",
        )
    if any(item.get(name) for name in PREFERENCES):
        context.notes["rejected answers of preference data were left out"] += 1


def _expand(turn: Any) -> list[Any]:
    """Sharegpt's pairs as two turns."""
    if not _is_pair(turn):
        return [turn]
    return [{"from": "human", "value": turn["human"]}, {"from": "gpt", "value": turn["assistant"]}]


def _role(turn: Any) -> str:
    said = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    return said.strip().lower() if isinstance(said, str) else ""


def _as_caption(turn: Mapping[str, Any]) -> list[Any]:
    """Pretraining has an answer alone, with the medium's mark before it: asked for by a request for a caption."""
    text = content_of(turn)
    marks = find_marks(text) if isinstance(text, str) else []
    if len(marks) != 1 or not text.lstrip().startswith(mark(marks[0])):
        return [turn]
    requests = REQUESTS[marks[0]]
    request = requests[len(text) % len(requests)]
    told = text.lstrip().removeprefix(mark(marks[0])).lstrip()
    return [{"from": "human", "value": f"{mark(marks[0])}\n{request}"}, {"from": "gpt", "value": told}]


def _with_system(system: str, turns: list[Any], context: Context) -> list[Any]:
    first = turns[0] if turns else None
    if not isinstance(first, dict) or ROLES.get(_role(first)) != "human":
        return turns
    if system.strip().lower().rstrip(".!") in STOCK:
        context.notes["stock system prompts were left out"] += 1
        return turns
    context.notes["system prompts were put before the first question"] += 1
    said = content_of(first)
    text = (
        [{"type": "text", "text": f"{system.strip()}\n\n"}, *said]
        if isinstance(said, list)
        else f"{system.strip()}\n\n{said}"
    )
    return [{**first, "value" if "value" in first else "content": text}, *turns[1:]]


MESSAGES = ItemFormat(
    "messages",
    "ms-swift and LLaMA-Factory: messages (role, content), images, videos; sharegpt's conversations + system",
    _fits,
    _as_llava,
    (*LLAVA.keys, "system", "tools", "objects", "label", *PREFERENCES),
)
