"""Where whole checkpoints of one stage stand: the protocol, and a folder as a place.

A checkpoint is a folder `step-00000120/` of files and a `manifest.json` with their sizes and SHA-256, written last. It
is written aside and renamed; the last two are kept. A torn one is reported and passed over for the one before it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from videollava.errors import InputError
from videollava.train.launch.fence import ATTEMPT, Superseded, check_held
from videollava.train.saving.files import Sum, sum_of
from videollava.train.saving.holder import HOLDER, check_holder, claim, greet

__all__ = [
    "FORMAT",
    "KEEP",
    "MANIFEST",
    "Damaged",
    "FolderPlace",
    "Place",
    "Whole",
    "in_words",
    "parse_manifest",
    "read_manifest",
]

FORMAT = 2
KEEP = 2
MANIFEST = "manifest.json"


class Damaged(Exception):
    """A checkpoint's file that isn't what its manifest says."""


@dataclass(frozen=True)
class Whole:
    """A checkpoint that its manifest says is whole. where: its folder or address, for people."""

    step: int
    about: Mapping[str, Any]
    files: Mapping[str, Sum]
    where: str


class Place(Protocol):
    """Where the checkpoints of one stage stand.

    `room`, `seal`, `drop`, `newest` and `clear` are called by rank 0 alone, the others by every rank; `put`, `seal`
    and `drop` in the thread that writes. What can go wrong while writing (a full disk, a server that is gone) is an
    OSError: it's said, and training goes on.
    """

    def room(self, nbytes: int) -> None:
        """InputError where KEEP + 1 checkpoints of `nbytes` (of all ranks) can't be held; at the start."""

    def aside(self, step: int) -> Path:
        """The local folder, made, that this rank writes its files of `step` into."""

    def put(self, step: int, file: str) -> None:
        """A finished file (its name in the folder) of this rank goes to the place."""

    def seal(self, step: int, manifest: Mapping[str, Any]) -> None:
        """After all ranks' puts: from here on the checkpoint stands, and older than KEEP are dropped. Superseded
        where a newer attempt is at work.
        """

    def drop(self, step: int) -> None:
        """What there is of `step`, which isn't sealed, goes: a write failed."""

    def newest(self, before: int | None = None) -> Whole | None:
        """The newest whole one (by manifest and sizes), of a step before `before`; torn ones are reported."""

    def fetch(self, whole: Whole, files: Iterable[str]) -> Path:
        """A local folder with these files, sums checked. Damaged where one isn't what it was.

        Ranks of a host share the work: each calls it with other files, and all then read in the same folder.
        """

    def clear(self) -> None:
        """Remove all checkpoints of the stage: its outputs are sealed."""


class FolderPlace:
    """A folder that all ranks see: files are written where they stay."""

    def __init__(self, folder: Path, attempt: str = "") -> None:
        self.folder, self._attempt = folder, attempt

    @property
    def attempt(self) -> str:
        """No other attempt at this stage writes into folders of this name."""
        return self._attempt or os.environ.get(ATTEMPT, "")

    def room(self, nbytes: int) -> None:
        check_held()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
        except OSError as error:
            raise InputError(
                f"{self.folder}: checkpoints can't be written there: {error.strerror}; machine.yaml's checkpoint_place "
                "says where they go"
            ) from error
        for torn in self.folder.glob("*.tmp"):  # an earlier attempt, if it lives, writes nothing that counts
            shutil.rmtree(torn, ignore_errors=True)
        held = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        need, free = (KEEP + 1) * nbytes - held, shutil.disk_usage(self.folder).free
        if need > free:
            raise InputError(
                f"{self.folder}: {KEEP + 1} checkpoints of {in_words(nbytes)} at a time need {in_words(need)} more, "
                f"and {in_words(free)} are free: free some, or name a larger disk or s3://bucket/prefix as "
                "machine.yaml's checkpoint_place"
            )

    def aside(self, step: int) -> Path:
        folder = self.folder / f"step-{step:08d}{'.' if self.attempt else ''}{self.attempt}.tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, step: int, file: str) -> None:
        """Nothing: it lies where it stays."""

    def seal(self, step: int, manifest: Mapping[str, Any]) -> None:
        aside, target = self.aside(step), self.folder / f"step-{step:08d}"
        for stranger in sorted(aside.rglob("*"), reverse=True):  # of a killed process, with other ranks
            if stranger.is_file() and str(stranger.relative_to(aside)) not in manifest["files"]:
                stranger.unlink()
        with open(aside / MANIFEST, "w") as file:
            json.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(aside)
        self._check()
        if target.exists():
            shutil.rmtree(target)
        aside.rename(target)
        _sync_folder(self.folder)
        old = [*sorted(self.folder.glob("step-????????"))[:-KEEP], *self.folder.glob("*.tmp")]
        self._check()  # after the look: what a newer attempt has there isn't removed
        for folder in old:
            if folder != target:  # another may have been further
                shutil.rmtree(folder, ignore_errors=True)

    def drop(self, step: int) -> None:
        shutil.rmtree(self.aside(step), ignore_errors=True)

    def newest(self, before: int | None = None) -> Whole | None:
        for folder in sorted(self.folder.glob("step-????????"), reverse=True):
            if before is not None and int(folder.name[5:]) >= before:
                continue
            try:
                return read_manifest(folder)
            except Damaged as reason:
                print(f"checkpoint {folder.name} is damaged ({reason}); trying the one before it", flush=True)
        return None

    def fetch(self, whole: Whole, files: Iterable[str]) -> Path:
        folder = Path(whole.where)
        for name in files:
            try:
                same = sum_of(folder / name) == whole.files[name]
            except OSError as error:
                raise Damaged(f"{name}: {error.strerror}") from error
            if not same:
                raise Damaged(f"{name} isn't what was written")
        return folder

    def clear(self) -> None:
        check_held()
        try:
            check_holder(self._holder(), self.attempt, str(self.folder))
        except Superseded as error:
            print(f"checkpoints stay: {error}", flush=True)
            return
        shutil.rmtree(self.folder, ignore_errors=True)

    def _hold(self) -> None:
        if self.attempt:
            greet(self._holder(), str(self.folder))
            claimed = self.folder / f"{HOLDER}.{self.attempt}.claim"
            claimed.write_text(claim(self.attempt))
            claimed.replace(self.folder / HOLDER)

    def _holder(self) -> str:
        try:
            return (self.folder / HOLDER).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def _check(self) -> None:
        """Superseded where this attempt may write no more."""
        check_held()
        if self.attempt:
            check_holder(self._holder(), self.attempt, str(self.folder))


def read_manifest(folder: Path) -> Whole:
    """The checkpoint in a folder. Damaged where a file is missing or of another size."""
    try:
        text = (folder / MANIFEST).read_text()
    except OSError as error:
        raise Damaged(f"{MANIFEST}: {error.strerror}") from error
    except ValueError as error:
        raise Damaged(f"{MANIFEST}: {error}") from error
    whole = parse_manifest(text, str(folder))
    for name, told in whole.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != told.size:
            raise Damaged(f"{name}: {'of another size' if path.is_file() else 'missing'}")
    return whole


def parse_manifest(text: str, where: str) -> Whole:
    """The checkpoint at `where` that a manifest describes. Damaged where it is none of this format."""
    try:
        manifest = json.loads(text)
        version = manifest["format"]
        if version < FORMAT:
            raise Damaged(f"of an earlier version of this program, format {version}")
        if version > FORMAT:
            raise InputError(f"{where}: checkpoint format {version} is newer than this program's {FORMAT}")
        files = {name: Sum(**told) for name, told in manifest["files"].items()}
        return Whole(manifest["step"], manifest["about"], files, where)
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{MANIFEST}: {error}") from error


def in_words(nbytes: int) -> str:
    """As people say it."""
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e7 else f"{nbytes / 1e6:.2f} MB"


def _sync_folder(folder: Path) -> None:
    """What a folder lists is on the disk, where the file system can say so."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems refuse it
    finally:
        os.close(handle)
