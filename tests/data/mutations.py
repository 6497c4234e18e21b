"""Annotation files as nobody should write them: genuine-like ones, changed by a seed in the ways that files break."""

from __future__ import annotations

import codecs
import json
import random
from collections.abc import Callable
from typing import Any

__all__ = ["mutated"]

PLANTED = (
    "http://127.0.0.1:9/x.png",
    "file:///etc/passwd",
    "../../etc/passwd",
    "/etc/passwd",
    "\\\\host\\share\\x.mp4",
)


def _turns(draw: random.Random, mark: str) -> list[Any]:
    said = [{"from": "human", "value": f"{mark}what is it?"}, {"from": "gpt", "value": "a thing"}]
    more = [{"from": "human", "value": "and é 字?"}, {"from": "gpt", "value": 'it is "so"\n'}]
    return said + more * draw.randint(0, 2)


def _messages(draw: random.Random, number: int) -> dict[str, Any]:
    told = [{"role": "user", "content": "<image>what?"}, {"role": "assistant", "content": "this"}]
    return {"messages": [{"role": "system", "content": "S"}, *told], "images": [f"{number}.png"]}


FORMS: tuple[Callable[[random.Random, int], dict[str, Any]], ...] = (
    lambda draw, n: {"id": str(n), "image": f"{n}.png", "conversations": _turns(draw, "<image>\n")},
    lambda draw, n: {
        "id": n,
        "video": [f"{n}.mp4", "b.mp4"],
        "conversations": _turns(draw, "<video><video>\n"),
    },
    lambda draw, n: {
        "v_id": str(n),
        "video": f"{n}.mp4",
        "source": "VATEX",
        "conversations": _turns(draw, "<video>\n"),
    },
    lambda draw, n: {"q": "what?", "a": "this", "video_id": f"v_{n}"},
    _messages,
    lambda draw, n: {
        "video": f"{n}.mp4",
        "question": "what?",
        "choices": ["a", "b"],
        "answer": "B",
        "split": "test",
    },
    lambda draw, n: {"image": f"{n}.png", "caption": ["a dog", "a hound"]},
)


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def _odd(draw: random.Random) -> Any:
    """A value of a type that nobody expects."""
    return draw.choice(
        [
            *(
                None,
                True,
                0,
                -1,
                1e308,
                float("nan"),
                float("inf"),
                10**4000,
                "",
                " ",
                "\0",
                "\ud800",
                "None",
            ),
            *(
                [],
                {},
                [[]],
                [None],
                {"a": {"b": []}},
                _nested(60),
                "x" * 300_000,
                ["x"] * 5000,
                [{"type": "image"}],
            ),
            *(
                {"path": None},
                {"bytes": "AA"},
                "data:image/png;base64,AA",
                "<image>" * 50,
                PLANTED[0],
                list(PLANTED),
            ),
        ]
    )


def _change(value: Any, draw: random.Random) -> Any:
    """The value with one thing in it changed, somewhere."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        way = draw.randrange(5)
        if way == 0:
            return {name: held for name, held in value.items() if name != key}
        if way == 1:
            return {(name[1:] + "x" if name == key else name): held for name, held in value.items()}
        return {**value, key: _change(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        way = draw.randrange(4)
        if way == 0:
            return value[:place] + value[place + 1 :]
        if way == 1:
            return [*value, value[place]]
        return [*value[:place], _change(value[place], draw), *value[place + 1 :]]
    return _odd(draw)


def _text(records: list[Any], draw: random.Random) -> str:
    """The records as a file of some kind."""
    way = draw.randrange(5)
    ascii_only = draw.random() < 0.5
    if way < 2:
        return "\n".join(json.dumps(record, ensure_ascii=True) for record in records)
    if way == 2:
        return json.dumps(records, indent=draw.choice([None, 1]))
    if way == 3:
        return json.dumps({"version": 1, "data": records})
    return json.dumps({f"k{n}": record for n, record in enumerate(records)}, ensure_ascii=ascii_only or True)


def _break(data: bytes, draw: random.Random) -> bytes:
    """The bytes of a file, broken as copying and editing break them."""
    place = draw.randrange(max(1, len(data)))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[:place],
        lambda: data[:place] + b"\0" * draw.choice([1, 8, 5000]) + data[place:],
        lambda: data[:place] + draw.randbytes(draw.choice([1, 4, 64])) + data[place + 1 :],
        lambda: codecs.BOM_UTF8 + data,
        lambda: data.decode("utf-8", "replace").encode(
            draw.choice(["utf-16", "utf-16-le", "utf-32", "latin-1"]), "replace"
        ),
        lambda: codecs.BOM_UTF16_LE + data,
        lambda: data[:place] + b'"' + data[place:],
        lambda: data[:place] + b"[" * draw.choice([10, 2000, 200_000]) + data[place:],
        lambda: data[:place] + b'{"a":' * draw.choice([10, 2000, 100_000]) + data[place:],
        lambda: data.replace(b'"id"', b'"id": 1, "id"').replace(b'"video"', b'"video": "a.mp4", "video"'),
        lambda: data.replace(b": 1", b": 1" + b"9" * draw.choice([30, 5000])),
        lambda: data[:place] + data[:place] + data,
        lambda: data.replace(b"\n", draw.choice([b"\r", b"\r\n", b",\n", b"\n\n\0\n"])),
        lambda: b"",
        lambda: b'{"id": "' + b"x" * 2_000_000 + b'", ' + data,
        lambda: b"[" + data + b"," * 2000,
    )
    return draw.choice(ways)()


def mutated(seed: int) -> tuple[str, bytes]:
    """The name and the bytes of one file; the same for the same seed."""
    draw = random.Random(f"annotations {seed}")
    form = draw.choice(FORMS)
    records: list[Any] = [form(draw, number) for number in range(draw.choice([1, 3, 12, 60]))]
    for _ in range(draw.choice([0, 1, 1, 3, 20])):
        place = draw.randrange(len(records))
        records[place] = _change(records[place], draw)
    if draw.random() < 0.2:
        records.insert(0, {**form(draw, 0), draw.choice(["image", "video", "images"]): list(PLANTED)})
    try:
        text = _text(records, draw)
    except ValueError:  # a number that Python writes no digits of
        text = repr(records)
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.6:
        data = _break(data, draw)
    return f"{seed}.{draw.choice(['json', 'jsonl'])}", data
