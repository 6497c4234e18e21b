from __future__ import annotations

import io
import json
from typing import Any

import pytest
from made import llava

from videollava.data import items
from videollava.data.items import read_items
from videollava.data.records import RecordError, from_llava
from videollava.errors import InputError

ITEMS = [
    {"id": "a", "text": 'with ] and } and "quotes" and é'},
    {"id": "b", "list": [1, [2]]},
    {"id": "c" * 200},
]


def read(data: bytes) -> list[Any]:
    return list(read_items(io.BytesIO(data), "file.json"))


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_comes_item_by_item(monkeypatch: pytest.MonkeyPatch, block: int, indent: int | None) -> None:
    monkeypatch.setattr(items, "BLOCK", block)
    assert read(json.dumps(ITEMS, indent=indent, ensure_ascii=False).encode()) == ITEMS


def test_an_array_is_read_no_further_than_asked() -> None:
    file = io.BytesIO(json.dumps([{"id": n, "text": "x" * 1000} for n in range(20_000)]).encode())
    stream = read_items(file, "file.json")
    assert next(stream)["id"] == 0
    assert file.tell() < 4 << 20


def test_lines_and_byte_order_marks() -> None:
    data = b"\n".join(json.dumps(item).encode() for item in ITEMS)
    assert read(data) == read(b"\xef\xbb\xbf" + data) == read(data.replace(b"\n", b"\r\n\r\n")) == ITEMS
    assert read(b"\xef\xbb\xbf" + json.dumps(ITEMS).encode()) == ITEMS
    assert read(b"") == read(b" \n") == read(b"[]") == []


def test_a_malformed_line_costs_itself_alone() -> None:
    found = read(b'{"id": 1}\n{"id": \n\xff\xfe\n{"id": 4}\n')
    assert found[0] == {"id": 1}
    assert found[3] == {"id": 4}
    for number, error in ((2, found[1]), (3, found[2])):
        assert isinstance(error, RecordError)
        assert error.reason == "malformed line"
        assert f"file.json: line {number}" in str(error)


def test_a_line_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "LONGEST", 100)
    found = read(b'{"id": 1}\n' + b"x" * 1000 + b'\n{"id": 3}\n')
    assert [found[0], found[2]] == [{"id": 1}, {"id": 3}]
    assert "longer than 100 bytes" in str(found[1])


def test_bytes_that_are_not_text_cost_their_record_alone() -> None:
    good, bad = llava("a"), llava("b")
    data = json.dumps([bad, good]).encode().replace(b"it is b", b"it is \xff")
    first, second = read(data)
    with pytest.raises(RecordError, match="UTF-8"):
        from_llava(first, "mine")
    assert second == good


@pytest.mark.parametrize("data", [b'[{"id": 1}, {"id": oops}]', b'[{"id": 1}, {"id": 2', b'[{"id": 1}'])
def test_a_broken_array_is_an_error_that_names_the_place(data: bytes) -> None:
    stream = read_items(io.BytesIO(data), "file.json")
    assert next(stream) == {"id": 1}
    with pytest.raises(InputError, match=r"file.json: .*item 1"):
        list(stream)


def test_a_broken_item_far_from_the_end_is_found_without_reading_on() -> None:
    file = io.BytesIO(b'[{"id" 1},' + b'{"id": 2},' * 500_000)
    with pytest.raises(InputError, match="item 0"):
        list(read_items(file, "file.json"))
    assert file.tell() < 3 << 20
