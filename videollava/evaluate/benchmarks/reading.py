"""Benchmark files: JSON, JSON lines and tab-separated tables, recognised by content.

Gold must be whole: a broken line there is an InputError. In answers, which a killed run may have cut, a
broken line is counted and reported, and its question is then one without an answer.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videollava.data.prepare.golds import looks_like_data
from videollava.errors import InputError

__all__ = [
    "Absent",
    "Answers",
    "Document",
    "absent",
    "documents",
    "find",
    "named",
    "parse",
    "pick",
    "read_answers",
    "records",
    "rows_with",
    "unite",
    "use",
    "watch",
]

_used: ContextVar[set[Path] | None] = ContextVar("used", default=None)
NAMED = 4
ID_KEYS = ("question_id", "id", "questionId", "image")
TEXT_KEYS = ("text", "prediction", "pred", "answer")

# What pandas, with which the official tools read tables, takes for an empty cell.
ABSENT = frozenset(
    (
        *("", "nan", "-nan", "NaN", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
        *("NA", "<NA>", "#NA", "N/A", "n/a", "#N/A", "#N/A N/A", "None", "NULL", "null"),
    )
)


class Absent(InputError):
    """What is wanted is in none of the files given."""


@dataclass(frozen=True)
class Document:
    """A parsed file. `value` is its JSON, or the list of its lines or table rows; `malformed` the numbers
    of its lines that were not JSON.
    """

    path: Path
    value: Any
    malformed: tuple[int, ...] = ()
    lines: tuple[int, ...] = ()  # of JSON lines: the line number of each record


@dataclass(frozen=True)
class Answers:
    """Answers by id, the last of several with one id, as the official code has it."""

    path: Path
    texts: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    duplicates: int = 0
    malformed: tuple[int, ...] = ()


def absent(cell: str | None) -> bool:
    """Whether a table's cell counts as empty in the official tools."""
    return cell is None or cell in ABSENT


def documents(paths: Sequence[Path]) -> list[Document]:
    """Every file of `paths`, and of folders among them every file that is JSON or a table, parsed; each once."""
    files: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and looks_like_data(p))
            if not inside:
                raise InputError(f"{path}: no JSON file or table in this folder")
        else:
            inside = [path]
        for file in inside:
            files.setdefault(file.resolve(), file)
    return [parse(file) for file in files.values()]


def parse(path: Path, *, lenient: bool = False) -> Document:
    """One file's content. Broken JSON lines are an InputError, or listed in `malformed` when `lenient`."""
    if not path.is_file():
        raise InputError(f"{path}: a folder; name the file in it" if path.is_dir() else f"{path}: not found")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); unpack it if it is an archive, or save "
            "it as UTF-8"
        ) from error
    start = text.lstrip()[:1]
    if start and start in "{[":
        return _parse_json(path, text, lenient)
    if "\t" in text.partition("\n")[0]:
        return Document(path, _table(path, text))
    raise InputError(f"{path}: neither JSON, JSON lines nor a tab-separated table")


def records(document: Document) -> list[dict[str, Any]]:
    """The records of a list or of JSON lines; InputError where there is something else."""
    value = document.value
    if isinstance(value, dict):
        value = [value]
    for number, record in enumerate(value, 1):
        if not isinstance(record, dict):
            raise InputError(f"{document.path}: record {number} is not an object: {str(record)[:60]!r}")
    return list(value)


def rows_with(*keys: str) -> Callable[[Any], bool]:
    """A test for a list of records whose first one has all of `keys`."""

    def fits(value: Any) -> bool:
        rows = [value] if isinstance(value, dict) else value
        return (
            isinstance(rows, list)
            and bool(rows)
            and isinstance(rows[0], dict)
            and all(key in rows[0] for key in keys)
        )

    return fits


def find(found: Iterable[Document], fits: Callable[[Any], bool]) -> list[Document]:
    """The documents whose value fits."""
    fitting = [document for document in found if fits(document.value)]
    use(document.path for document in fitting)
    return fitting


@contextmanager
def watch() -> Iterator[set[Path]]:
    """With the set of files that were of use so far: who gave others can be told."""
    seen: set[Path] = set()
    token = _used.set(seen)
    try:
        yield seen
    finally:
        _used.reset(token)


def use(files: Iterable[Path]) -> None:
    """Note files as of use, where somebody watches."""
    seen = _used.get()
    if seen is not None:
        seen.update(files)


def unite(parts: Iterable[tuple[Document, Mapping[str, Any]]]) -> dict[str, Any]:
    """What several files hold by id, as one. InputError where two of them have one id with different contents."""
    whole: dict[str, Any] = {}
    source: dict[str, Path] = {}
    for document, part in parts:
        for key, value in part.items():
            if key in whole and whole[key] != value:
                raise InputError(
                    f"{source[key]} and {document.path} have {key!r} with different contents: give one of them"
                )
            whole[key], source[key] = value, document.path
    return whole


def named(found: Sequence[Document]) -> str:
    """The files' names for a message, the first few of many."""
    names = ", ".join(str(document.path) for document in found[:NAMED]) or "no files"
    return names if len(found) <= NAMED else f"{names} and {len(found) - NAMED} more"


def pick(found: Sequence[Document], what: str, fits: Callable[[Any], bool]) -> Document:
    """The one document whose value fits; InputError naming `what` is missing or given twice."""
    fitting = find(found, fits)
    if len(fitting) == 1:
        return fitting[0]
    names = named(fitting or found)
    if fitting:
        raise InputError(f"{names}: {what} given twice")
    raise Absent(f"{names}: {what} not among the files given")


def read_answers(
    path: Path | None,
    ids: Sequence[str] = ID_KEYS,
    texts: Sequence[str] = TEXT_KEYS,
    join: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> Answers:
    """Answers of a JSON list, JSON lines or a mapping from id to text.

    The id and the text of a record are under the first of `ids` and `texts` that it has; `join` makes the
    id of a record otherwise (None: the record has none). A record without either is counted as malformed.
    """
    if path is None:
        raise InputError("no answers: give --answers PATH")
    document = parse(path, lenient=True)
    if isinstance(document.value, dict) and not any(key in document.value for key in ids):
        given = {str(key): _text(text) for key, text in document.value.items()}
        kept = {key: text for key, text in given.items() if text is not None}
        broken = tuple(number for number, text in enumerate(given.values(), 1) if text is None)
        return _checked(Answers(path, kept, {key: {} for key in kept}, 0, broken))
    answers: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    unusable, duplicates = list(document.malformed), 0
    for number, record in enumerate(records(document), 1):
        key = join(record) if join else _first(record, ids)
        text = _first(record, texts)
        if key is None or text is None:
            unusable.append(document.lines[number - 1] if document.lines else number)
            continue
        duplicates += key in answers
        answers[key] = text
        rows[key] = record
    return _checked(Answers(path, answers, rows, duplicates, tuple(sorted(unusable))))


def _checked(answers: Answers) -> Answers:
    if not answers.texts:
        where = f"; unusable records: {list(answers.malformed[:5])}" if answers.malformed else ""
        raise InputError(f"{answers.path}: no answer in this file{where}")
    return answers


def _first(record: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    for key in keys:
        if key in record:
            return _text(record[key])
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def _parse_json(path: Path, text: str, lenient: bool) -> Document:
    try:
        return Document(path, json.loads(text))
    except RecursionError as error:
        raise InputError(f"{path}: nested too deep for a benchmark's file") from error
    except json.JSONDecodeError as error:
        whole = error
    values, lines, broken = [], [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            broken.append(number)
            continue
        values.append(value)
        lines.append(number)
    if not values:
        raise InputError(f"{path}: line {whole.lineno}: not JSON: {whole.msg}") from whole
    if broken and not lenient:
        raise InputError(f"{path}: line {broken[0]}: not JSON; mend or remove it")
    return Document(path, values, tuple(broken), tuple(lines))


def _table(path: Path, text: str) -> list[dict[str, str]]:
    csv.field_size_limit(1 << 30)  # images are cells, in base64
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t")
    table = []
    for number, row in enumerate(rows, 2):
        if None in row:
            raise InputError(f"{path}: row {number} has more cells than the header names")
        table.append({key: cell for key, cell in row.items() if cell is not None})
    return table
