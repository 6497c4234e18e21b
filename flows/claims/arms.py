"""What is compared: arms, each the profile `claims` with one thing changed, and the claims that pairs of them decide.

Every arm is a retraining of its own for each seed. What arms have in common (data, language model, encoders, projector)
DVC's cache hands from one to the next: an arm costs the stages that its change reaches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videollava.errors import InputError
from videollava.params import Params, load_params

__all__ = [
    "ARMS",
    "BASE",
    "CLAIMS",
    "PROFILE",
    "Arm",
    "Claim",
    "Contrast",
    "choose_arms",
    "params_of",
    "seeds_of",
    "settings_of",
]

PROFILE = "claims"
BASE = "aligned"
PICTURES, CLIPS = "easy_vqa", "toy_video_qa"
APART = ("align.spaces=separate",)
ALONE = {kind: (f"pretrain.media=[{kind}]", f"finetune.media=[{kind}]") for kind in ("image", "video")}


@dataclass(frozen=True)
class Arm:
    """A recipe: `settings` are put over the profile. title: what it is, in words."""

    name: str
    title: str
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contrast:
    """One test of a claim: `base` against `arm`, on the questions of `benchmark`."""

    arm: str
    benchmark: str
    base: str = BASE


@dataclass(frozen=True)
class Claim:
    """What is said of each contrast's base: that it answers better than the arm. letter: as `--arms` takes it.

    seeds: how many of each arm are planned: what all take together is two and a half hours of two cores.
    holds, reverse, equal: what is said where that is so, where the other arm is the better one, and where neither is.
    """

    letter: str
    title: str
    contrasts: tuple[Contrast, ...]
    holds: str
    reverse: str
    seeds: int = 10
    equal: str = "it makes no difference of a point or more"
    timed: str = ""  # a stage whose CPU seconds belong to the claim


ARMS = (
    Arm(BASE, "encoders of one text space, pictures and clips together, all stages"),
    Arm("separate", "clips bound to a text space that was learned apart", APART),
    Arm("pictures", "stages 1 and 2 see pictures alone", ALONE["image"]),
    Arm("clips", "stages 1 and 2 see clips alone", ALONE["video"]),
    Arm("separate-pictures", "`separate`, and pictures alone", (*APART, *ALONE["image"])),
    Arm("separate-clips", "`separate`, and clips alone", (*APART, *ALONE["video"])),
    Arm("no-stage-1", "stage 2 begins with a new projector", ("pretrain.epochs=0",)),
    Arm("no-dropout", "no patch of a clip is left out in `align`", ("align.video_patch_dropout=0",)),
    Arm("no-time", "no attention over frames in the video encoder", ("model.temporal_attention=false",)),
)

CLAIMS = (
    Claim(
        "a",
        "Alignment before projection: one text space for both encoders is better than two that were learned apart",
        (Contrast("separate", PICTURES), Contrast("separate", CLIPS)),
        "aligned encoders answer better than separately learned ones",
        "separately learned encoders answer better than aligned ones",
    ),
    Claim(
        "a2",
        "Aligned, one projector serves both: what stages 1 and 2 learned of one kind of medium answers for the other",
        (
            Contrast("separate-pictures", CLIPS, "pictures"),
            Contrast("separate-clips", PICTURES, "clips"),
        ),
        "of a kind of medium that stages 1 and 2 never saw, aligned encoders answer better",
        "of a kind of medium that stages 1 and 2 never saw, separately learned encoders answer better",
    ),
    Claim(
        "b",
        "Pictures and clips help each other: learning from both is better than from either alone",
        (Contrast("pictures", PICTURES), Contrast("clips", CLIPS)),
        "joint training answers better than training on either alone",
        "training on one kind alone answers better than joint training",
    ),
    Claim(
        "c",
        "Stage 1 helps: a projector that first learned captions is better than none",
        (Contrast("no-stage-1", PICTURES), Contrast("no-stage-1", CLIPS)),
        "with stage 1 answers are better than without",
        "without stage 1 answers are better than with it",
    ),
    Claim(
        "d",
        "Attention over frames helps with clips",
        (Contrast("no-time", CLIPS),),
        "with attention over frames clips are answered better",
        "without attention over frames clips are answered better",
        seeds=4,
    ),
    Claim(
        "e",
        "Leaving out half of a clip's patches costs nothing: the score is better than, or as good as, with all of them",
        (Contrast("no-dropout", CLIPS),),
        "with half of the patches left out clips are answered better",
        "leaving out half of the patches costs score",
        seeds=4,
        equal="leaving out half of the patches costs no point",
        timed="align",
    ),
)


def choose_arms(wanted: str = "") -> list[Arm]:
    """The arms that are named, by their own names or the letters of claims ("a,b", "pictures"), and the base; all
    without a name. InputError names those that there are.
    """
    if not wanted:
        return list(ARMS)
    letters = {
        claim.letter: [name for one in claim.contrasts for name in (one.base, one.arm)] for claim in CLAIMS
    }
    names = {BASE}
    for word in filter(None, (part.strip() for part in wanted.split(","))):
        if word not in letters and word not in {arm.name for arm in ARMS}:
            known = ", ".join([*letters, *(arm.name for arm in ARMS)])
            raise InputError(f"--arms {word}: no such claim or arm; there are {known}")
        names.update(letters.get(word, [word]))
    return [arm for arm in ARMS if arm.name in names]


def seeds_of(arms: Sequence[Arm], asked: str = "") -> dict[str, int]:
    """How many seeds each arm needs for the claims that two of these arms are compared for.

    asked: as many for all arms ("3"), or for claims by their letters ("a=20,d=2"), the others as planned. InputError
    where it says neither.
    """
    if asked.isdecimal() and int(asked):
        return dict.fromkeys((arm.name for arm in arms), int(asked))
    planned = {claim.letter: claim.seeds for claim in CLAIMS} | _read_seeds(asked)
    names = {arm.name for arm in arms}
    needed = dict.fromkeys((arm.name for arm in arms), 1)
    for claim in CLAIMS:
        for one in claim.contrasts:
            if {one.base, one.arm} <= names:
                for name in (one.base, one.arm):
                    needed[name] = max(needed[name], planned[claim.letter])
    return needed


def _read_seeds(asked: str) -> dict[str, int]:
    letters = [claim.letter for claim in CLAIMS]
    found = {}
    for word in filter(None, asked.split(",")):
        letter, _, number = (part.strip() for part in word.partition("="))
        if letter not in letters or not number.isdecimal() or not int(number):
            raise InputError(
                f"--seeds {asked}: neither a number from 1 on nor numbers by claim (a=20,d=2); "
                f"there are {', '.join(letters)}"
            )
        found[letter] = int(number)
    return found


def settings_of(arm: Arm, seed: int, more: Sequence[str] = ()) -> list[str]:
    """What is set over the profile; more: for all arms, where the arm itself says nothing else."""
    own = [*arm.settings, f"seed={seed}"]
    said = {setting.partition("=")[0] for setting in own}
    return [*(setting for setting in more if setting.partition("=")[0] not in said), *own]


def params_of(root: Path, arm: Arm, seed: int, more: Sequence[str] = ()) -> Params:
    """The whole recipe of a checkout's code, checked. InputError names what is wrong."""
    return load_params(root / f"videollava/profiles/{PROFILE}.yaml", settings_of(arm, seed, more))
