"""MMBench: multiple choice, right only where every rotation of the options is answered right (circular)."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.choice_words import read_choice
from videollava.evaluate.benchmarks.choices import choose, lettered
from videollava.evaluate.benchmarks.image_questions import asked
from videollava.evaluate.benchmarks.interface import LETTER, Benchmark, Question
from videollava.evaluate.benchmarks.reading import (
    Absent,
    Document,
    absent,
    documents,
    pick,
    read_answers,
    rows_with,
)
from videollava.evaluate.benchmarks.tally import counts, grouped, mark, percent, read_otherwise, result

__all__ = ["BENCHMARK", "questions", "score", "submission", "unpack_images"]

OPTIONS = "ABCD"
ROTATION = 1_000_000  # index = rotation * 1,000,000 + group
DROPPED = ("hint", "category", "source", "image", "comment", "l2-category")
PREDICTION_COLUMN = 6
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what a spreadsheet cannot hold
Row = dict[str, str]


def questions(files: Sequence[Path], media: Path | None = None) -> Iterator[Question]:
    """Of the table; `kind` is the category. The media are `<index>.jpg` of `unpack_images`."""
    for row in _rows(documents(files)):
        options = _prompted(row)
        hint = "" if _none(row.get("hint")) else row["hint"] + "\n"
        text = hint + row["question"] + lettered(options)
        fields = {"round_id": 0, "options": list(options.values()), "option_char": list(options)}
        question = asked(row["index"], text + LETTER, f"{row['index']}.jpg", media, fields=fields)
        yield Question(question.id, question.prompt, question.media, row.get("category", ""), question.fields)


def unpack_images(files: Sequence[Path], folder: Path) -> int:
    """Write the table's images, which are base64 in cells, as `<index>.jpg`; gives how many.

    A short cell is the index of the row that has the image. A table may come without images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = {row["index"]: row for row in _rows(documents(files))}
    written = 0
    for index, row in rows.items():
        cell = row.get("image", "")
        if cell in rows:
            cell = rows[cell]["image"]
        if not cell:
            continue
        try:
            image = base64.b64decode(cell, validate=True)
        except ValueError as error:
            raise InputError(f"row {index}: its image is not base64: {error}") from error
        (folder / f"{index}.jpg").write_bytes(image)
        written += 1
    return written


def score(
    gold: Sequence[Path], answers: Path | None, replies: Path | None = None, per_question: bool = False
) -> dict[str, Any]:
    """`circular` over groups, `vanilla` over the first rotations, circular by category where the table has
    one.

    No judge: an answer that the matching rules cannot read is wrong and counted in `invalid`. What they read
    otherwise than a person ("A person is running" as A) is counted in `read_otherwise`.
    """
    rows = {row["index"]: row for row in _rows(documents(gold))}
    if not all("answer" in row for row in rows.values()):
        raise Absent("MMBench's table has no column 'answer': its test split is scored by the server")
    given = read_answers(answers)
    hits, invalid, readings = {}, 0, []
    for index, row in rows.items():
        letters = {letter: row[letter] for letter in row if _is_option(letter, row)}
        choice = choose(given.texts[index], letters) if index in given.texts else None
        invalid += index in given.texts and (choice is None or choice not in letters)
        if index in given.texts:
            readings.append((choice, read_choice(given.texts[index], letters), row["answer"]))
        hits[index] = choice == row["answer"]
    whole: dict[int, list[bool]] = defaultdict(list)
    for index, hit in hits.items():
        whole[int(index) % ROTATION].append(hit)
    groups = {str(group): float(all(own)) for group, own in whole.items() if str(group) in rows}
    figures: dict[str, Any] = {
        "circular": percent(groups.values()),
        "vanilla": percent(hits[index] for index in groups),
        "accuracy": percent(hits.values()),
        "groups": len(groups),
        **read_otherwise(readings),
    }
    for column, name in (("category", "by_category"), ("l2-category", "by_l2_category")):
        if all(not absent(rows[group].get(column)) for group in groups):
            figures[name] = grouped((rows[group][column], value) for group, value in groups.items())
    single = {index: 100.0 * hit for index, hit in hits.items()}
    whole_score = result(
        len(hits),
        figures,
        counts(rows, given),
        invalid=invalid,
        per_question=single if per_question else None,
        marks=mark(given, single, {index: row["answer"] for index, row in rows.items()})
        if per_question
        else None,
    )
    if per_question:
        whole_score["per_group"] = {group: 100 * value for group, value in groups.items()}
    return whole_score


def submission(questions: Sequence[Path], answers: Path, out: Path) -> dict[str, int]:
    """The server's spreadsheet: the table less pictures and categories, with a column "prediction"."""
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    rows = _rows(documents(questions))
    given = read_answers(answers)
    columns = [column for column in rows[0] if column not in DROPPED]
    columns.insert(PREDICTION_COLUMN, "prediction")
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    sheet.append(columns)
    for row in rows:
        cells = []
        for column in columns:
            text = given.texts.get(row["index"]) if column == "prediction" else row.get(column)
            if column == "index":
                cells.append(WriteOnlyCell(sheet, value=int(row["index"])))
                continue
            empty = text is None or (column != "prediction" and absent(text))
            cell = WriteOnlyCell(sheet, value=None if empty else CONTROL.sub("", text or ""))
            if not empty:
                cell.data_type = "s"  # an answer that starts with "=" is no formula
            cells.append(cell)
        sheet.append(cells)
    out.parent.mkdir(parents=True, exist_ok=True)
    book.save(out)
    missing = sum(row["index"] not in given.texts for row in rows)
    return {"written": len(rows), "missing": missing, "broken": len(given.malformed)}


def _rows(found: Sequence[Document]) -> list[Row]:
    table = pick(found, "MMBench's table (index, question, A-D)", rows_with("index", "question", "A", "B"))
    rows: list[Row] = table.value
    for number, row in enumerate(rows, 2):
        if not row["index"].isdigit():
            raise InputError(f"{table.path}: row {number}: the index is {row['index']!r}, not a number")
    return rows


def _is_option(column: str, row: Mapping[str, str]) -> bool:
    return len(column) == 1 and "A" <= column <= "Z" and not absent(row[column])


def _prompted(row: Mapping[str, str]) -> dict[str, str]:
    """The options that LLaVA's prompt lists: up to the first that is empty or none."""
    options = {}
    for letter in OPTIONS:
        if _none(row.get(letter)):
            break
        options[letter] = row[letter]
    return options


def _none(cell: str | None) -> bool:
    return cell is None or absent(cell) or cell.lower() in ("nan", "none")


BENCHMARK = Benchmark(
    id="mmbench",
    title="MMBench",
    headline="circular",
    questions=questions,
    score=score,
    size=4_377,
    submission=submission,
    upload=".xlsx",
    unpack=unpack_images,
)
