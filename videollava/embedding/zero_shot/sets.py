"""The zero-shot benchmarks: what each is, how its files lie, and LanguageBind's own figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from videollava.data.acquire.unpacked import unpacked_folder
from videollava.data.modalities import KINDS
from videollava.embedding.zero_shot import layouts
from videollava.embedding.zero_shot.layouts import Captioned, Labelled
from videollava.errors import InputError
from videollava.params import Evaluate

__all__ = [
    "ACROSS",
    "APART",
    "PAIRS",
    "PAPER",
    "SETS",
    "Chosen",
    "ZeroShot",
    "choose_sets",
    "find_sets",
    "kinds_asked",
    "name_apart",
    "read_items",
    "set_of",
]

PLACE = Path("data/zero_shot")
PREPARED = Path("data/index")
APART = ".zero_shot"  # after a set's id in an evaluation: msvd is a benchmark of questions too
PAIRS: Final = "pairs"  # the task of a split of data/index
ACROSS = "across"  # after a split of pairs: each of its kinds to each other
PAPER = "LanguageBind (arXiv 2310.01852), its zero-shot tables"
# What LanguageBind's t_cls/zero_shot_metadata.py calls the folders of its reformatted sets.
LLVIP = {"person": "people"}
FLIR2 = {
    "car": "car or pick-up trucks or vans",
    "light": "traffic light",
    "other vehicle": "construction equipment or trailers",
    "stroller": "stroller or pram",
    "truck": "semi truck or freight truck",
}


@dataclass(frozen=True)
class ZeroShot:
    """A benchmark. kind "": by the files' endings. paper: LanguageBind's figure, None where there is none here: text
    to media R@1 in retrieval, top-1 (of several labels mAP) in classification.
    """

    name: str
    title: str
    task: Literal["retrieval", "classification", "pairs"]
    kind: str
    holds: str
    read: Callable[[Path], Captioned | Labelled]
    paper: float | None = None


@dataclass(frozen=True)
class Chosen:
    """A benchmark and the folder of its files."""

    set: ZeroShot
    folder: Path


def _retrieval(
    name: str, title: str, kind: str, holds: str, read: Callable[[Path], Captioned], paper: float | None
) -> ZeroShot:
    def captioned(folder: Path) -> Captioned:
        return layouts.jsonl(folder) if (folder / layouts.JSONL).is_file() else read(folder)

    return ZeroShot(name, title, "retrieval", kind, holds, captioned, paper)


def _classes(
    name: str, title: str, kind: str, holds: str, read: Callable[[Path], Labelled], paper: float | None
) -> ZeroShot:
    return ZeroShot(name, title, "classification", kind, holds, read, paper)


FOLDERS = "a folder a class, in it or its val or test"
_ALL = (
    _retrieval("msr-vtt", "MSR-VTT 1k-A", "video", "MSRVTT_JSFUSION_test.csv", layouts.msrvtt, 42.6),
    _retrieval("msvd", "MSVD", "video", "test_list.txt, raw-captions.pkl", layouts.msvd, 52.2),
    _retrieval("didemo", "DiDeMo", "video", "test_data.json (test_list.txt)", layouts.didemo, 37.8),
    _retrieval("activitynet", "ActivityNet", "video", "val_1.json (val_ids.json)", layouts.activitynet, 35.1),
    _retrieval("clotho", "Clotho", "audio", "clotho_captions_evaluation.csv", layouts.clotho, 12.1),
    _retrieval("audiocaps", "AudioCaps", "audio", "test.csv", layouts.audiocaps, 12.2),
    _retrieval("captions", "captions of your own", "", layouts.JSONL, layouts.jsonl, None),
    _classes("kinetics-400", "Kinetics-400", "video", f"val.csv, or {FOLDERS}", layouts.kinetics, 64.0),
    _classes("esc-50", "ESC-50", "audio", f"meta/esc50.csv, or {FOLDERS}", layouts.esc50, 91.8),
    _classes(
        "audioset", "AudioSet", "audio", "eval_segments.csv, class_labels_indices.csv", layouts.audioset, 27.7
    ),
    _classes("vggsound", "VGGSound", "audio", f"vggsound.csv, or {FOLDERS}", layouts.vggsound, 28.9),
    _classes("nyu-d", "NYU-D scenes", "depth", FOLDERS, layouts.by_folder, 65.1),
    _classes("llvip", "LLVIP", "thermal", FOLDERS, partial(layouts.by_folder, said=LLVIP), 87.2),
    _classes("flir-v1", "FLIR v1", "thermal", FOLDERS, layouts.by_folder, None),
    _classes("flir-v2", "FLIR v2", "thermal", FOLDERS, partial(layouts.by_folder, said=FLIR2), None),
    _classes("classes", "classes of your own", "", FOLDERS, layouts.by_folder, None),
)
SETS = {one.name: one for one in _ALL}


def find_sets(
    names: Sequence[str], workspace: Path = Path(), folders: Mapping[str, Path] | None = None
) -> list[Chosen]:
    """NAME or NAME=FOLDER of each; a test of pairs in data/index by its name. folders: of some names.

    InputError where there is no such benchmark or folder.
    """
    chosen: list[Chosen] = []
    for given in names:
        name, _, folder = given.partition("=")
        if name in {one.set.name for one in chosen}:
            raise InputError(f"{name}: named twice")
        if name not in SETS:
            chosen.append(_own_pairs(name, workspace))
            continue
        place = Path(folder) if folder else (folders or {}).get(name, workspace / PLACE / name)
        if not place.is_dir():
            raise InputError(
                f"{place}: no such folder; {name} is {SETS[name].holds} with the media below: {name}=FOLDER names it "
                "(evaluate.folders in params.yaml)"
            )
        chosen.append(Chosen(SETS[name], place))
    return chosen


def choose_sets(key: str, names: Sequence[str], choices: Evaluate, workspace: Path) -> list[Chosen]:
    """What `key` of params.yaml names, before anything is loaded. choices: whose folders hold the files.

    InputError where there is no such benchmark, or its files are not there.
    """
    if wrong := [name for name in names if "=" in name]:
        raise InputError(f"{key}: {wrong[0]}: give names, and folders in evaluate.folders")
    named = {name: choices.zero_shot_folder(name) for name in names if name in SETS}
    found = {name: unpacked_folder(folder, workspace) for name, folder in named.items() if folder}
    return find_sets(names, workspace, found)


def read_items(one: Chosen) -> Captioned | Labelled:
    """Its media with what is said of them. InputError where its files are laid out otherwise."""
    try:
        return one.set.read(one.folder)
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{one.folder}: {one.set.holds}: not laid out as {one.set.title} is published "
            f"({type(error).__name__}: {error}): compare it with the source"
        ) from error


def name_apart(name: str) -> str:
    """What a set's figures are called beside benchmarks of questions, some of which have its name."""
    return f"{name}{APART}" if name in SETS else name


def set_of(name: str) -> str:
    """The benchmark of encoders whose figures are so called in an evaluation (msvd of `msvd.zero_shot`, toy_pairs of
    `toy_pairs.audio`); "" where `name` is a benchmark of questions to a language model.
    """
    whole, dot, part = name.rpartition(".")
    return whole if dot and (part in (*KINDS, ACROSS) or f".{part}" == APART) else ""


def kinds_asked(name: str, asked: Iterable[str]) -> list[str]:
    """The modalities that figures of this name are about, among those that were `asked` together; none where only the
    files tell.
    """
    whole, _, part = name.rpartition(".")
    if part == ACROSS:
        return [kind for kind in KINDS if f"{whole}.{kind}" in asked]
    if part in KINDS:
        return [part]
    return [SETS[whole].kind] if whole in SETS and SETS[whole].kind else []


def _own_pairs(name: str, workspace: Path) -> Chosen:
    prepared = workspace / PREPARED
    if not (prepared / f"splits/test-{name}.arrow").is_file():
        raise InputError(
            f"{name}: no zero-shot benchmark, and data/index has no split test-{name}; there are {', '.join(SETS)}, "
            "and toy_pairs where generated clips have `senses`"
        )
    return Chosen(ZeroShot(name, name, PAIRS, "", "pairs of data/index", layouts.jsonl), prepared)
