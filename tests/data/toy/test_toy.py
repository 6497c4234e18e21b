from __future__ import annotations

import hashlib
import io
from collections import Counter
from itertools import product

import numpy as np
import pytest

from videollava.data.toy.drawing import CONTRAST, draw, encode
from videollava.data.toy.scenes import (
    COLORS,
    DIRECTIONS,
    MOTIONS,
    SHAPES,
    Scene,
    annotation,
    caption,
    captions,
    combinations,
    describe_split,
    questions,
    scenes,
)

TRAIN, TEST = combinations("train"), combinations("test")


def test_no_combination_is_in_both_splits() -> None:
    assert not set(TRAIN) & set(TEST)
    assert len(set(TRAIN) | set(TEST)) == len(COLORS) * len(SHAPES) * len(MOTIONS) == 384
    assert len(TEST) == 96


def test_training_sees_every_pair() -> None:
    assert {(c.color, c.shape) for c in TRAIN} == set(product(COLORS, SHAPES))
    assert {(c.color, c.motion) for c in TRAIN} == set(product(COLORS, MOTIONS))
    assert {(c.shape, c.motion) for c in TRAIN} == set(product(SHAPES, MOTIONS))


def test_every_order_of_two_directions_is_in_both_splits_and_hides_no_place() -> None:
    for split in (TRAIN, TEST):
        assert {c.motion for c in split} == set(MOTIONS)
    for color, shape in product(COLORS, SHAPES):
        held = [c.motion for c in TEST if (c.color, c.shape) == (color, shape) and len(c.motion) == 2]
        assert len({first for first, _ in held}) == len({last for _, last in held}) == len(held) == 3


def test_scenes_use_combinations_evenly_and_only_their_own() -> None:
    for split, every in (("train", TRAIN), ("test", TEST)):
        drawn = scenes(split, 480, seed=5)  # type: ignore[arg-type]
        counts = Counter(scene.shows for scene in drawn)
        assert set(counts) <= set(every)
        assert sum(len(scene.shows.motion) == 1 for scene in drawn) == 240
        for events in (1, 2):
            used = [counts[shows] for shows in every if len(shows.motion) == events]
            assert max(used) - min(used) <= 1


def test_scenes_follow_from_the_seed() -> None:
    assert scenes("train", 20, 1) == scenes("train", 40, 1)[:20]
    assert scenes("train", 20, 1) != scenes("train", 20, 2)
    assert {scene.seed for scene in scenes("train", 20, 1)}.isdisjoint(s.seed for s in scenes("test", 20, 1))


def test_captions() -> None:
    one, two = scenes("train", 2, 0)
    assert caption(one.shows) == f"a {one.shows.color} {one.shows.shape} moves {one.shows.motion[0]}"
    assert caption(two.shows).endswith(" moves {} and then {}".format(*two.shows.motion))
    for scene in (one, two):
        texts = captions(scene.shows)
        assert len(set(texts)) == 4
        assert all(word in text for text in texts for word in (scene.shows.color, *scene.shows.motion))


def answer(scene: Scene, question: str, kind: str) -> set[str]:
    """The right answer by other means: from the words of the question."""
    shows = scene.shows
    words = question.rstrip("?").split()
    if kind == "color":
        return {shows.color}
    if kind == "shape":
        return {shows.shape}
    if kind == "direction":
        return {" then ".join(shows.motion)}
    if kind == "order":
        last = any(word in words for word in ("last", "end", "second"))
        return {f"it moves {shows.motion[-1 if last else 0]}"}
    named = [word for word in words if word in DIRECTIONS]
    true = {word for word in words if word in COLORS} <= {shows.color}
    # "the circle" and "the red circle" are taken for granted, "a circle" is asked.
    true &= {word for word in words if word in SHAPES} <= {shows.shape}
    if len(named) == 2:
        true &= tuple(named) == shows.motion
    elif "first" in words:
        true &= named == [shows.motion[0]]
    else:
        true &= set(named) <= set(shows.motion)
    return {"yes" if true else "no"}


def test_questions_are_answered_rightly_and_in_balance() -> None:
    drawn = scenes("train", 1200, 2)
    asked = [(scene, *question) for scene in drawn for question in questions(scene)]
    for scene, question, given, kind in asked:
        assert {given} == answer(scene, question, kind), (scene.shows, question)
    assert Counter(len(questions(scene)) for scene in drawn) == {8: 600, 10: 600}
    assert {kind for *_, kind in asked} == {"color", "shape", "direction", "order", "yes_no"}
    tossed = [given for *_, given, kind in asked if kind == "yes_no"]
    assert 0.47 < tossed.count("yes") / len(tossed) < 0.53
    by_words: dict[str, Counter[str]] = {}
    for _, question, given, kind in asked:
        if kind == "yes_no":
            by_words.setdefault(question, Counter())[given] += 1
    # Guessing the commoner answer to the same words gains next to nothing over a coin.
    common = sum(max(c.values()) for c in by_words.values() if c.total() >= 30)
    assert common / sum(c.total() for c in by_words.values() if c.total() >= 30) < 0.6


@pytest.fixture(scope="module")
def drawn() -> list[tuple[Scene, np.ndarray]]:
    return [(scene, draw(scene)) for scene in [*scenes("train", 60, 7), *scenes("test", 20, 7)]]


def test_pictures_vary(drawn: list[tuple[Scene, np.ndarray]]) -> None:
    for scene, frames in drawn:
        assert frames.shape == (scene.frames, scene.height, scene.width, 3)
        assert 16 <= scene.frames <= 48
        assert 64 <= min(scene.width, scene.height) <= max(scene.width, scene.height) <= 160
        assert 14 <= scene.size * 64 / min(scene.width, scene.height) <= 28
    assert len({scene.rate for scene, _ in drawn}) > 4
    assert len({(scene.width, scene.height) for scene, _ in drawn}) > 70


def find(scene: Scene, frame: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the pixels of the shape's colour."""
    far = np.abs(frame.astype(int) - COLORS[scene.shows.color]).max(-1)
    y, x = np.nonzero(far == 0)
    return x.min(), y.min(), x.max() + 1, y.max() + 1


def test_the_shape_moves_as_told_within_the_central_square(drawn: list[tuple[Scene, np.ndarray]]) -> None:
    for scene, frames in drawn:
        side = min(scene.width, scene.height)
        left, top = (scene.width - side) // 2, (scene.height - side) // 2
        boxes = np.array([find(scene, frame) for frame in frames])
        assert boxes[:, 0].min() >= left
        assert boxes[:, 2].max() <= left + side
        assert boxes[:, 1].min() >= top
        assert boxes[:, 3].max() <= top + side
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        steps = [step for step in np.diff(middle, axis=0) if np.abs(step).max() > 0.6]
        ways = [
            ("right" if step[0] > 0 else "left")
            if abs(step[0]) > abs(step[1])
            else ("down" if step[1] > 0 else "up")
            for step in steps
        ]
        turns = [way for index, way in enumerate(ways) if not index or way != ways[index - 1]]
        assert tuple(turns) == scene.shows.motion, (scene, turns)
        if len(scene.shows.motion) == 1:
            assert np.abs(middle[-1] - middle[0]).max() >= 0.6 * (side - scene.size - side / 20)


def test_the_shape_stands_out_and_backgrounds_are_quiet(drawn: list[tuple[Scene, np.ndarray]]) -> None:
    for scene, frames in drawn:
        box = [int(edge) for edge in find(scene, frames[0])]
        around = np.ones(frames.shape[1:3], bool)
        around[max(box[1] - 2, 0) : box[3] + 2, max(box[0] - 2, 0) : box[2] + 2] = False
        back = frames[0][around].astype(float)
        assert np.sqrt(((back - COLORS[scene.shows.color]) ** 2).sum(-1)).min() >= CONTRAST - 2
        assert (back.max(-1) - back.min(-1)).max() <= 20


def test_clips_decode_to_what_was_drawn(drawn: list[tuple[Scene, np.ndarray]]) -> None:
    import decord

    for scene, frames in drawn[:12]:
        data = encode(frames, scene.rate)
        assert data == encode(draw(scene), scene.rate)
        video = decord.VideoReader(io.BytesIO(data), num_threads=1)
        assert len(video) == scene.frames
        assert video.get_avg_fps() == pytest.approx(scene.rate)
        decoded = video.get_batch(range(len(video))).asnumpy()
        assert decoded.shape == frames.shape
        assert np.abs(decoded.astype(int) - frames).mean() < 8


def test_no_test_clip_is_a_training_clip(drawn: list[tuple[Scene, np.ndarray]]) -> None:
    hashes = [hashlib.sha256(frames.tobytes()).hexdigest() for _, frames in drawn]
    assert len(set(hashes)) == len(hashes)


def test_annotation_and_report() -> None:
    scene = scenes("test", 1, 0)[0]
    entry = annotation("test", 0, scene)
    assert entry["video"] == "test/00000.mp4"
    assert entry["questions"] == [list(question) for question in questions(scene)]
    text = describe_split()
    assert "96 combinations" in text
    assert "288" in text
