"""One at a time, and only while somebody is there."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
from pathlib import Path

import pytest

from flows.places.lock import LOCK, hold
from videollava.errors import InputError


def _hold(root: str, up: multiprocessing.Queue, stop: multiprocessing.Queue) -> None:
    with hold(Path(root)):
        up.put(1)
        stop.get()


def test_one_retraining_at_a_time(workspace: Path) -> None:
    context = multiprocessing.get_context("fork")
    up, stop = context.Queue(), context.Queue()
    other = context.Process(target=_hold, args=(str(workspace), up, stop))
    other.start()
    up.get(timeout=120)
    with (
        pytest.raises(InputError, match="another retraining or an evaluation"),
        hold(workspace, wait=0.1),
    ):
        pass
    stop.put(1)
    other.join()
    with hold(workspace, wait=0.1):
        pass


def test_those_who_only_read_are_there_together_but_not_beside_a_retraining(tmp_path: Path) -> None:
    with (
        hold(tmp_path, shared=True),
        hold(tmp_path, wait=0.0, shared=True),
        pytest.raises(InputError, match="or an evaluation"),
        hold(tmp_path, wait=0.0),
    ):
        pass
    with (
        hold(tmp_path),
        pytest.raises(InputError, match="another retraining is running"),
        hold(tmp_path, wait=0.0, shared=True),
    ):
        pass


def test_who_holds_it_is_named(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    up, stop = context.Queue(), context.Queue()
    other = context.Process(target=_hold, args=(str(tmp_path), up, stop))
    other.start()
    up.get(timeout=120)
    with pytest.raises(InputError, match=rf"running here \(process {other.pid}\)"), hold(tmp_path, wait=0.0):
        pass
    stop.put(1)
    other.join()


def test_a_lock_file_that_was_removed_is_nobodys(tmp_path: Path) -> None:
    with hold(tmp_path):
        (tmp_path / LOCK).unlink()
        with hold(tmp_path, wait=0.0), pytest.raises(InputError), hold(tmp_path, wait=0.0):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_gets_one_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    real, folder = fcntl.flock, tmp_path / "mounted"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("flows.places.lock.tempfile.gettempdir", lambda: str(tmp_path / "tmp"))

    def flock(descriptor: int, how: int) -> None:
        if str(folder) in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))
        real(descriptor, how)

    monkeypatch.setattr("flows.places.lock.fcntl.flock", flock)
    with hold(folder):
        assert "its file system has no locks" in capsys.readouterr().err
        with pytest.raises(InputError, match="another retraining"), hold(folder, wait=0.0):
            pass


def test_what_cannot_be_written_to_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"), hold(tmp_path / "no" / "such"):
        pass
    (tmp_path / ".prefect").write_text("a file")
    with pytest.raises(InputError, match="needs a checkout of its own to write to"), hold(tmp_path):
        pass


def test_a_path_with_spaces_or_through_a_link_is_the_same_lock(tmp_path: Path) -> None:
    home = tmp_path / "a home with spaces"
    home.mkdir()
    (tmp_path / "link").symlink_to(home)
    with hold(home), pytest.raises(InputError), hold(tmp_path / "link", wait=0.0):
        pass
