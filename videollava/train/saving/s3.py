"""Checkpoints of one stage's key in S3: ranks upload their own files, the manifest comes last.

    <stage>-<key>/holder.json                              which attempt is at work: the later one wins
    <stage>-<key>/step-00000120.<attempt>/<file>           no other attempt writes these names
    <stage>-<key>/step-00000120.<attempt>/manifest.json    last: from here on the checkpoint stands

Two machines may come to run the same stage with the same key. Their names never meet, so neither can spoil what the
other writes; each checkpoint that stands is one that either may go on from; and who removes goes by holder.py.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from videollava.data.acquire.download import Download, OtherBytes, fetch_all
from videollava.errors import InputError
from videollava.train.launch.fence import Superseded, check_held
from videollava.train.saving.holder import HOLDER, check_holder, claim, greet
from videollava.train.saving.objects import Away, Found, Objects, Refused
from videollava.train.saving.places import KEEP, MANIFEST, Damaged, Whole, in_words, parse_manifest

__all__ = ["S3Place"]

PATIENCE = 600.0  # seconds without the store, until a save is given up and the next takes its place
PATIENCE_AT_START = 120.0
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries
RETRIES = 8  # of a download, in a row, that bring nothing
CONNECTIONS = 8  # of a download, over all files
FOLDER = re.compile(r"(step-(\d{8})\.([0-9A-Za-z.]+))/(.+)", re.DOTALL)
REMEDY = (
    "check bucket, endpoint and credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
)
T = TypeVar("T")


@dataclass
class S3Place:
    """See places.Place.

    objects: below s3://BUCKET/PREFIX/<stage>-<key>/. spool: a folder of this host for what is on its way: one
    checkpoint of this host's ranks. attempt: the same on all ranks, and no other attempt's. host_share: of a
    checkpoint's bytes, those of this host's ranks. first: whether this is this host's first rank.
    """

    objects: Objects
    spool: Path
    attempt: str
    host_share: float = 1.0
    first: bool = True
    give_up: threading.Event = field(default_factory=threading.Event)

    def room(self, nbytes: int) -> None:
        """InputError where the spool's disk is too small, or the store is away, refuses, or has no such bucket."""
        check_held()
        self.spool.mkdir(parents=True, exist_ok=True)
        for torn in self.spool.glob("*.tmp"):
            shutil.rmtree(torn, ignore_errors=True)  # of a killed process
        needed, whose = int(nbytes * self.host_share), f"a checkpoint on its way to {self.objects.url}"
        _check_free(self.spool, needed, whose)
        self._at_start(self._take)

    def aside(self, step: int) -> Path:
        """In the spool, where nothing else stays: what was fetched has been read, what failed is not sent again."""
        folder = self.spool / f"{self._folder(step)}.tmp"
        for other in [*self.spool.glob("*.tmp"), self._fetched] if self.first else []:
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, step: int, file: str) -> None:
        """Send a finished file, which then leaves the spool. OSError where the store refuses or stays away."""
        path = self.aside(step) / file
        self._patiently(lambda: self.objects.send(self._name(step, file), path))
        path.unlink()

    def seal(self, step: int, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, where all files are there as they were sent."""
        check_held()
        self._patiently(self._check_holder)
        folder, text = self._folder(step), json.dumps(dict(manifest))
        whole = parse_manifest(text, f"{self.objects.url}/{folder}")
        try:
            self._check_sizes(whole, self._patiently(self.objects.find))
        except Damaged as damage:
            raise OSError(errno.EIO, f"{whole.where}: {damage}, after it was sent") from damage
        self._patiently(lambda: self.objects.write(self._name(step, MANIFEST), text.encode()))
        shutil.rmtree(self.aside(step), ignore_errors=True)
        self._tidy(step)

    def drop(self, step: int) -> None:
        """Its files leave the spool; what of them was sent goes with the next checkpoint that is sealed."""
        shutil.rmtree(self.aside(step), ignore_errors=True)

    def newest(self, before: int | None = None) -> Whole | None:
        """The newest whole one. InputError where the store is away: an empty place would be no answer."""
        return self._at_start(lambda: self._newest(before))

    def fetch(self, whole: Whole, files: Iterable[str]) -> Path:
        """Download into the spool, what is there already excepted. InputError where the disk is too small."""
        folder = self._fetched / whole.where.rpartition("/")[2]
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [self._download(whole, name, folder) for name in files]
        missing = [item for item in wanted if not _is_there(item)]
        _check_free(folder, sum(item.size for item in missing), f"what is read of {whole.where}")
        stop = threading.Event()
        try:
            fetch_all(missing, CONNECTIONS, RETRIES, lambda count: None, lambda item, digest: None, stop)
        except InputError as error:
            self._explain(whole, missing, error)
        return folder

    def clear(self) -> None:
        """Remove all of this stage's, unless another attempt is at work; what can't be removed is told."""
        check_held()
        try:
            found = self.objects.find()
            self._check_holder()
            # Manifests first: what is half removed is no checkpoint. The holder last: it says who may.
            self._remove(sorted(found, key=lambda name: (name == HOLDER, not name.endswith(MANIFEST))))
            self._abort()
        except (Away, Refused) as error:
            print(f"{self.objects.url}: its checkpoints stay there ({error})", flush=True)
        except Superseded as error:
            print(f"checkpoints stay: {error}", flush=True)
        shutil.rmtree(self.spool, ignore_errors=True)

    # Names

    @property
    def _fetched(self) -> Path:
        """What was read to go on from: the host's own, where several see the spool."""
        return self.spool / f"fetched-{socket.gethostname()}"

    def _folder(self, step: int) -> str:
        return f"step-{step:08d}.{self.attempt}"

    def _name(self, step: int, file: str) -> str:
        return f"{self._folder(step)}/{file}"

    # Who is at work

    def _take(self) -> None:
        """Hold the place, and see that one may write and remove there."""
        self.objects.try_bucket()
        greet(self._holder(), self.objects.url)
        self.objects.write(HOLDER, claim(self.attempt).encode())
        trial = f"trial.{self.attempt}"
        self.objects.write(trial, b"")
        self.objects.remove(trial)

    def _holder(self) -> str:
        return (self.objects.read(HOLDER) or b"").decode(errors="replace")

    def _check_holder(self) -> None:
        check_holder(self._holder(), self.attempt, self.objects.url)

    # What is there

    def _newest(self, before: int | None) -> Whole | None:
        found = self.objects.find()
        for folder in sorted(_by_folder(found), key=lambda folder: _age(folder, found), reverse=True):
            if before is not None and _age(folder, found)[0] >= before:
                continue
            where = f"{self.objects.url}/{folder}"
            try:
                text = self.objects.read(f"{folder}/{MANIFEST}") if f"{folder}/{MANIFEST}" in found else None
                if text is None:
                    raise Damaged("not all of it was sent")
                whole = parse_manifest(text.decode(), where)
                self._check_sizes(whole, found)
                return whole
            except (Damaged, UnicodeDecodeError) as reason:
                print(f"checkpoint {where} isn't whole ({reason}); trying the one before it", flush=True)
        return None

    def _check_sizes(self, whole: Whole, found: Mapping[str, Found]) -> None:
        """Damaged where a file isn't there as it was sent."""
        folder = whole.where.rpartition("/")[2]
        for name, told in whole.files.items():
            there = found.get(f"{folder}/{name}")
            if there is None or there.size != told.size:
                raise Damaged(f"{name}: {'of another size' if there else 'missing'}")

    def _download(self, whole: Whole, name: str, folder: Path) -> Download:
        told = whole.files[name]
        address = self.objects.address(f"{folder.name}/{name}")
        origin, access = self.objects.origin, self.objects.access
        return Download(address, folder / name, told.sha256, origin, told.size, access=access)

    def _explain(self, whole: Whole, missing: Sequence[Download], error: InputError) -> None:
        """Raise Damaged where the store answers, and what it has isn't the checkpoint; else what was raised."""
        found = self._at_start(self.objects.find)
        self._check_sizes(whole, found)
        if isinstance(error, OtherBytes):
            raise Damaged(str(error)) from error
        raise error

    # What goes

    def _tidy(self, step: int) -> None:
        """Remove what is older than KEEP, and what was never ended; `step` stands, whatever fails here."""
        try:
            found = self.objects.find()
            self._check_holder()
            folders = _by_folder(found)
            stand = [folder for folder in folders if f"{folder}/{MANIFEST}" in found]
            # Another attempt may have been further: its checkpoints are the newest then, and this stays beside them.
            kept = {*sorted(stand, key=lambda folder: _age(folder, found))[-KEEP:], self._folder(step)}
            for folder in sorted(folders.keys() - kept):
                self._remove(sorted(folders[folder], key=lambda name: not name.endswith(f"/{MANIFEST}")))
            self._abort()
        except (Away, Refused) as error:
            print(f"{self.objects.url}: older checkpoints stay for now ({error})", flush=True)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.objects.remove(name)

    def _abort(self) -> None:
        """Forget uploads that were broken off. None is ours: all ranks' are ended when this is called."""
        pending = list(self.objects.unfinished())
        self._check_holder()
        for name, upload in pending:
            self.objects.abort(name, upload)

    # Patience

    def _at_start(self, call: Callable[[], T]) -> T:
        """Before any training: what is refused or stays away is the user's to mend."""
        try:
            return self._tried(call, PATIENCE_AT_START)
        except (Away, Refused) as error:
            remedy = REMEDY if isinstance(error, Refused) else "is its endpoint right, and does it run?"
            if "NoSuchBucket" in str(error):
                remedy = "create the bucket, or mend its name"
            raise InputError(
                f"machine.yaml: checkpoint_place: {self.objects.url}: {error}; {remedy}"
            ) from error

    def _patiently(self, call: Callable[[], T]) -> T:
        """While training goes on: OSError, with the reason, where it can't be had."""
        try:
            return self._tried(call, PATIENCE)
        except (Away, Refused) as error:
            raise OSError(errno.EIO, f"{self.objects.url}: {error}") from error

    def _tried(self, call: Callable[[], T], patience: float) -> T:
        began, pause, told = time.monotonic(), FIRST_PAUSE, False
        while True:
            try:
                result = call()
            except Away as error:
                spent = time.monotonic() - began
                if spent + pause > patience or self.give_up.is_set():
                    raise
                if not told:
                    print(
                        f"{self.objects.url}: {error}; trying again for {patience / 60:.0f} minutes",
                        flush=True,
                    )
                told = True
                self.give_up.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if told:
                print(
                    f"{self.objects.url}: answers again, after {time.monotonic() - began:.0f} s", flush=True
                )
            return result


def _by_folder(found: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for name in found:
        if match := FOLDER.fullmatch(name):
            folders.setdefault(match[1], []).append(name)
    return folders


def _age(folder: str, found: Mapping[str, Found]) -> tuple[int, float]:
    """By step; of two of the same step the one that was ended later is the newer."""
    manifest = found.get(f"{folder}/{MANIFEST}")
    return int(folder[5:13]), manifest.written.timestamp() if manifest else 0.0


def _is_there(item: Download) -> bool:
    """Its size is enough: it was verified before it got its name."""
    return item.target.is_file() and item.target.stat().st_size == item.size


def _check_free(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.05 * needed:
        raise InputError(
            f"{folder}: {what} needs {in_words(needed)} there, and {in_words(free)} are free: free some, or have "
            "`checkpoints` lie on another disk"
        )
