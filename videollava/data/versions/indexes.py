"""An index of now or of then: the one that is here, a folder, or that of a git revision, which DVC brings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from videollava.data.prepare.tables import MEDIA, load_split, open_table, split_names
from videollava.data.versions.dvc import run_dvc
from videollava.errors import InputError

__all__ = ["HERE", "Indexed", "open_index"]

INDEX = Path("data/index")
HERE = "."
COLUMNS = ["id", "source", "kind", "conversations", "media"]


@dataclass(frozen=True)
class Indexed:
    """`root`/data/index, and beside it the shards that are at hand. `name`: as a person called it."""

    name: str
    root: Path

    @property
    def folder(self) -> Path:
        """With media.arrow and the splits."""
        return self.root / INDEX

    @cached_property
    def hashes(self) -> list[bytes]:
        """The SHA-256 of each medium, by its number."""
        return [bytes.fromhex(one) for one in open_table(self.folder / MEDIA).column("sha256").to_pylist()]

    @cached_property
    def sources(self) -> list[str]:
        """By medium, the source in whose shards it lies."""
        shards = [shard["source"] for shard in json.loads((self.folder / "shards.json").read_text())]
        return [shards[number] for number in open_table(self.folder / MEDIA).column("shard").to_pylist()]

    def splits(self) -> list[str]:
        """Their names."""
        return split_names(self.folder)

    def rows(self, split: str) -> Iterator[dict[str, Any]]:
        """Records of a split: id, source, kind, conversations (JSON), media (numbers); a batch at a time."""
        for batch in load_split(self.folder, split).select(COLUMNS).to_batches():
            yield from batch.to_pylist()

    def row(self, split: str, place: int) -> dict[str, Any]:
        """One of them."""
        found: dict[str, Any] = load_split(self.folder, split).select(COLUMNS).slice(place, 1).to_pylist()[0]
        return found


def open_index(workspace: Path, name: str, scratch: Path) -> Indexed:
    """The index that `name` means: "." or "" the one here, a folder with media.arrow, or a git revision (a commit, a
    tag such as model/videollava/3), whose index DVC takes from its cache or remote into `scratch`.

    InputError where it is none of them, or DVC has it nowhere.
    """
    if name in ("", HERE):
        return _of_folder(workspace / INDEX, HERE, workspace, scratch)
    if (Path(name) / MEDIA).is_file():
        return _of_folder(Path(name), name, workspace, scratch)
    commit = _commit(workspace, name)
    root = scratch / commit[:12]
    if not (root / INDEX).is_dir():
        (root / INDEX).parent.mkdir(parents=True, exist_ok=True)
        try:
            run_dvc(
                workspace,
                "get",
                ".",
                INDEX.as_posix(),
                "--rev",
                commit,
                "--out",
                str((root / INDEX).absolute()),
            )
        except InputError as error:
            raise InputError(
                f"{name}: its {INDEX} is not to be had ({error}); `videollava remote` shows where DVC looks"
            ) from error
    return Indexed(name, _with_shards(root, workspace))


def _of_folder(folder: Path, name: str, workspace: Path, scratch: Path) -> Indexed:
    if not (folder / MEDIA).is_file():
        raise InputError(f"{folder}: no index; run `videollava index`, or `dvc pull index`")
    if folder.absolute() == (workspace / INDEX).absolute():
        return Indexed(name, workspace)
    root = scratch / f"folder-{len(list(scratch.iterdir())) if scratch.is_dir() else 0}"
    (root / INDEX).parent.mkdir(parents=True)
    (root / INDEX).symlink_to(folder.absolute())
    beside = folder.absolute().parent
    return Indexed(name, _with_shards(root, beside.parent if (beside / "shards").is_dir() else workspace))


def _with_shards(root: Path, workspace: Path) -> Path:
    """Shards of then are those of now, but for what changed since: whoever reads them checks sums."""
    link = root / "data/shards"
    if not link.is_symlink():
        link.symlink_to((workspace / "data/shards").absolute())
    return root


def _commit(workspace: Path, name: str) -> str:
    question = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    done = subprocess.run(question, cwd=workspace, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"{name}: neither a folder with an index ({MEDIA}) nor a revision of git; tags of versions: "
            "`git tag -l 'model/*'`"
        )
    return done.stdout.strip()
