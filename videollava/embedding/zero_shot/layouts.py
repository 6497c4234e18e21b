"""Zero-shot benchmarks as their sources lay them out: media with captions, media with classes.

Media are found by name anywhere below the benchmark's folder. Those that are not there are listed, and left out with
their captions.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from videollava.data.records.endings import MEDIA_ENDINGS
from videollava.embedding.kinds import kind_of
from videollava.errors import InputError

__all__ = [
    "Captioned",
    "Labelled",
    "activitynet",
    "audiocaps",
    "audioset",
    "by_folder",
    "clotho",
    "didemo",
    "esc50",
    "jsonl",
    "kinetics",
    "msrvtt",
    "msvd",
    "vggsound",
]

JSONL = "captions.jsonl"


@dataclass(frozen=True)
class Captioned:
    """Media with the captions of each; absent: names of media that are not in the folder."""

    media: list[Path]
    captions: list[list[str]]
    absent: list[str]


@dataclass(frozen=True)
class Labelled:
    """Media with the numbers of their classes (several where `multi`)."""

    media: list[Path]
    labels: list[tuple[int, ...]]
    classes: list[str]
    absent: list[str]
    multi: bool = False


Names = tuple[str, ...]  # what a medium's file may be called, without its ending


def jsonl(folder: Path) -> Captioned:
    """captions.jsonl: {"media": path below the folder, "captions": [texts]} a line. A layout of our own."""
    file = folder / JSONL
    wanted: dict[Names, list[str]] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError as error:
            raise InputError(f"{file}, line {number}: not valid JSON ({error})") from error
        if row is None:
            continue
        media, captions = (row.get("media"), row.get("captions")) if isinstance(row, dict) else (None, None)
        captions = [captions] if isinstance(captions, str) else captions
        if not isinstance(media, str) or not isinstance(captions, list) or not captions:
            raise InputError(f'{file}, line {number}: give {{"media": path, "captions": [texts]}}')
        wanted.setdefault((media,), []).extend(map(str, captions))
    return _captioned(folder, wanted, lambda name: folder / name)


def msrvtt(folder: Path) -> Captioned:
    """1k-A: MSRVTT_JSFUSION_test.csv (key, vid_key, video_id, sentence), a caption a clip."""
    rows = _rows(folder / "MSRVTT_JSFUSION_test.csv", "video_id", "sentence")
    return _captioned(folder, _grouped(((row["video_id"],), row["sentence"]) for row in rows))


def msvd(folder: Path) -> Captioned:
    """test_list.txt, and raw-captions.pkl: by clip, lists of words. The pickle may hold nothing but those."""
    file = folder / "raw-captions.pkl"
    try:
        with file.open("rb") as opened:
            said = _Plain(opened, encoding="utf-8").load()
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found") from error
    except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{file}: no pickle of words alone ({error})") from error
    wanted: dict[Names, list[str]] = {}
    for name in _text(folder / "test_list.txt").split():
        if name not in said:
            raise InputError(f"{file}: has no captions of {name}, which test_list.txt names")
        wanted[(name,)] = [" ".join(words) for words in said[name]]
    return _captioned(folder, wanted)


def didemo(folder: Path) -> Captioned:
    """test_data.json (video, description, ..): the descriptions of a clip are one text. test_list.txt may choose."""
    chosen = _chosen(folder / "test_list.txt")
    texts: dict[str, list[str]] = {}
    for row in _json(folder / "test_data.json"):
        if chosen is None or row["video"] in chosen:
            texts.setdefault(row["video"], []).append(row["description"])
    wanted: dict[Names, list[str]] = {(name, Path(name).stem): [" ".join(s)] for name, s in texts.items()}
    return _captioned(folder, wanted)


def activitynet(folder: Path) -> Captioned:
    """val_1.json: by "v_ID" its sentences, which are one text. val_ids.json may choose."""
    said: Mapping[str, Any] = _json(folder / "val_1.json")
    chosen = _json(folder / "val_ids.json") if (folder / "val_ids.json").is_file() else list(said)
    if strange := [name for name in chosen if name not in said]:
        raise InputError(
            f"{folder / 'val_1.json'}: has no sentences of {strange[0]}, which val_ids.json names"
        )
    wanted: dict[Names, list[str]] = {
        (name, name.removeprefix("v_")): [" ".join(part.strip() for part in said[name]["sentences"])]
        for name in chosen
    }
    return _captioned(folder, wanted)


def clotho(folder: Path) -> Captioned:
    """clotho_captions_evaluation.csv: file_name, caption_1 .. caption_5."""
    numbered = [f"caption_{number}" for number in range(1, 6)]
    rows = _rows(folder / "clotho_captions_evaluation.csv", "file_name", *numbered)
    pairs = (((row["file_name"],), row[name]) for row in rows for name in numbered)
    return _captioned(folder, _grouped(pairs))


def audiocaps(folder: Path) -> Captioned:
    """test.csv: audiocap_id, youtube_id, start_time, caption. Sounds: ID_START, ID or YID with their ending."""
    rows = _rows(folder / "test.csv", "youtube_id", "start_time", "caption")
    pairs = ((_of_youtube(row["youtube_id"], row["start_time"]), row["caption"]) for row in rows)
    return _captioned(folder, _grouped(pairs))


def esc50(folder: Path) -> Labelled:
    """meta/esc50.csv (filename, .., category, ..), or a folder a class."""
    if not (folder / "meta/esc50.csv").is_file():
        return by_folder(folder)
    rows = _rows(folder / "meta/esc50.csv", "filename", "category")
    return _labelled(folder, (((row["filename"],), (_words(row["category"]),)) for row in rows))


def vggsound(folder: Path) -> Labelled:
    """vggsound.csv without a header (YouTube id, start, label, split), its test part; or a folder a class."""
    file = folder / "vggsound.csv"
    if not file.is_file():
        return by_folder(folder)
    rows = [row for row in csv.reader(io.StringIO(_text(file))) if row]
    if short := next((number for number, row in enumerate(rows, 1) if len(row) != 4), 0):
        raise InputError(f"{file}, line {short}: expected YouTube id, start, label, split")
    return _labelled(
        folder,
        ((_of_youtube(name, start), (label,)) for name, start, label, split in rows if split == "test"),
    )


def audioset(folder: Path) -> Labelled:
    """eval_segments.csv (after # lines: YTID, start, end, "mid,mid"), class_labels_indices.csv (index, mid, name)."""
    listed = _rows(folder / "class_labels_indices.csv", "index", "mid", "display_name")
    names = {row["mid"]: row["display_name"] for row in listed}
    lines = [line for line in _text(folder / "eval_segments.csv").splitlines() if not line.startswith("#")]
    rows = [row for row in csv.reader(lines, skipinitialspace=True) if row]
    pairs = []
    for name, start, _, mids in rows:
        if unknown := [mid for mid in mids.split(",") if mid not in names]:
            raise InputError(
                f"{folder}/eval_segments.csv: {name}: class_labels_indices.csv has no {unknown[0]}"
            )
        pairs.append((_of_youtube(name, start), tuple(names[mid] for mid in mids.split(","))))
    return _labelled(folder, pairs, list(names.values()), multi=True)


def kinetics(folder: Path) -> Labelled:
    """val.csv (label, youtube_id, time_start, time_end, split) with clips ID_000010_000020; or a folder a class."""
    if not (folder / "val.csv").is_file():
        return by_folder(folder)
    rows = _rows(folder / "val.csv", "label", "youtube_id", "time_start", "time_end")
    named = (
        (f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}", row["youtube_id"])
        for row in rows
    )
    return _labelled(folder, zip(named, ((row["label"],) for row in rows), strict=True))


def by_folder(folder: Path, said: Mapping[str, str] | None = None) -> Labelled:
    """A folder a class, as ImageNet's, in the folder or its val or test. said: what a folder's class is called."""
    root = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), folder)
    inside = sorted(place for place in root.iterdir() if place.is_dir()) if root.is_dir() else []
    classes = [(said or {}).get(place.name, _words(place.name)) for place in inside]
    media: list[Path] = []
    labels: list[tuple[int, ...]] = []
    for number, place in enumerate(inside):
        files = sorted(file for file in place.rglob("*") if file.name.lower().endswith(MEDIA_ENDINGS))
        media += files
        labels += [(number,)] * len(files)
    if not media or len(inside) < 2:
        raise InputError(f"{root}: expected a folder a class, with media in them")
    return Labelled(media, labels, classes, [])


class _Plain(pickle.Unpickler):
    """A pickle of plain values: no class or function is looked up, so nothing in it can run."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def _of_youtube(name: str, start: str) -> Names:
    """What downloaders call a piece of a clip: no source fixes it."""
    whole = int(float(start))
    return (f"{name}_{whole:06d}", f"{name}_{whole}", f"Y{name}", name)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _grouped(pairs: Iterable[tuple[Names, str]]) -> dict[Names, list[str]]:
    found: dict[Names, list[str]] = {}
    for names, caption in pairs:
        if caption.strip():
            found.setdefault(names, []).append(caption.strip())
    return found


def _captioned(
    folder: Path, wanted: Mapping[Names, list[str]], place: Callable[[str], Path] | None = None
) -> Captioned:
    files = {} if place else _files(folder)
    media, captions, absent = [], [], []
    for names, said in wanted.items():
        file = place(names[0]) if place else _first(files, names)
        if file is None or not file.is_file():
            absent.append(names[0])
            continue
        media.append(file)
        captions.append(said)
    _refuse_none(folder, media, absent)
    return Captioned(media, captions, absent)


def _labelled(
    folder: Path,
    wanted: Iterable[tuple[Names, tuple[str, ...]]],
    classes: list[str] | None = None,
    multi: bool = False,
) -> Labelled:
    rows = list(wanted)
    classes = classes or sorted({name for _, said in rows for name in said})
    number = {name: place for place, name in enumerate(classes)}
    files = _files(folder)
    media, labels, absent = [], [], []
    for names, said in rows:
        file = _first(files, names)
        if file is None:
            absent.append(names[0])
            continue
        media.append(file)
        labels.append(tuple(number[name] for name in said))
    _refuse_none(folder, media, absent)
    return Labelled(media, labels, classes, absent, multi)


def _files(folder: Path) -> dict[str, Path]:
    """Media below a folder, by name with and without the ending."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.name.lower().endswith(MEDIA_ENDINGS):
            found.setdefault(file.stem, file)
            found[file.name] = file
    return found


def _first(files: Mapping[str, Path], names: Names) -> Path | None:
    return next((files[name] for name in names if name in files), None)


def _refuse_none(folder: Path, media: list[Path], absent: list[str]) -> None:
    if not media:
        first = f", such as {absent[0]}" if absent else ""
        raise InputError(
            f"{folder}: none of its {len(absent)} media is in it{first}: put them below the folder"
        )
    for file in media[:1]:
        kind_of(file)


def _rows(file: Path, *columns: str) -> list[dict[str, str]]:
    reader = csv.DictReader(io.StringIO(_text(file)))
    if lacking := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise InputError(f"{file}: no column {lacking[0]!r}; it has {', '.join(reader.fieldnames or ())}")
    return list(_whole(file, reader, columns))


def _whole(file: Path, rows: Iterable[dict[str, Any]], columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    for number, row in enumerate(rows, 2):
        if any(row[name] is None for name in columns):
            raise InputError(f"{file}, line {number}: cut short; expected {', '.join(columns)}")
        yield row


def _chosen(file: Path) -> set[str] | None:
    return set(_text(file).split()) if file.is_file() else None


def _json(file: Path) -> Any:
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise InputError(f"{file}: not valid JSON ({error})") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found; see docs/encoders.md for the layout") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error})") from error
