from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from typing import Any

import pytest
from made import llava

from videollava.data.records import items
from videollava.data.records.conversion import from_llava
from videollava.data.records.items import is_annotations, read_items
from videollava.data.records.rejected import RecordError
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
    first = next(stream)
    assert not isinstance(first, RecordError)
    assert first["id"] == 0
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


def test_a_list_inside_an_object() -> None:
    for key in ("data", "annotations", "records"):
        whole = {"version": 1.5, "info": {"data": []}, key: ITEMS, "licence": "free"}
        for indent in (None, 2):
            assert read(json.dumps(whole, indent=indent).encode()) == ITEMS
    assert read(b'{"id": 1, "conversations": [], "data": [1]}') == [
        {"id": 1, "conversations": [], "data": [1]}
    ]


def test_a_long_object_on_one_line_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "HEAD", 100)
    monkeypatch.setattr(items, "BLOCK", 50)
    many = [{"id": n, "text": "x" * 30} for n in range(200)]
    file = io.BytesIO(json.dumps({"version": "1", "data": many}).encode())
    stream = read_items(file, "file.json")
    assert next(stream) == many[0]
    assert file.tell() < 2000
    assert list(stream) == many[1:]
    long = [{"id": n, "conversations": ["y" * 300]} for n in range(3)]
    assert read(b"\n".join(json.dumps(item).encode() for item in long)) == long
    assert read("\n".join(json.dumps(item, indent=1) for item in long).encode()) == long


def test_objects_over_several_lines_without_a_list() -> None:
    assert read("\n".join(json.dumps(item, indent=2) for item in ITEMS).encode()) == ITEMS
    assert read(",\n".join(json.dumps(item, indent=2) for item in ITEMS).encode()) == ITEMS
    assert read(json.dumps(ITEMS[0], indent=2).encode()) == ITEMS[:1]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_encodings(encoding: str) -> None:
    array, rows = json.dumps(ITEMS, ensure_ascii=False), "\r\n".join(json.dumps(item) for item in ITEMS)
    assert read(array.encode(encoding)) == read(rows.encode(encoding)) == ITEMS
    with pytest.raises(InputError, match=r"file\.json: not valid UTF-16"):
        read("[1]".encode("utf-16") + b"\x00\xd8\x01")


def test_commas_and_numbers_as_people_leave_them() -> None:
    assert read(b'{"id": 1},\n{"id": 2},\n') == [{"id": 1}, {"id": 2}]
    assert read(b'[{"id": 1}, {"id": 2},]') == [{"id": 1}, {"id": 2}]
    assert str(read(b'{"id": NaN, "x": Infinity}')) == "[{'id': nan, 'x': inf}]"
    with pytest.raises(InputError, match=r"file\.json: line 4: item 1 of the list .*after a comma too many"):
        read(b'[\n{"id": 1},\n{"id": 2,\n}\n]')
    with pytest.raises(InputError, match=r"item 0 of the list"):
        read(b'[{"id": ' + b"9" * 5000 + b"}]")


def test_a_broken_first_line_is_one_broken_line() -> None:
    found = read(b'{"id": \n{"id": 2}\n{"id": 3}\n')
    assert isinstance(found[0], RecordError)
    assert found[1:] == [{"id": 2}, {"id": 3}]
    found = read(b'{"id": "cut off\n{"id": 2}\n')
    assert isinstance(found[0], RecordError)
    assert found[1:] == [{"id": 2}]


RECORDS = [llava("a"), llava("b"), llava("c")]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("head", [100, 1 << 16])
def test_records_by_their_ids(monkeypatch: pytest.MonkeyPatch, indent: int | None, head: int) -> None:
    monkeypatch.setattr(items, "HEAD", head)
    nameless = {item["id"]: {key: item[key] for key in item if key != "id"} for item in RECORDS}
    if head > 100:  # else the first is longer than what is looked at
        assert read(json.dumps(nameless, indent=indent).encode()) == RECORDS
    assert read(json.dumps(RECORDS[0], indent=indent).encode()) == RECORDS[:1]


def test_which_files_hold_records() -> None:
    assert all(map(is_annotations, ("a.json", "x/a.JSONL", "a.ndjson.gz", "a.json.zst")))
    assert not any(map(is_annotations, ("a.csv", "source.json", "x/dataset_info.json", "a.jsonx", "a.gz")))


def test_questions_by_their_ids() -> None:
    held = {"v1": {"question": "what?", "answer": "x"}, "v2": {"question": "who?", "answer": "y"}}
    assert [item["id"] for item in read(json.dumps(held).encode())] == ["v1", "v2"]
    line = {"question": {"question": "what?"}, "answer": "x"}
    assert read(json.dumps(line).encode()) == [line]


def test_lists_one_after_the_other_are_all_read() -> None:
    one, two = json.dumps(RECORDS[:1]).encode(), json.dumps(RECORDS[1:]).encode()
    assert read(one + two) == read(one + b"\n" + two + b"\n") == RECORDS
    assert read(b"[]\n" + two + b"[]") == RECORDS[1:]
    for rest in (b"]", b"x", b'{"id": 1}'):
        with pytest.raises(InputError, match=r"file\.json: line 1: item 1"):
            read(one + rest)


def test_two_lists_in_an_object_are_one_too_many() -> None:
    assert read(json.dumps({"annotations": [], "data": RECORDS, "items": []}).encode()) == RECORDS
    with pytest.raises(InputError, match=r"holds two lists, 'data' and 'records'"):
        read(json.dumps({"data": RECORDS, "records": RECORDS}).encode())
    with pytest.raises(InputError, match="something follows its end"):
        read(json.dumps({"data": RECORDS}).encode() * 2)
    with pytest.raises(InputError, match="not JSON"):
        read(json.dumps({"data": RECORDS}).encode()[:-1])


@pytest.mark.parametrize("codec", ["gz", "bz2", "xz", "zstd", "lz4"])
def test_compressed_files(codec: str) -> None:
    import pyarrow as pa

    packers: dict[str, Any] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}

    def pack(data: bytes) -> bytes:
        if codec in packers:
            return bytes(packers[codec](data))
        file = pa.BufferOutputStream()
        with pa.CompressedOutputStream(file, codec) as out:
            out.write(data)
        return bytes(file.getvalue())

    rows = b"\n".join(json.dumps(item).encode() for item in RECORDS)
    for data in (rows, json.dumps(RECORDS).encode(), json.dumps(RECORDS).encode("utf-16"), b""):
        assert read(pack(data)) == (RECORDS if data else [])
    with pytest.raises(InputError, match=r"file\.json: cannot be read to its end"):
        read(pack(json.dumps(ITEMS * 300).encode())[:-20])


def test_a_damaged_archive_is_named() -> None:
    class Damaged(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise zipfile.BadZipFile("Bad CRC-32 for file 'notes.json'")

    with pytest.raises(InputError, match=r"file\.json: cannot be read to its end \(Bad CRC-32"):
        list(read_items(Damaged(b"[1]"), "file.json"))
