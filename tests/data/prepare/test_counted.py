"""What one more source costs the index: what is in it. The rest is remembered, by what the records say."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, params
from test_prepare import files

from videollava.data.prepare import index, rows, tables
from videollava.data.prepare.tables import (
    RECORDS,
    ROWS,
    TableWriter,
    load_split,
    read_batches,
    record_schema,
    write_media,
)
from videollava.data.text.prompts import encode
from videollava.data.text.vocabulary import PlainTokenizer, load_tokenizer, train_tokenizer, write_plain
from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Params, Portion

WORDS = ["red", "dog", "runs", "over", "grass", "<image>\n", "é", "狗", "</s>", "ASSISTANT:"]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(number: int, name: str) -> dict[str, Any]:
    """About a picture, or text in one of seven; one in 500 can't be used."""
    is_text = number % 7 == 3
    asked = ("" if is_text else "<image>\n") + f"what is {number} of {name}?"
    said = [["human", asked], ["gpt", "" if number % 500 == 9 else f"it is {WORDS[number % 5]} {number}"]]
    kept = {"id": f"{name}-{number}", "split": "finetune", "kind": "", "part": ""}
    gold: dict[str, Any] = {"answers": [], "choices": []}
    media = [] if is_text else [number % 1000]
    asks = digest(asked)[:16] if is_text else ""
    return {**kept, **gold, "conversations": json.dumps(said), "asked": asks, "media": media}


def write_source(workspace: Path, name: str, numbers: range) -> None:
    """data/shards/NAME with such records, without media that could be opened."""
    folder = workspace / "data/shards" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with TableWriter(folder / RECORDS, record_schema()) as writer:
        for number in numbers:
            writer.add(record(number, name))
    about = {"kind": "image", "shard": 0, "offset": 0, "size": 7, "width": 1, "height": 1, "frames": 1}
    shown = [
        (number, digest(f"{name} {number // 2}" if number % 2 else f"{number}")) for number in range(1000)
    ]
    write_media(
        folder,
        ({**about, "media_id": number, "sha256": text, "look": text[:16]} for number, text in shown),
    )
    (folder / f"{name}-00000.tar").write_bytes(name.encode())
    (folder / "quarantine.jsonl").touch()
    found: dict[str, Any] = {"by_source": {}, "members": {}}
    totals = {"records": len(numbers), "media": {}, "quarantined": found}
    (folder / "summary.json").write_text(json.dumps(totals))


def chosen(workspace: Path, *names: str, **settings: Any) -> Params:
    if not (workspace / "tokenizer").exists():
        texts = [turn[1] for number in range(50) for turn in json.loads(record(number, "a")["conversations"])]
        train_tokenizer(texts, 300, workspace / "tokenizer")
    sources = (archive_source(workspace / "tokenizer/tokenizer.json", name=name) for name in names)
    return params(*sources, tokenizer=str(workspace / "tokenizer"), max_quarantined=0.5, **settings)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the records whose tokens are counted, in this process."""
    names: list[str] = []
    count = rows._count

    def noting(split: str, name: str, *rest: Any) -> Any:
        names.append(name)
        return count(split, name, *rest)

    monkeypatch.setattr(rows, "_count", noting)
    return names


def test_only_new_batches_are_counted(
    tmp_path: Path, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS", 200)  # of a batch
    alone = Machine(workers=1)
    write_source(tmp_path, "a", range(410))
    index.run(chosen(tmp_path, "a"), tmp_path, alone)
    assert len(counted) == 410
    first = files(tmp_path / "data/index")
    counted.clear()
    # More of a source: its last batch, which is another now. Another source: its own.
    write_source(tmp_path, "a", range(430))
    write_source(tmp_path, "b", range(70))
    index.run(chosen(tmp_path, "a", "b"), tmp_path, alone)
    assert sorted(counted) == sorted([f"a-{n}" for n in range(400, 430)] + [f"b-{n}" for n in range(70)])
    both = files(tmp_path / "data/index")
    counted.clear()
    # Taken out again: nothing but the batch that is as it was, where that is forgotten.
    write_source(tmp_path, "a", range(410))
    index.run(chosen(tmp_path, "a"), tmp_path, alone)
    assert set(counted) <= {f"a-{n}" for n in range(400, 410)}
    assert files(tmp_path / "data/index") == first
    # From scratch, by two workers, it is the same.
    write_source(tmp_path, "a", range(430))
    shutil.rmtree(tmp_path / "checkpoints")
    index.run(chosen(tmp_path, "a", "b"), tmp_path, Machine(workers=2))
    assert files(tmp_path / "data/index") == both


def test_what_goes_elsewhere_is_counted_again_and_no_more(tmp_path: Path, counted: list[str]) -> None:
    write_source(tmp_path, "a", range(1500))
    index.run(chosen(tmp_path, "a", near=0), tmp_path, Machine(workers=1))
    counted.clear()
    tested = chosen(tmp_path, "a", near=0, sources={"a": Portion(test=0.1)})
    index.run(tested, tmp_path, Machine(workers=1))
    # Of a test nothing is cut: its records are other ones.
    asked = {row["id"] for row in load_split(tmp_path / "data/index", "test-a").to_pylist()}
    refused = {json.loads(line)["record"] for line in (tmp_path / "data/index/quarantine.jsonl").open()}
    assert asked <= set(counted) <= asked | refused
    assert 50 < len(asked) < 300
    first = files(tmp_path / "data/index")
    shutil.rmtree(tmp_path / "checkpoints")
    index.run(tested, tmp_path, Machine(workers=1))
    assert files(tmp_path / "data/index") == first
    # What is left out is not counted, and is when it is wanted.
    counted.clear()
    index.run(chosen(tmp_path, "a", near=0, sources={"a": Portion(most=40)}), tmp_path, Machine(workers=1))
    assert set(counted) <= asked | refused


def test_a_memory_that_is_cut_off_is_none(tmp_path: Path, counted: list[str]) -> None:
    write_source(tmp_path, "a", range(600))
    index.run(chosen(tmp_path, "a"), tmp_path, Machine(workers=1))
    first = files(tmp_path / "data/index")
    (file,) = (tmp_path / "checkpoints/index").iterdir()
    for data in (b"", file.read_bytes()[:200], file.read_bytes()[:-5], b"{}"):
        counted.clear()
        file.write_bytes(data)
        index.run(chosen(tmp_path, "a"), tmp_path, Machine(workers=1))
        assert len(counted) == 600
        assert files(tmp_path / "data/index") == first


def test_samples_come_as_often_as_they_are_trained_on(tmp_path: Path) -> None:
    write_source(tmp_path, "a", range(3000))
    portions = {"a": Portion(weight=3.0)}
    index.run(chosen(tmp_path, "a", held_out=0, sources=portions), tmp_path, Machine(workers=1))
    table = load_split(tmp_path / "data/index", "finetune")
    good = [f"a-{n}" for n in range(3000) if n % 500 != 9]
    assert table["id"].to_pylist() == [name for name in good for _ in range(3)]
    assert [len(batch) for batch in table.to_batches()] == [ROWS, ROWS, 3 * len(good) - 2 * ROWS]
    first = next(read_batches(tmp_path / "data/index/splits/finetune.arrow", ["tokens", "id"]))
    assert first.column("tokens").to_pylist() == table["tokens"].to_pylist()[:ROWS]
    refused = [json.loads(line)["record"] for line in (tmp_path / "data/index/quarantine.jsonl").open()]
    assert refused == [f"a-{n}" for n in range(3000) if n % 500 == 9]


def test_batches_are_those_of_single_rows(tmp_path: Path) -> None:
    given = [record(number, "a") for number in range(10_000)]
    with TableWriter(tmp_path / "one.arrow", record_schema()) as writer:
        for row in given:
            writer.add(row)
    with TableWriter(tmp_path / "other.arrow", record_schema()) as writer:
        for batch in read_batches(tmp_path / "one.arrow"):
            for begin in range(0, batch.num_rows, 700):
                writer.write(batch.slice(begin, 700))
    assert (tmp_path / "one.arrow").read_bytes() == (tmp_path / "other.arrow").read_bytes()


def test_tables_that_are_none_are_told(tmp_path: Path) -> None:
    write_source(tmp_path, "a", range(10))
    table = tmp_path / "data/shards/a" / RECORDS
    table.write_bytes(b"no table")
    with pytest.raises(
        InputError, match=r"records\.arrow: not an Arrow file .* run `videollava shards a` again"
    ):
        index.run(chosen(tmp_path, "a"), tmp_path)
    table.unlink()
    with pytest.raises(InputError, match=r"records\.arrow: not found; run `videollava shards a`"):
        index.run(chosen(tmp_path, "a"), tmp_path)


def test_workers_count_as_transformers_does(tmp_path: Path) -> None:
    from videollava.data.records.record import Turn

    train_tokenizer(WORDS * 20, 300, tmp_path / "tokenizer")
    theirs = load_tokenizer(tmp_path / "tokenizer")
    assert write_plain(theirs, tmp_path / "plain")
    plain = PlainTokenizer(tmp_path / "plain")
    for word in WORDS:
        turns = [Turn("human", f"<image>\n{word} what?"), Turn("gpt", f" {word}{word} is")]
        if "<image>" in word:
            continue
        assert encode(turns, ["image"], plain) == encode(turns, ["image"], theirs)
    assert not write_plain(object(), tmp_path / "none")
