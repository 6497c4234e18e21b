from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
from made import CLIPS, archive_source, params, png, tar

from videollava.data.acquire import fetch
from videollava.data.acquire import made as sources
from videollava.data.acquire.fetch import run
from videollava.data.acquire.located import source_files
from videollava.data.acquire.lock import read_lock
from videollava.data.acquire.look import lock_source
from videollava.data.toy.scenes import Scene
from videollava.errors import InputError
from videollava.machine import Machine
from videollava.params import Source

EASY = Source(name="easy_vqa", kind="package", format="easy-vqa", package="easy-vqa")


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_clips_are_the_same_whatever_the_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        run(params(CLIPS), tmp_path / str(workers), Machine(workers=workers))
    one, two = files(tmp_path / "1"), files(tmp_path / "2")
    assert one == two
    raw = tmp_path / "1/data/raw/toy_clips"
    assert {file.name for file in raw.iterdir()} == {
        *("train.tar", "train.jsonl", "test.tar", "test.jsonl", "source.json")
    }
    entries = [json.loads(line) for line in (raw / "train.jsonl").read_text().splitlines()]
    with tarfile.open(raw / "train.tar") as archive:
        held = [name for entry in entries for name in (entry["video"], entry["still"]["image"])]
        assert archive.getnames() == held
    assert len(entries) == 12
    assert not list((tmp_path / "1/checkpoints/fetch").iterdir())


def test_the_genuine_package(tmp_path: Path) -> None:
    run(params(EASY), tmp_path)
    archive = tmp_path / "data/raw/easy_vqa/easy_vqa.tar"
    first = archive.read_bytes()
    with tarfile.open(archive) as opened:
        names = opened.getnames()
        questions = json.load(opened.extractfile("test/questions.json"))  # type: ignore[arg-type]
    assert sum(name.endswith(".png") for name in names) == 5000
    assert len(questions) == 9673
    assert names == sorted(names, key=lambda name: name.split("/"))
    shutil.rmtree(tmp_path / "data")
    run(params(EASY), tmp_path)
    assert archive.read_bytes() == first


def test_a_fetched_source_is_left_alone_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tar(tmp_path / "pictures.tar", {"1.png": png()})
    source = archive_source(archive)
    run(params(source), tmp_path)
    target = tmp_path / "data/raw/mine/pictures.tar"
    before = target.stat().st_mtime_ns
    run(params(source), tmp_path)
    assert target.stat().st_mtime_ns == before
    target.write_bytes(b"damaged")
    run(params(source), tmp_path)
    assert target.read_bytes() == archive.read_bytes()
    tar(archive, {"2.png": png(2)})
    other = archive_source(archive)
    run(params(other), tmp_path)
    assert target.read_bytes() == archive.read_bytes()
    manifest = json.loads((target.parent / "source.json").read_text())
    assert manifest["files"] == {
        "pictures.tar": {"sha256": other.sha256[0], "size": archive.stat().st_size, "seen": 1}
    }


def test_a_fetch_that_failed_goes_on_with_what_was_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "CONNECTIONS", 1)  # one after the other
    good, bad = (tar(tmp_path / f"{name}.tar", {"1.png": png()}) for name in ("good", "bad"))
    source = archive_source(good, bad)
    lock_source(source, tmp_path)
    bad.unlink()
    with pytest.raises(InputError, match=r"bad\.tar.*no such file"):
        run(params(source), tmp_path, Machine(workers=1))
    assert not (tmp_path / "data/raw").exists()
    staged = tmp_path / "checkpoints/fetch/mine/good.tar"
    inode = staged.stat().st_ino
    (staged.parent / "stale.tar").write_bytes(b"of other parameters")
    tar(bad, {"1.png": png()})
    run(params(source), tmp_path)
    held = tmp_path / "data/raw/mine"
    assert (held / "good.tar").stat().st_ino == inode
    assert {file.name for file in held.iterdir()} == {"good.tar", "bad.tar", "source.json"}


def test_sums_are_noted_by_the_first_download(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", {"1.png": png()})
    source = archive_source(archive).replace(sha256=())
    run(params(source), tmp_path)
    lock = read_lock(tmp_path, "mine")
    assert lock is not None
    assert [(file.name, file.sha256) for file in lock.files] == [
        ("a.tar", hashlib.sha256(archive.read_bytes()).hexdigest())
    ]
    shutil.rmtree(tmp_path / "data")
    archive.write_bytes(bytes(archive.stat().st_size))
    with pytest.raises(InputError, match=r"its sha256 is .*run `videollava data lock mine --forget-sums`"):
        run(params(source), tmp_path)
    lock_source(source, tmp_path, again=True, forget=True)
    run(params(source), tmp_path)
    assert (tmp_path / "data/raw/mine/a.tar").read_bytes() == archive.read_bytes()


def test_a_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    mine = tmp_path / "elsewhere"
    tar(mine / "more/a.tar", {"1.png": png()})
    (mine / "notes.jsonl").write_text("{}\n")
    (mine / ".hidden").write_text("")
    source = Source(name="mine", kind="folder", format="llava", path="elsewhere")
    run(params(source), tmp_path)
    held = tmp_path / "data/raw/mine"
    assert [file.name for file in held.iterdir()] == ["source.json"]
    assert source_files(held) == [
        ("more/a.tar", mine / "more/a.tar"),
        ("notes.jsonl", mine / "notes.jsonl"),
    ]
    (mine / "notes.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match=r"notes\.jsonl: it was changed since it was locked.*data lock mine"):
        run(params(source), tmp_path)
    lock_source(source, tmp_path, again=True, forget=True)
    run(params(source), tmp_path)


def test_a_package_of_another_version_is_not_taken_for_it(tmp_path: Path) -> None:
    lock_source(EASY, tmp_path)
    path = tmp_path / "locks/easy_vqa.json"
    path.write_text(path.read_text().replace('"version": "', '"version": "0.'))
    with pytest.raises(
        InputError, match=r"easy-vqa 1\.\S+ is installed, locked is 0\.1\.\S+; run `pip install"
    ):
        run(params(EASY), tmp_path)


def test_annotations_may_be_an_address(tmp_path: Path) -> None:
    archive = tar(tmp_path / "a.tar", {"1.png": png()})
    notes = tmp_path / "notes.json"
    notes.write_text("[]")
    both = archive_source(archive, notes)
    source = both.replace(urls=both.urls[:1], annotations=both.urls[1])
    run(params(source), tmp_path)
    assert (tmp_path / "data/raw/mine/notes.json").read_text() == "[]"


def test_a_missing_package_names_the_remedy(tmp_path: Path) -> None:
    source = EASY.replace(package="no-such-package-at-all")
    with pytest.raises(InputError, match=r"easy_vqa.*pip install no-such-package-at-all"):
        run(params(source), tmp_path)
    with pytest.raises(InputError, match="no data folder"):
        run(params(EASY.replace(package="rich")), tmp_path)


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(InputError, match="GiB are free; free some space"):
        run(params(CLIPS), tmp_path)


def test_a_test_clip_in_training_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sources.scenes("train", 4, 1)

    def same(split: str, count: int, seed: int, sized: bool) -> list[Scene]:
        return drawn

    monkeypatch.setattr(sources, "scenes", same)
    with pytest.raises(InputError, match="4 test clips are also training clips"):
        run(params(CLIPS), tmp_path)


GOOD = Source(
    name="mine",
    kind="archive",
    format="llava",
    urls=("https://host/a.tar",),
    sha256=("0" * 64,),
    use="finetune",
)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (GOOD.replace(urls=()), "needs `urls`"),
        (GOOD.replace(sha256=("0" * 64,) * 2), "1 addresses but 2 sha256"),
        (GOOD.replace(urls=("s3://bucket/below/",)), "ends in / and means every object below it"),
        (Source(name="mine", kind="folder", format="llava"), "needs `path`"),
        (Source(name="mine", kind="hub", format="llava"), "needs `repo`"),
        (GOOD.replace(annotations="https://host/a.json"), "2 addresses but 1 sha256"),
        (GOOD.replace(sha256=("xyz",)), "64 hex digits"),
        (GOOD.replace(urls=("https://host/",)), "end in a file name"),
        (GOOD.replace(urls=("https://a/x.tar", "https://b/x.tar"), sha256=("0" * 64,) * 2), "of its own"),
        (EASY.replace(package=""), "needs `package`"),
        (CLIPS.replace(train=0), "needs `train`"),
    ],
)
def test_wrong_declarations(tmp_path: Path, source: Source, said: str) -> None:
    with pytest.raises(InputError, match=r"params\.yaml: sources\.") as caught:
        run(params(source), tmp_path)
    assert said in str(caught.value)


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no 'other'; there are: mine"):
        run(params(GOOD), tmp_path, source="other")
    with pytest.raises(InputError, match="is empty"):
        run(params(), tmp_path)
