"""Scenes as sound, depth and thermal: what tells colour, shape and motion can be read, and is always the same."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from made import CLIPS, params, prepare

from videollava.data.acquire.fetch import run as fetch
from videollava.data.load.pairs import rows_of
from videollava.data.media.audio import fbank, read_audio
from videollava.data.media.read import read_depth, read_image
from videollava.data.prepare.tables import load_split
from videollava.data.toy.scenes import COLORS, SIZES, Scene, caption, combinations, scenes
from videollava.data.toy.senses import LOWEST, NOTE, STEP, WALL, depth, picture, sound, thermal

DRAWN = scenes("train", 40, 3)


def test_the_same_scene_gives_the_same_bytes() -> None:
    again = scenes("train", 40, 3)
    for make in (sound, depth, thermal, picture):
        assert [make(scene) for scene in DRAWN[:4]] == [make(scene) for scene in again[:4]]
        assert len({make(scene) for scene in DRAWN}) == 40


def test_depth_and_thermal_tell_colour_and_motion() -> None:
    for scene in DRAWN:
        far, warm = read_depth(depth(scene)), np.asarray(read_image(thermal(scene)))[..., 0].astype(float)
        color = list(COLORS).index(scene.shows.color)
        assert np.median(far[far > 3200]) == pytest.approx(WALL + STEP * color, abs=20)
        assert np.median(warm[warm < 125]) == pytest.approx(10 + 14 * color, abs=3)
        if len(scene.shows.motion) == 1:
            assert direction((far < 3200), -far) == direction(warm > 125, warm) == scene.shows.motion[0]


def direction(trail: np.ndarray, late: np.ndarray) -> str:
    """Which way the numbers grow along a trail."""
    y, x = np.nonzero(trail)
    right, down = (np.cov(axis, late[trail])[0, 1] for axis in (x, y))
    if abs(right) > abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"


def test_sound_tells_colour_and_motion() -> None:
    for scene in DRAWN:
        samples, rate = read_audio(sound(scene))
        assert (samples.shape, rate) == ((1, 20_720), 16_000)
        assert fbank(samples[0], rate, 32).shape == (128, 32)
        if scene.shows.motion[0] in ("left", "right") and scene.shows.shape != "triangle":
            assert pitch(samples[0, :8000]) == round(np.log(hertz(scene) / LOWEST) / np.log(NOTE))
        if scene.shows.motion in (("up",), ("down",)):
            start, end = (
                np.abs(np.fft.rfft(part)).argmax() for part in (samples[0, :4000], samples[0, -4000:])
            )
            assert (end > start) == (scene.shows.motion == ("up",))


def hertz(scene: Scene) -> float:
    return LOWEST * NOTE ** list(COLORS).index(scene.shows.color)


def pitch(samples: np.ndarray) -> int:
    """The colour that the strongest tone is nearest to."""
    found = np.abs(np.fft.rfft(samples)).argmax() * 16_000 / len(samples)
    return round(np.log(found / LOWEST) / np.log(NOTE))


def test_senses_become_pairs_and_nothing_else_changes(tmp_path: Path) -> None:
    few = CLIPS.model_copy(update={"train": 4, "test": 2})
    sums = {}
    for name, source in (
        ("plain", few),
        ("five", few.model_copy(update={"senses": ("depth", "thermal", "audio")})),
    ):
        chosen = params(source)
        chosen = chosen.replace(index=chosen.index.replace(near=0))
        fetch(chosen, tmp_path / name)
        with tarfile.open(tmp_path / name / "data/raw/toy_clips/train.tar") as archive:
            sums[name] = {one.name: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    assert sums["plain"].items() <= sums["five"].items()
    assert len(sums["five"]) == len(sums["plain"]) + 3 * 4
    prepare(chosen, tmp_path / "five")
    index = tmp_path / "five/data/index"
    found = {
        kind: len(rows_of(index, kind))  # type: ignore[arg-type]
        for kind in ("image", "video", "depth", "thermal", "audio")
    }
    assert found == dict.fromkeys(found, 4)
    written = (tmp_path / "five/data/raw/toy_clips/test.jsonl").read_text().splitlines()
    assert json.loads(written[0])["senses"]["audio"] == "test/00000.wav"
    # Of the test: a scene a caption, as each kind, and nothing of them is learned from.
    asked = load_split(index, "test-toy_pairs")
    assert asked.num_rows == 2 * 4
    assert len({json.loads(talk)[-1][1] for talk in asked["conversations"].to_pylist()}) == 2


def test_scenes_with_a_size_hold_256_captions_out_and_no_pair_of_words() -> None:
    """Each colour is learned with each shape, size and motion, and so on: only the four together are new."""
    train, test = combinations("train", sized=True), combinations("test", sized=True)
    assert (len(train), len(test)) == (512, 256)
    assert not set(train) & set(test)
    for one, other in itertools.combinations(("color", "shape", "motion", "size"), 2):
        pairs = {(getattr(shows, one), getattr(shows, other)) for shows in (*train, *test)}
        assert {(getattr(shows, one), getattr(shows, other)) for shows in train} == pairs
    told = {caption(scene.shows) for scene in scenes("test", 384, 1, sized=True)}
    assert len(told) == 256
    assert "a large black triangle moves down" in told


def test_a_size_is_seen_and_heard() -> None:
    for scene in scenes("train", 40, 3, sized=True):
        low, high = SIZES[scene.shows.size]
        assert low - 1 <= 64 * scene.size / min(scene.width, scene.height) <= high + 1
        samples, _ = read_audio(sound(scene))
        above = np.abs(np.fft.rfft(samples[0]))[-4000:].mean()  # of frequencies that no tone reaches
        assert (above > 2) == (scene.shows.size == "large"), above


def test_a_long_exposure_shows_the_trail_in_its_colour() -> None:
    for scene in DRAWN[:12]:
        shown = np.asarray(read_image(picture(scene)), float)
        trail = read_depth(depth(scene)) < 3200
        away = np.abs(shown - np.array(COLORS[scene.shows.color], float)).mean(-1)
        assert away[trail].min() < 1 < away[~trail].min()
        if len(scene.shows.motion) == 1:
            assert direction(trail, -away) == scene.shows.motion[0]
