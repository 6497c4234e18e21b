"""The toy video set: one coloured shape that moves one way, or one way and then another.

A clip is the combination of a colour, a shape (those of easy-VQA) and a motion: one of four directions, or
an ordered pair of different directions, 8 x 3 x 16 combinations. How train and test are kept apart:
`describe_split`. Everything about a clip follows from (seed, split, index) alone, so that any number of
processes draw the same set.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = [
    "COLORS",
    "DIRECTIONS",
    "MOTIONS",
    "SHAPES",
    "Combination",
    "Question",
    "Scene",
    "Split",
    "annotation",
    "caption",
    "captions",
    "combinations",
    "describe_split",
    "is_held_out",
    "path",
    "questions",
    "scenes",
    "sense_path",
    "still_path",
]

Split = Literal["train", "test"]
Question = tuple[str, str, str]  # question, answer, kind

# The pixel values of easy-VQA's own pictures.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
    "teal": (0, 128, 128),
    "brown": (165, 42, 42),
    "yellow": (255, 255, 0),
}
SHAPES = ("circle", "rectangle", "triangle")
DIRECTIONS = ("left", "up", "right", "down")
STEPS = {"left": (-1, 0), "up": (0, -1), "right": (1, 0), "down": (0, 1)}
MOTIONS: tuple[tuple[str, ...], ...] = (
    *((direction,) for direction in DIRECTIONS),
    *itertools.permutations(DIRECTIONS, 2),
)
# Even, as 4:2:0 wants; decord 0.6 takes the rows of a picture 72 wide for four channels.
SIDES = [side for side in range(64, 161, 2) if side != 72]
SENSES = {"image": ".trail.png", "depth": ".depth.png", "thermal": ".thermal.png", "audio": ".wav"}
SIZES = {"small": (12.0, 16.0), "large": (23.0, 27.5)}  # pixels once the short side is 64
HELD_OUT = 4  # one combination in so many is held out
HELD_OUT_SIZED = 3  # of those with a size


@dataclass(frozen=True)
class Combination:
    """What a clip shows: the part of it that is held out or not. size: "" where it is not said."""

    color: str
    shape: str
    motion: tuple[str, ...]
    size: str = ""

    @property
    def name(self) -> str:
        """Size and colour, as they stand before the shape."""
        return f"{self.size} {self.color}".strip()


@dataclass(frozen=True)
class Scene:
    """One clip, to be drawn: sizes in pixels, `seed` draws background and path."""

    shows: Combination
    width: int
    height: int
    frames: int
    rate: int
    size: int
    seed: tuple[int, int, int]


def is_held_out(shows: Combination) -> bool:
    """Whether a combination belongs to the test set (a Latin square over colour, shape and motion)."""
    told = list(COLORS).index(shows.color) + SHAPES.index(shows.shape) + _motion_class(shows.motion)
    if shows.size:
        return (told + list(SIZES).index(shows.size)) % HELD_OUT_SIZED == 0
    return told % HELD_OUT == 0


def _motion_class(motion: tuple[str, ...]) -> int:
    # Each class holds one single direction and three pairs, with three different firsts and three different
    # seconds, so that holding a class out hides no direction in either place.
    first = DIRECTIONS.index(motion[0])
    if len(motion) == 1:
        return first
    turn = (DIRECTIONS.index(motion[1]) - first) % len(DIRECTIONS)
    return (first + (0, 3, 1)[turn - 1]) % HELD_OUT


def combinations(split: Split, sized: bool = False) -> list[Combination]:
    """Every combination of one split, in a fixed order; sized: with each size."""
    sizes = tuple(SIZES) if sized else ("",)
    every = (Combination(*parts) for parts in itertools.product(COLORS, SHAPES, MOTIONS, sizes))
    return [shows for shows in every if is_held_out(shows) == (split == "test")]


def describe_split(sized: bool = False) -> str:
    """How train and test clips are kept apart, in words for a report."""
    train, test = combinations("train", sized), combinations("test", sized)
    by = HELD_OUT_SIZED if sized else HELD_OUT
    return (
        f"A clip combines one of {len(COLORS)} colours, {len(SHAPES)} shapes{' of two sizes' if sized else ''} and "
        f"{len(MOTIONS)} motions "
        f"({len(DIRECTIONS)} directions and {len(MOTIONS) - len(DIRECTIONS)} ordered pairs of them). "
        f"Numbering each, a combination is held out where colour + shape{' + size' if sized else ''} + motion class "
        f"is divisible by {by}: {len(test)} combinations are shown in test clips only, {len(train)} in training clips "
        "only. Every colour with every shape, every colour with every motion, every shape with every motion "
        "is seen in training, never the three together; each order of two directions, too, is held out for "
        "some colours and shapes and seen for others. Test clips come from other seeds, so that backgrounds, "
        "sizes, places and speeds differ as well, and no test file has the bytes of a training file (checked "
        "when they are written)."
    )


def path(split: Split, index: int) -> str:
    """Where a clip lies in its archive."""
    return f"{split}/{index:05d}.mp4"


def scenes(split: Split, count: int, seed: int, sized: bool = False) -> list[Scene]:
    """`count` clips of a split, half with one event and half with two, combinations evenly used."""
    order = np.random.default_rng([seed, split == "test"])
    every = combinations(split, sized)
    groups = [[shows for shows in every if len(shows.motion) == events] for events in (1, 2)]
    decks: list[list[Combination]] = [[], []]
    found = []
    for index in range(count):
        deck = decks[index % 2]
        if not deck:
            deck.extend(groups[index % 2][i] for i in order.permutation(len(groups[index % 2])))
        found.append(_scene(deck.pop(), (seed, int(split == "test"), index)))
    return found


def _scene(shows: Combination, seed: tuple[int, int, int]) -> Scene:
    random = np.random.default_rng([*seed, 1])
    width, height = (int(side) for side in random.choice(SIDES, 2))
    # Between 14 and 28 pixels once the short side is 64.
    side = random.uniform(*SIZES.get(shows.size, (14.5, 27.5)))
    size = round(min(width, height) * side / 64)
    rate = int(random.choice([8, 10, 12, 15, 24, 25, 30]))
    return Scene(shows, width, height, int(random.integers(16, 49)), rate, size, seed)


CAPTIONS = {
    1: (
        "a {color} {shape} moves {0}",
        "the {color} {shape} moves {0}",
        "a {color} {shape} is moving {0}",
        "a {color} {shape} goes {0}",
    ),
    2: (
        "a {color} {shape} moves {0} and then {1}",
        "the {color} {shape} moves {0}, then {1}",
        "a {color} {shape} is moving {0} and then {1}",
        "first a {color} {shape} moves {0}, and then it moves {1}",
    ),
}


def captions(shows: Combination) -> list[str]:
    """All the ways in which a clip is described; the first is the plain one."""
    forms = CAPTIONS[len(shows.motion)]
    return [form.format(*shows.motion, color=shows.name, shape=shows.shape) for form in forms]


def caption(shows: Combination) -> str:
    """The plain description: "a red circle moves left and then up"."""
    return captions(shows)[0]


ASK: dict[str, tuple[str, ...]] = {
    "color": (
        "what color is the shape?",
        "what is the color of the shape?",
        "what color is the {shape}?",
        "what is the color of the {shape}?",
    ),
    "shape": (
        "what shape is it?",
        "what shape is in the video?",
        "what is the {color} shape?",
        "what shape moves?",
    ),
    "direction": (
        "which way does it move?",
        "which way does the shape move?",
        "which way does the {color} {shape} move?",
        "in which direction does it move?",
    ),
    "first": ("what happens first?", "what does the shape do first?", "what happens at the start?"),
    "last": ("what happens last?", "what does the shape do at the end?", "what happens second?"),
    "is_color": (
        "is the shape {asked}?",
        "is there a {asked} shape?",
        "does the video contain a {asked} shape?",
    ),
    "is_shape": ("is there a {asked}?", "is the shape a {asked}?", "does the video contain a {asked}?"),
    "is_both": ("is there a {asked}?", "does a {asked} move?"),
    "is_direction": (
        "does it move {asked}?",
        "does the shape move {asked}?",
        "does the {shape} move {asked}?",
    ),
    "is_first": ("does it move {asked} first?", "does the shape first move {asked}?"),
    "is_order": (
        "does it move {asked} before it moves {other}?",
        "does the shape move {asked} and then {other}?",
    ),
}


def questions(scene: Scene) -> list[Question]:
    """Eight questions on a clip with one event, ten on one with two; half are yes/no, evenly answered."""
    random = np.random.default_rng([*scene.seed, 2])
    shows = scene.shows
    asked = [
        _ask("color", shows.color, "color", shows, random),
        _ask("shape", shows.shape, "shape", shows, random),
        _ask("direction", " then ".join(shows.motion), "direction", shows, random),
        _yes_or_no("is_color", (shows.color,), list(COLORS), shows, random),
        _yes_or_no("is_shape", (shows.shape,), SHAPES, shows, random),
        _yes_or_no("is_direction", shows.motion, DIRECTIONS, shows, random),
    ]
    if len(shows.motion) == 1:
        again = _yes_or_no("is_direction", shows.motion, DIRECTIONS, shows, random)
        return [*asked, _ask_both(shows, random), again]
    first, last = shows.motion
    swapped = bool(random.integers(2))
    one, two = (last, first) if swapped else (first, last)
    return [
        *asked,
        _ask("first", f"it moves {first}", "order", shows, random),
        _ask("last", f"it moves {last}", "order", shows, random),
        _ask("is_order", "no" if swapped else "yes", "yes_no", shows, random, asked=one, other=two),
        _yes_or_no("is_first", (first,), shows.motion, shows, random),
    ]


def _ask(
    form: str, answer: str, kind: str, shows: Combination, random: np.random.Generator, **words: str
) -> Question:
    texts = ASK[form]
    text = texts[int(random.integers(len(texts)))]
    return text.format(color=shows.color, shape=shows.shape, **words), answer, kind


def _yes_or_no(
    form: str, true: Sequence[str], every: Sequence[str], shows: Combination, random: np.random.Generator
) -> Question:
    # The answer is tossed first: the words of a question say nothing about it.
    false = [word for word in every if word not in true]
    yes = bool(random.integers(2))
    words: Sequence[str] = true if yes else false
    return _ask(
        form, "yes" if yes else "no", "yes_no", shows, random, asked=words[int(random.integers(len(words)))]
    )


def _ask_both(shows: Combination, random: np.random.Generator) -> Question:
    true = f"{shows.color} {shows.shape}"
    yes = bool(random.integers(2))
    # A wrong pair is wrong in one word only.
    near = [f"{color} {shows.shape}" for color in COLORS] + [f"{shows.color} {shape}" for shape in SHAPES]
    wrong = [words for words in near if words != true]
    words = true if yes else wrong[int(random.integers(len(wrong)))]
    return _ask("is_both", "yes" if yes else "no", "yes_no", shows, random, asked=words)


def still_path(split: Split, index: int) -> str:
    """Where the still of a clip lies in its archive."""
    return f"{split}/{index:05d}.png"


def sense_path(split: Split, index: int, kind: str) -> str:
    """Where the scene of a clip lies as sound, depth map or thermal picture."""
    return f"{split}/{index:05d}{SENSES[kind]}"


def annotation(
    split: Split, index: int, scene: Scene, place: str = "", senses: Sequence[str] = ()
) -> dict[str, Any]:
    """What is written about a clip: one line of `<split>.jsonl`; `place` says where its still shows the shape (no still
    without it), `senses` as what else the scene is there.
    """
    shows = scene.shows
    other = {"senses": {kind: sense_path(split, index, kind) for kind in senses}} if senses else {}
    return {
        "id": f"{split}-{index:05d}",
        "video": path(split, index),
        "color": shows.color,
        "shape": shows.shape,
        "motion": list(shows.motion),
        "width": scene.width,
        "height": scene.height,
        "frames": scene.frames,
        "rate": scene.rate,
        "captions": captions(shows),
        "questions": [list(question) for question in questions(scene)],
        "still": {
            "image": still_path(split, index),
            "caption": f"a {shows.color} {shows.shape} at the {place}",
        }
        if place
        else None,
        **({"size": shows.size} if shows.size else {}),
        **other,
    }
