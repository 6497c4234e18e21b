"""The card is told from the index; what was forgotten is in neither."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from made import archive_source, lines, llava, params, png, prepare, tar

from videollava import cli
from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.shards import Shards
from videollava.data.prepare.tables import load_split
from videollava.data.versions.card import licence_of, read_card
from videollava.errors import InputError
from videollava.evaluate.pictures import Album
from videollava.evaluate.report_card import card_part
from videollava.params import Params, Source

MEDIA = {f"{number}.png": png(number) for number in range(4)}
ONE = [llava("a", image="0.png"), llava("b", image="1.png"), llava("both", image=["0.png", "1.png"])]
TWO = [llava("again", image="0.png"), llava("c", image="2.png"), llava("lost", image="9.png"), llava("text")]


def two_sources(workspace: Path) -> Params:
    """`one` and `two`, fetched: picture 0 is in both, a record of `two` has none of the archive's."""
    made = []
    for name, records, use in (("one", ONE, "pretrain"), ("two", TWO, "finetune")):
        members = {path: data for path, data in MEDIA.items() if path in json.dumps(records)}
        archive = tar(workspace / f"from/{name}.tar", members)
        notes = lines(workspace / f"from/{name}.jsonl", records)
        made.append(archive_source(archive, notes, name=name, use=use))
    chosen = params(*made, max_quarantined=0.5)
    fetch(chosen, workspace)
    return chosen


def card(workspace: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workspace / "data/index/card.json").read_text())
    return found


def test_a_card_counts_by_source_and_split(tmp_path: Path) -> None:
    prepare(two_sources(tmp_path), tmp_path)
    told = card(tmp_path)
    size = {number: len(MEDIA[f"{number}.png"]) for number in range(4)}
    assert told["sources"]["one"] == {
        "bytes": size[0] + size[1],
        "media": {"image": 2},
        "records": {"pretrain": 3},
        "quarantined": {},
        "members_refused": {},
    }
    # Picture 0 lies in the first source's shards.
    assert (told["sources"]["two"]["bytes"], told["sources"]["two"]["media"]) == (size[2], {"image": 1})
    assert told["sources"]["two"]["records"] == {"finetune": 3}
    assert sum(told["sources"]["two"]["quarantined"].values()) == 1
    lengths = load_split(tmp_path / "data/index", "finetune").column("tokens").to_pylist()
    finetune = told["splits"]["finetune"]
    assert (finetune["records"], finetune["most"], finetune["median"]) == (
        3,
        max(lengths),
        sorted(lengths)[1],
    )
    edges = [0, *(edge for edge, _ in finetune["lengths"])]
    for below, (edge, count) in zip(edges, finetune["lengths"], strict=False):
        assert count == sum(below < length <= edge for length in lengths)
    assert sum(count for _, count in finetune["lengths"]) == 3
    assert [sample["id"] for sample in told["samples"]] == ["again", "c", "text", "a", "b", "both"]
    assert told["samples"][1]["turns"] == [["human", "<image>\nwhat is it?"], ["gpt", "it is c"]]


def test_what_is_forgotten_is_in_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = two_sources(tmp_path)
    gone = hashlib.sha256(MEDIA["0.png"]).hexdigest()
    (tmp_path / "locks").mkdir(exist_ok=True)
    (tmp_path / "locks/forgotten.txt").write_text(f"# why\n\n{gone} its owner asked\n")
    prepare(chosen, tmp_path)
    folder = tmp_path / "data/index"
    assert "one: 1 media and their 2 records are left out (locks/forgotten.txt)" in capsys.readouterr().out
    counts = {"one": {"media": 1, "records": 2}, "two": {"media": 1, "records": 1}}
    assert json.loads((folder / "summary.json").read_text())["forgotten"] == counts
    assert card(tmp_path)["forgotten"] == counts
    shards = Shards(folder, verify=True)
    assert [shards.read(number) for number in range(len(shards))] == [MEDIA["1.png"], MEDIA["2.png"]]
    assert load_split(folder, "pretrain").select(["id", "media"]).to_pylist() == [{"id": "b", "media": [0]}]
    rows = load_split(folder, "finetune").select(["id", "media"]).to_pylist()
    assert rows == [{"id": "c", "media": [1]}, {"id": "text", "media": []}]


def test_the_whole_card_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "sources:\n  one: {kind: archive, format: llava, urls: [x], licence: CC-BY-4.0}\n"
    )
    assert cli.main(["data", "card"]) == 2
    assert "card.json: not found; run `videollava index`" in capsys.readouterr().err
    chosen = two_sources(tmp_path)
    prepare(chosen, tmp_path)
    capsys.readouterr()
    overlap = {"gqa": {"media": 1, "of_media": 7, "questions": 0, "near": 0, "both": 2, "of_questions": 9}}
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation/contamination.json").write_text(json.dumps(overlap))
    assert cli.main(["data", "card"]) == 0
    said = capsys.readouterr().out
    assert "one  (licence: CC-BY-4.0)\n  records  3 pretrain\n  media    2 image, 0.0 MiB\n" in said
    assert "two  (licence: not stated)" in said
    assert "left out 1 records: " in said
    assert "gqa: 1 of 7 media are trained on, 2 of 9 questions with their medium" in said
    page = card_part(read_card(tmp_path, chosen), Album(tmp_path, 2, 1_000_000))
    assert page.count("<img ") == 6  # of six samples one is text, and one shows two pictures
    assert "not stated" in page


def test_licences_are_stated_or_a_packages_own() -> None:
    package = Source(kind="package", format="easy-vqa", package="numpy")
    assert "BSD" in licence_of(package)
    assert licence_of(package.replace(licence="mine")) == "mine"
    assert licence_of(package.replace(package="no-such-package")) == "not stated"
    assert licence_of(Source(kind="generated", format="clips")) == "drawn here"


def test_a_list_that_cannot_be_read_stops_the_index(tmp_path: Path) -> None:
    (tmp_path / "locks").mkdir(exist_ok=True)
    (tmp_path / "locks/forgotten.txt").write_text("ABC its owner asked\n")
    with pytest.raises(InputError, match=r"forgotten.txt: line 1: 'ABC its owner asked': write the medium's"):
        prepare(two_sources(tmp_path), tmp_path)
