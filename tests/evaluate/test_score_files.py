"""Files as people give them: any name, any order, broken, doubled, missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.evaluate import normalise
from videollava.evaluate.benchmarks.reading import documents, parse, read_answers
from videollava.evaluate.score import as_json, as_text, score

SEED = {"1": "A", "2": "B", "3": "C"}


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_counts_of_what_does_not_fit(tmp_path: Path) -> None:
    gold = write(tmp_path / "whatever.txt", json.dumps(SEED))
    rows: list[dict[str, Any]] = [
        {"question_id": 1, "prediction": "B"},
        {"question_id": "1", "prediction": "A"},  # the last one counts, as officially
        {"question_id": 9, "prediction": "A"},
        {"question_id": 2},
        {"prediction": "C"},
        {"question_id": 2, "prediction": None},
    ]
    answers = write(tmp_path / "x.json", lines(*rows) + '{"question_id": 3, "predict')
    figures = score("seed", [gold], answers)
    assert figures["accuracy"] == pytest.approx(100 / 3)
    assert (figures["missing"], figures["extra"], figures["duplicates"], figures["malformed"]) == (2, 1, 1, 4)
    assert figures["missing_ids"] == ["2", "3"]
    assert figures["malformed_lines"] == [4, 5, 6, 7]
    assert "missing: 2" in as_text(figures)


def test_answers_may_be_lines_a_list_or_a_mapping(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold", json.dumps(SEED))
    rows = [{"question_id": key, "prediction": letter} for key, letter in SEED.items()]
    forms = [
        lines(*rows),
        json.dumps(rows),
        json.dumps(SEED),
        "﻿" + lines(*rows),
        lines(*rows).replace("\n", "\r\n"),
    ]
    for number, form in enumerate(forms):
        assert score("seed", [gold], write(tmp_path / f"form{number}", form))["accuracy"] == 100.0


def test_one_line_of_answers(tmp_path: Path) -> None:
    given = read_answers(write(tmp_path / "a", lines({"question_id": 1, "text": "x"})))
    assert given.texts == {"1": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "neither JSON"),
        ("hello", "neither JSON"),
        ('{"a": ', "line 1: not JSON"),
        ('{"question_id": 1}\nnot json\n', "line 2: not JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        ("index\tA\n1\tx\ty\n", "row 2 has more cells"),
    ],
)
def test_broken_gold_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "gold", content)
    with pytest.raises(InputError, match=message) as caught:
        documents([path])
    assert str(path) in str(caught.value)


def test_gold_that_is_not_there(tmp_path: Path) -> None:
    answers = write(tmp_path / "a", lines({"question_id": 1, "text": "x"}))
    with pytest.raises(InputError, match=r"gone: not found"):
        score("gqa", [tmp_path / "gone"], answers)
    with pytest.raises(InputError, match=r"VQA annotations .* not among the files given"):
        score("vqav2", [answers], answers)
    with pytest.raises(InputError, match=r"no answers: give --answers"):
        score("gqa", [write(tmp_path / "g", '{"1": {"imageId": 1, "types": {}}}')], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no JSON file or table in this folder"):
        score("pope", [tmp_path / "empty"], answers)
    with pytest.raises(InputError, match=r"give --judge-replies"):
        score("msvd", [], answers)


def test_gold_given_twice(tmp_path: Path) -> None:
    one = write(tmp_path / "one", json.dumps(SEED))
    two = write(tmp_path / "two", json.dumps(SEED))
    with pytest.raises(InputError, match="given twice"):
        score("seed", [one, two], one)


def test_an_answers_file_without_answers(tmp_path: Path) -> None:
    gold = write(tmp_path / "gold", json.dumps(SEED))
    with pytest.raises(InputError, match=r"no answer in this file; unusable records: \[1, 2\]"):
        score("seed", [gold], write(tmp_path / "a", lines({"x": 1}, {"x": 2})))
    with pytest.raises(InputError, match=r"none of its answers \(\['x'\], ..\) is to a question of the gold"):
        score("seed", [gold], write(tmp_path / "a", lines({"x": 1})))
    with pytest.raises(InputError, match="record 1 is not an object"):
        score("seed", [gold], write(tmp_path / "a", "[1, 2]"))


def test_folders_skip_what_is_no_data(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", b"\xff\xd8\x00\t\n")
    write(tmp_path / "note", "hello")
    write(tmp_path / "gold", json.dumps(SEED))
    assert [document.path.name for document in documents([tmp_path])] == ["gold"]


def test_tables_keep_what_pandas_would(tmp_path: Path) -> None:
    path = write(tmp_path / "t", 'index\tquestion\tA\n1\t"two\nlines"\t"a ""b"" c"\n2\tx y\tNone\n')
    rows = parse(path).value
    assert rows[0] == {"index": "1", "question": "two\nlines", "A": 'a "b" c'}
    assert rows[1]["question"] == "x y"


@pytest.mark.parametrize(
    ("benchmark", "gold", "message"),
    [
        ("vqav2", {"annotations": [{"question_id": 1}]}, "annotation 1: no 'question_type'"),
        (
            "vqav2",
            {"annotations": [{"question_id": 1, "question_type": "", "answer_type": "", "answers": []}]},
            "annotation 1: its answers",
        ),
        ("vizwiz", [{"image": "1", "answers": []}], "record 1: no 'image' or no 'answers'"),
        (
            "textvqa",
            {"data": [{"question": "q", "image_id": 1, "question_id": 2, "answers": ["a"]}]},
            "record 1: 10 answers wanted",
        ),
        ("seed", {"1": "A", "2": "X"}, "'2': 'X' is no letter"),
        ("video-choice", [{"video": "v", "options": []}], "record 1: no id, question, answer"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, benchmark: str, gold: Any, message: str) -> None:
    path = write(tmp_path / "gold", json.dumps(gold))
    answers = write(tmp_path / "a", lines({"question_id": 1, "text": "x", "prompt": "q" + "\nx"}))
    with pytest.raises(InputError, match=message) as caught:
        score(benchmark, [path], answers)
    assert str(path) in str(caught.value)


def test_scienceqa_needs_its_problems(tmp_path: Path) -> None:
    splits = write(tmp_path / "s", json.dumps({"test": ["1"]}))
    problems = write(tmp_path / "p", json.dumps({"2": {"choices": ["a"], "answer": 0}}))
    answers = write(tmp_path / "a", lines({"question_id": 1, "text": "A"}))
    with pytest.raises(InputError, match="no problem '1'"):
        score("scienceqa", [splits, problems], answers)


def test_replies_of_another_shape(tmp_path: Path) -> None:
    answers = write(tmp_path / "a", lines({"id": "q", "pred": "x"}))
    with pytest.raises(InputError, match="no reply for any answer"):
        score("msvd", [], answers, write(tmp_path / "r", '{"other": ["{}"]}'))
    with pytest.raises(InputError, match="'q': want a list of replies"):
        score("msvd", [], answers, write(tmp_path / "r", '{"q": "yes"}'))


def test_json_has_no_nan(tmp_path: Path) -> None:
    answers = write(tmp_path / "a", lines({"id": "q", "pred": "x"}))
    figures = score("msvd", [], answers, write(tmp_path / "r", json.dumps({"q": ["{'score': 3}"]})), True)
    assert figures["accuracy"] is None
    assert json.loads(as_json(figures))["per_question"] == {"q": None}


def test_work_grows_with_distinct_answers_only(tmp_path: Path) -> None:
    """100,000 answers by ten people each hold few distinct texts: each is normalised once."""
    words = [f"thing number {n}" for n in range(40)]
    said = [[words[(n + k) % 40] for k in range(10)] for n in range(2_000)]
    gold = {
        "annotations": [
            {
                "question_id": n,
                "question_type": "what",
                "answer_type": "other",
                "answers": [{"answer": text, "answer_id": k} for k, text in enumerate(own)],
            }
            for n, own in enumerate(said)
        ]
    }
    answers = lines(*({"question_id": n, "answer": words[n % 40]} for n in range(2_000)))
    normalise.vqa.cache_clear()
    score("vqav2", [write(tmp_path / "g", json.dumps(gold))], write(tmp_path / "a", answers))
    info = normalise.vqa.cache_info()
    assert info.misses == 40
    assert info.hits == 2_000 * 11 - 40
