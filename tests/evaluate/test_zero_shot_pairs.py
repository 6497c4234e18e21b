"""From one kind of medium to another, by hand: who finds whom, ties, captions that one kind lacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videollava.embedding.zero_shot.pairs import Pairs
from videollava.embedding.zero_shot.sets import choose_sets
from videollava.evaluate.compare import title_of
from videollava.evaluate.zero_shot.figures import rows_of_retrieval
from videollava.evaluate.zero_shot.pairs import cross
from videollava.evaluate.zero_shot.table import format_table
from videollava.params import Evaluate

EYE = np.eye(3, dtype=np.float32)
PAIRS = Pairs(
    "scenes",
    {"depth": {"a": 0, "b": 1, "c": 2}, "audio": {"c": 3, "a": 4}},
    {number: f"sum {number}" for number in range(5)},
)


def test_each_kind_finds_the_other_by_caption() -> None:
    """Depth c lies nearer to the sound of a; the sounds find their depth maps, but c's is as near to b's."""
    depth = np.stack([EYE[0], EYE[2], EYE[0]])
    audio = np.stack([EYE[2], EYE[0]])
    figures, rows = cross(PAIRS, {"depth": depth, "audio": audio})
    hits = {row["question_id"]: row["correct"] for row in rows}
    # depth a -> sound a; depth c (as a) -> sound a, wrong; b has no sound and is not asked.
    assert (hits["depth-audio-0"], hits["depth-audio-1"]) == (True, False)
    # sound c -> depth b, wrong; sound a -> depths a and c are as near: wrong.
    assert (hits["audio-depth-0"], hits["audio-depth-1"]) == (False, False)
    assert figures["n"] == 4
    assert figures["r1"] == 25.0
    assert figures["directions"]["depth → audio"]["chance_r1"] == 50.0
    assert figures["directions"]["audio → depth"]["chance_r1"] == pytest.approx(100 / 3)
    asked = next(row for row in rows if row["question_id"] == "depth-audio-1")
    assert (asked["question"], asked["prediction"], asked["media"]) == ("c", "a", [2])
    assert "| scenes | depth → audio | 2 | 50.0 [" in format_table({"scenes": figures})


def test_a_row_a_caption_says_what_was_found_and_a_tie_is_no_hit() -> None:
    media = np.stack([EYE[0], EYE[1], EYE[1]])
    rows = rows_of_retrieval(
        EYE[[0, 1, 0]], media, [0, 1, 2], ["x", "y", "z"], ["m0", "m1", "m2"], [7, 8, 9], ["s"] * 3, "k"
    )
    assert [row["correct"] for row in rows] == [True, False, False]
    assert [row["prediction"] for row in rows] == ["m0", "m1", "m0"]
    assert [row["media"] for row in rows] == [[7], [8], [9]]


def test_sets_that_share_a_name_with_questions_stand_apart(tmp_path: Path) -> None:
    assert title_of("msvd.zero_shot") == "MSVD (encoders)"
    assert title_of("msvd") == "MSVD-QA"
    for name in ("videos", "questions"):
        (tmp_path / name).mkdir()
    folders = {"msvd": "questions", "msvd.zero_shot": "videos", "esc-50": "videos"}
    chosen = choose_sets("evaluate.zero_shot", ("msvd", "esc-50"), Evaluate(folders=folders), tmp_path)
    assert [one.folder.name for one in chosen] == ["videos", "videos"]
