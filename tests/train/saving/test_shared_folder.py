"""A folder as a place that several machines use: the later one works there, neither spoils what the other has."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from videollava import cli
from videollava.errors import InputError
from videollava.train.launch.fence import Superseded
from videollava.train.saving.files import sum_of
from videollava.train.saving.opening import open_place
from videollava.train.saving.places import FORMAT, FolderPlace

KEY = "finetune-0123456789abcdef"


def write(place: FolderPlace, step: int, data: bytes) -> dict[str, Any]:
    path = place.aside(step) / "rank-00000"
    path.write_bytes(data)
    told = sum_of(path)
    place.put(step, path.name)
    files = {path.name: {"sha256": told.sha256, "size": told.size}}
    return {"format": FORMAT, "step": step, "about": {}, "files": files}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_of_two_machines_the_later_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, later = FolderPlace(tmp_path / KEY, "first"), FolderPlace(tmp_path / KEY, "later")
    first.room(10)
    first.seal(2, write(first, 2, b"two"))
    half = write(first, 4, b"the first machine's, on its way")
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        later.room(10)
    assert "was at work here; if it still is, it ends at its next checkpoint" in capsys.readouterr().out
    mine = write(later, 3, b"the second's, on its way")
    with pytest.raises(Superseded, match="another run of this stage, on elsewhere, is at work there since"):
        first.seal(4, half)
    first.clear()
    assert "checkpoints stay: " in capsys.readouterr().out
    later.seal(3, mine)
    assert names(tmp_path / KEY) == ["holder.json", "step-00000002", "step-00000003"]
    whole = later.newest()
    assert whole is not None
    assert (later.fetch(whole, whole.files) / "rank-00000").read_bytes() == b"the second's, on its way"
    later.clear()
    assert names(tmp_path) == []


def test_a_full_or_closed_place_refuses_at_the_start_with_the_figures(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(
        InputError,
        match=r"3 checkpoints of \d+\.\d\d GB at a time need \d+\.\d\d GB more, and \d+\.\d\d GB are free: .*s3://",
    ):
        FolderPlace(tmp_path / KEY, "first").room(free // 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"can't be written there: Not a directory; machine.yaml's checkpoint_place"
    ):
        FolderPlace(tmp_path / "file" / KEY, "first").room(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_refuses_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="can't be written there: Permission denied"):
        FolderPlace(tmp_path / KEY, "first").room(1)


def test_an_address_means_the_checkouts_folder_another_or_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "checkpoints" / KEY
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for address, folder in {
        "": own,
        "kept": tmp_path / "kept" / KEY,
        "~/kept": tmp_path / "home/kept" / KEY,
        "/far/kept": Path("/far/kept") / KEY,
    }.items():
        place = open_place(own, address)
        assert isinstance(place, FolderPlace)
        assert place.folder == folder
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text(
        "[core]\n    remote = far\n['remote \"far\"']\n    url = s3://data/dvc\n"
        "    endpointurl = https://store.example\n    region = here\n"
    )
    place: Any = open_place(own, "s3://bucket/a/b")
    assert (place.objects.url, place.spool) == (f"s3://bucket/a/b/{KEY}", own)
    assert (place.objects.access.endpoint, place.objects.access.region) == ("https://store.example", "here")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://elsewhere.example")
    place = open_place(own, "s3://bucket/a/b")
    assert place.objects.access.endpoint == ""  # what the environment says
    place = open_place(own, "s3://data")
    assert place.objects.access.endpoint == "https://store.example"


def test_what_unfinished_stages_keep_is_listed_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "machine.yaml").write_text(json.dumps({"checkpoint_place": str(tmp_path / "far")}))
    assert cli.main(["checkpoints"]) == 0
    assert "no checkpoints: no stage was interrupted" in capsys.readouterr().out
    place = FolderPlace(tmp_path / "far" / KEY, "first")
    place.room(1)
    place.seal(12, write(place, 12, b"x" * 1000))
    (tmp_path / "far/mine").mkdir()
    (tmp_path / "far/mine/note.txt").write_text("a person's")
    assert cli.main(["checkpoints"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"{tmp_path / 'far'}\n  {KEY}")
    assert "step 12" in told
    assert socket.gethostname() in told
    assert "note" not in told
    assert cli.main(["checkpoints", "--remove", "mine"]) == 2
    assert "no checkpoints of that name" in capsys.readouterr().err
    assert cli.main(["checkpoints", "--remove", KEY]) == 0
    assert names(tmp_path / "far") == ["mine"]
