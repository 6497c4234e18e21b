"""What was asked, by content: the hash of questions, media and gold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from evaluation_files import picture, write_files

from videollava.evaluate import benchmarks
from videollava.evaluate.identity import hash_questions, short_sums, sum_media
from videollava.evaluate.questions import Item, QuestionSet


def a_set(*items: Item, gold: tuple[Path, ...] = ()) -> QuestionSet:
    return QuestionSet(benchmarks.get("gqa"), items, gold)


def asking(key: str = "1", question: str = "what?", answer: str = "red", media: tuple = ("a.png",)) -> Item:
    return Item(key, "color", "<image>\n" * len(media) + question, answer, media)


def test_media_of_files_and_of_the_index_have_the_same_sums(
    prepare: Callable[..., Path], tmp_path: Path
) -> None:
    workspace = prepare([("image", picture(0)), ("image", picture(1))], {})
    write_files(workspace / "bench", {"same.png": picture(1)})
    media = (1, "bench/same.png", "bench/gone.png")
    one = a_set(asking(media=media))
    sums = sum_media([one], workspace)
    known = hashlib.sha256(picture(1)).hexdigest()
    assert sums == {("image", 1): known, ("image", "bench/same.png"): known}
    assert short_sums(one.items[0], sums) == [known[:16], known[:16], ""]


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    sums = {("image", "a.png"): "aa", ("image", 7): "aa", ("image", "b.png"): "bb"}

    def hashed(*items: Item, gold: tuple[Path, ...] = ()) -> str:
        return hash_questions(a_set(*items, gold=gold), sums)

    plain = hashed(asking("1"), asking("2"))
    assert len(plain) == 64
    assert hashed(asking("2"), asking("1")) == plain  # order is nothing
    assert hashed(asking("1", media=(7,)), asking("2")) == plain  # nor where a medium lies
    others = [
        hashed(asking("1")),
        hashed(asking("1"), asking("3")),
        hashed(asking("1", "which?"), asking("2")),
        hashed(asking("1", answer="blue"), asking("2")),
        hashed(asking("1", media=("b.png",)), asking("2")),
        hashed(asking("1", media=("gone.png",)), asking("2")),
    ]
    gold = tmp_path / "gold.json"
    for text in ("[1]", "[2]"):  # of a benchmark's own files, what they hold counts
        gold.write_text(text)
        others.append(hashed(asking("1"), asking("2"), gold=(gold,)))
    assert len({plain, *others}) == len(others) + 1
