"""Sources that are made on this machine: the data of an installed package, and generated clips."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from videollava.data.archives.tar_writer import TarWriter
from videollava.data.pool import Pool
from videollava.data.toy.scenes import Scene, Split, annotation, path, scenes, sense_path, still_path
from videollava.errors import InputError
from videollava.params import Source

__all__ = ["package_version", "write_clips", "write_package"]

Advance = Callable[[int], None]
Encoded = tuple[bytes, bytes, str, dict[str, bytes]]  # clip, still, where that shows the shape, other senses
CLIPS_A_TASK = 25


def package_version(source: Source) -> str:
    """The installed version of a package source; InputError where it isn't installed."""
    try:
        return importlib.metadata.version(source.package)
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"params.yaml: sources.{source.name}: package {source.package!r} is not installed; "
            f"run `pip install {source.package}`"
        ) from error


def package_files(source: Source) -> list[Path]:
    """The files under the `data` folder of an installed package, sorted."""
    package_version(source)
    spec = importlib.util.find_spec(source.package.replace("-", "_"))
    folders = [Path(place) / "data" for place in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        if folder.is_dir():
            return sorted(
                file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")
            )
    raise InputError(
        f"params.yaml: sources.{source.name}: package {source.package!r} has no data folder; "
        "name a package that ships its data, or use kind: archive"
    )


def write_package(source: Source, folder: Path, advance: Advance) -> None:
    """Put a package's data files into `folder`/<name>.tar."""
    files = package_files(source)
    root = next(parent for parent in files[0].parents if parent.name == "data")
    with TarWriter(folder / f"{source.name}.tar") as tar:
        for file in files:
            data = file.read_bytes()
            tar.add(file.relative_to(root).as_posix(), data)
            advance(len(data))


def write_clips(source: Source, folder: Path, workers: int, advance: Advance) -> None:
    """Draw and encode the clips of a source: `train.tar`, `train.jsonl`, `test.tar`, `test.jsonl`.

    InputError where a test clip has the bytes of a training clip.
    """
    hashes: dict[str, set[str]] = {}
    with Pool(workers) as pool:
        for split in get_args(Split):
            count = source.train if split == "train" else source.test
            hashes[split] = _write_split(
                *(pool, folder, split, scenes(split, count, source.seed, source.sized)),
                *(source.senses, advance),
            )
    shared = len(hashes["train"] & hashes["test"])
    if shared:
        raise InputError(
            f"params.yaml: sources.{source.name}: {shared} test clips are also training clips; "
            "change its seed"
        )


def _write_split(
    pool: Pool, folder: Path, split: Split, drawn: list[Scene], senses: Sequence[str], advance: Advance
) -> set[str]:
    tasks = [drawn[start : start + CLIPS_A_TASK] for start in range(0, len(drawn), CLIPS_A_TASK)]
    hashes = set()
    with TarWriter(folder / f"{split}.tar") as tar, (folder / f"{split}.jsonl").open("w") as lines:
        clips = _flatten(pool.stream(partial(_encode_scenes, senses=tuple(senses)), tasks))
        for index, (scene, (clip, still, place, others)) in enumerate(zip(drawn, clips, strict=True)):
            tar.add(path(split, index), clip)
            # Alignment learns from stills where a thing is; the test set has none.
            if split != "train" or "image" in senses:
                place = ""
            if place:
                tar.add(still_path(split, index), still)
            for kind, data in others.items():
                tar.add(sense_path(split, index, kind), data)
            about = annotation(split, index, scene, place, senses)
            lines.write(json.dumps(about) + "\n")
            hashes.add(hashlib.sha256(clip).hexdigest())
            advance(1)
    return hashes


def _encode_scenes(drawn: list[Scene], senses: Sequence[str] = ()) -> list[Encoded]:
    from videollava.data.toy import senses as other
    from videollava.data.toy.drawing import draw, encode, still

    made = {"image": other.picture, "depth": other.depth, "thermal": other.thermal, "audio": other.sound}
    return [
        (
            encode(draw(scene), scene.rate),
            *still(scene),
            {kind: made[kind](scene) for kind in senses},
        )
        for scene in drawn
    ]


def _flatten(groups: Iterator[list[Encoded]]) -> Iterator[Encoded]:
    for group in groups:
        yield from group
