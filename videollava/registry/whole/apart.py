"""A version's own code: unpacked once, and run in a process of its own where this process has other code.

This file is read out of the version's wheel before anything else of it is imported (serve/pyfunc.py), and so
imports the standard library alone. The process at the other end is of the same wheel: the two speak one language.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "DIGITS",
    "Apart",
    "code_files",
    "digest_of",
    "environment_of",
    "is_here",
    "unpack",
    "user_cache",
    "wheel_digest",
]

DIGITS = 12  # of the hash in a wheel's name
PACKAGE = "videollava"
Row = Mapping[str, Any]


def code_files(package: Path) -> Iterator[Path]:
    """The files of a package that are code or read by it, sorted; compiled, hidden and backup files are not."""
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package).parts
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inside)
        if path.is_file() and not hidden and not path.name.endswith((".pyc", "~")):
            yield path


def digest_of(package: Path) -> str:
    """Hash over the paths and contents of a package's files, `DIGITS` hex digits."""
    told = hashlib.sha256()
    for path in code_files(package):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        told.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode())
    return told.hexdigest()[:DIGITS]


def wheel_digest(wheel: str) -> str:
    """The hash that a wheel's name says; ValueError where it says none (videollava-0.1.0+c<12 digits>-...)."""
    digits = Path(wheel).name.partition("+c")[2].partition("-")[0]
    if len(digits) != DIGITS:
        raise ValueError(f"{Path(wheel).name}: its name does not say which code it is")
    return digits


def is_here(digest: str) -> bool:
    """Whether `import videollava` in this process is that very code."""
    spec = importlib.util.find_spec(PACKAGE)
    return spec is not None and bool(spec.origin) and digest_of(Path(str(spec.origin)).parent) == digest


def unpack(wheel: Path, cache: Path) -> Path:
    """A folder to import the wheel's code from, made once for each content. ValueError where it is damaged."""
    digest = wheel_digest(wheel.name)
    target = cache / digest
    if (target / PACKAGE).is_dir() and digest_of(target / PACKAGE) == digest:
        return target
    cache.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix="unpacking-", dir=cache))
    try:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(aside)
        if digest_of(aside / PACKAGE) != digest:
            raise ValueError(f"{wheel.name}: damaged (its content does not fit its name)")
        shutil.rmtree(target, ignore_errors=True)  # somebody edited it
        aside.chmod(0o755)
        try:
            aside.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first: the same files
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def user_cache(name: str, workspace: Path | None = None) -> Path:
    """Where what belongs to versions is kept: $VIDEOLLAVA_CACHE, the workspace's .mlflow, else the user's cache."""
    if named := os.environ.get("VIDEOLLAVA_CACHE"):
        return Path(named) / name
    if workspace is not None and (workspace / "dvc.yaml").is_file():
        return workspace.resolve() / ".mlflow" / name
    return _home_cache() / PACKAGE / name


def _home_cache() -> Path:
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a container's uid that has neither a name nor a home
        return Path(tempfile.gettempdir()) / f"home-{os.getuid()}" / ".cache"


def environment_of(code: Path) -> dict[str, str]:
    """An environment in which `python -m videollava` is the code in that folder, wherever it is started."""
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    # Without PYTHONSAFEPATH the folder that one stands in comes first: a checkout's own code.
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(code), *others]), "PYTHONSAFEPATH": "1"}


class Apart:
    """A process of the wheel's code that holds a model. It ends with this object or with this process.

    config: the version's model_config. workspace: the folder whose DVC cache and model cache are used. roots: the only
    folders whose files a row may name. ValueError is what that code refuses, in its words.
    """

    def __init__(self, wheel: Path, config: Row, workspace: Path, roots: Sequence[str]) -> None:
        code = unpack(wheel, user_cache("code", workspace))
        command = [sys.executable, "-m", "videollava.registry.whole.answering"]
        self._process = subprocess.Popen(
            command, env=environment_of(code), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._turn = threading.Lock()
        try:
            self._say((dict(config), str(workspace), list(roots)))
        except BaseException:
            self.close()
            raise

    def ask(self, rows: Iterable[Row]) -> list[str]:
        """Answers to rows, in order. ValueError is what the model's code refuses, in its words."""
        return list(self._say(list(rows)))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process.wait()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _say(self, what: Any) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        with self._turn:
            try:
                pickle.dump(what, self._process.stdin)
                self._process.stdin.flush()
                fine, reply = pickle.load(self._process.stdout)
            except (EOFError, OSError, pickle.UnpicklingError) as error:
                raise RuntimeError(
                    f"the process that holds the version's model ended (status {self._process.poll()}); what it "
                    "wrote last says why"
                ) from error
        if not fine:
            raise ValueError(reply)
        return reply
