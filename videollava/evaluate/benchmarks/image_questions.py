"""Questions of the image benchmarks in LLaVA's layout, which most of them come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate.benchmarks.interface import Question
from videollava.evaluate.benchmarks.reading import Document, documents, find, named, records, rows_with

__all__ = ["IMAGE", "VIDEO", "asked", "beside", "llava_documents", "llava_questions"]

IMAGE = "<image>\n"
VIDEO = "<video>\n"


def beside(media: Path | None, name: str) -> str:
    """A medium's path: below the media folder where one is given."""
    return str(media / name) if media else name


def llava_documents(found: Sequence[Document]) -> list[Document]:
    """The question files in LLaVA's layout: lines of "question_id", "image" and "text" without a label."""
    whole = rows_with("question_id", "image", "text")
    labelled = rows_with("label")
    return [document for document in find(found, whole) if not labelled(document.value)]


def llava_questions(
    files: Sequence[Path],
    media: Path | None = None,
    *,
    raw: Callable[[Sequence[Document], Path | None], Iterator[Question]] | None = None,
    suffix: str = "",
) -> Iterator[Question]:
    """Questions of LLaVA's files; where there are none, of the benchmark's own gold through `raw`.

    `suffix` is put behind a text that does not end with it.
    """
    found = documents(files)
    own = llava_documents(found)
    if own:
        for document in own:
            yield from _of_document(document, media, suffix)
    elif raw is not None:
        yield from raw(found, media)
    else:
        raise InputError(f'{named(found)}: no questions: want lines with "question_id", "image" and "text"')


def asked(
    key: object,
    text: str,
    image: str,
    media: Path | None,
    *,
    kind: str = "",
    fields: Mapping[str, Any] | None = None,
) -> Question:
    """One question about one image; its text is the "prompt" of the answer's line, as LLaVA writes it."""
    return Question(str(key), IMAGE + text, (beside(media, image),), kind, {"prompt": text, **(fields or {})})


def _of_document(document: Document, media: Path | None, suffix: str) -> Iterator[Question]:
    for number, row in enumerate(records(document), 1):
        for key in ("question_id", "image", "text"):
            if key not in row:
                raise InputError(f"{document.path}: record {number}: no {key!r}")
        text = row["text"] if row["text"].endswith(suffix) else row["text"] + suffix
        kind = row.get("category", "")
        yield asked(row["question_id"], text, row["image"], media, kind="" if kind == "default" else kind)
