"""Media that look alike: what a codec, a resize or a caption bar leaves near, and how they are found among many."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
from clips import clip
from made import mp4, png
from PIL import Image

from videollava.data.media.look import look_of
from videollava.data.prepare.inspection import inspect
from videollava.data.prepare.near import Looks


def scene(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Soft patches of grey, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 12), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")


def saved(image: Image.Image, form: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_a_look_survives_what_copies_go_through() -> None:
    for seed in range(20):
        looks = [
            inspect("a", "image", data).look
            for data in (
                saved(scene(seed), "PNG"),
                saved(scene(seed), "JPEG", quality=60),
                saved(scene(seed).resize((200, 150)), "WEBP"),
                saved(scene(seed + 1000), "PNG"),
            )
        ]
        assert bits(looks[0], looks[1]) <= 3
        assert bits(looks[0], looks[2]) <= 3
        assert bits(looks[0], looks[3]) > 10


def test_what_has_no_contrast_has_no_look() -> None:
    flat = Image.new("RGB", (64, 64), (200, 30, 30))
    assert look_of([flat]) == ""
    flat.paste((30, 30, 200), (20, 20, 40, 40))  # one shape on a plain ground: as many drawings are
    assert inspect("a", "image", saved(flat, "PNG")).look == ""
    assert look_of([scene(1)]) != ""


def test_a_clip_looks_as_its_middle_first_and_last_frame_do() -> None:
    found = inspect("a", "video", mp4(1))
    assert len(found.look) == 48
    assert found.look != inspect("a", "video", mp4(2)).look
    assert inspect("a", "video", clip(30)).reason == ""


@pytest.mark.parametrize("near", [1, 2, 3])
def test_looks_within_so_many_bits_are_found_and_no_others(near: int) -> None:
    random = np.random.default_rng(near)
    words = random.integers(0, 2**64, 600, dtype=np.uint64)
    for number in range(300, 600):  # copies of earlier ones, with up to six bits turned
        words[number] = words[random.integers(0, number)]
        for bit in random.integers(0, 64, random.integers(0, 7)):
            words[number] ^= np.uint64(1) << np.uint64(bit)
    distances = np.bitwise_count(words[:, None] ^ words[None, :])
    looks = Looks([f"{int(word):016x}" for word in words], near)
    marked = random.random(600) < 0.1
    assert looks.like(marked).tolist() == (distances[:, marked] <= near).any(axis=1).tolist()
    first = np.array([np.flatnonzero(row <= near)[0] for row in distances])
    while (first[first] != first).any():
        first = first[first]
    assert looks.roots().tolist() == first.tolist()
    assert len(set(looks.roots().tolist())) < 600


def test_what_comes_after_changes_no_root() -> None:
    looks = [inspect("a", "image", png(seed % 40)).look for seed in range(60)]
    before = Looks(looks[:50], 3).roots().tolist()
    assert Looks(looks, 3).roots().tolist()[:50] == before
    assert before[45] == 5


def test_clips_are_alike_in_all_three_frames_and_no_picture_is_one() -> None:
    one, other = f"{3:016x}", f"{2**40:016x}"
    looks = [one * 3, one * 2 + other, one * 3, one, "", ""]
    assert Looks(looks, 1).roots().tolist() == [0, 1, 0, 3, 4, 5]
    assert Looks(looks, 0).roots().tolist() == [0, 1, 2, 3, 4, 5]  # bytes alone say who is alike
    marked = np.array([True, False, False, False, True, False])
    assert Looks(looks, 1).like(marked).tolist() == [True, False, True, False, True, False]


def test_many_looks_take_time_in_proportion() -> None:
    random = np.random.default_rng(0)
    seconds = []
    for count in (20_000, 80_000):
        looks = [f"{int(word):016x}" for word in random.integers(0, 2**64, count, dtype=np.uint64)]
        began = time.process_time()
        assert len(set(Looks(looks, 3).roots().tolist())) == count
        seconds.append(time.process_time() - began)
    assert seconds[1] < 12 * seconds[0]  # comparing all with all would take sixteen times as long
