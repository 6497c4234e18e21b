from __future__ import annotations

from pathlib import Path

import pytest

from videollava.data.acquire.lock import Lock, LockedFile, look_again, read_lock, write_lock
from videollava.data.acquire.look import local_name
from videollava.errors import InputError

ASKED = {"kind": "archive", "urls": ["s3://bucket/"]}


def file(name: str, version: str = "1", size: int = 5, url: str = "", **known: object) -> LockedFile:
    return LockedFile(name, url or f"s3://bucket/{name}", size, version=version, **known)  # type: ignore[arg-type]


def test_files_keep_their_place_and_later_ones_come_behind(tmp_path: Path) -> None:
    first = look_again(None, ASKED, [file("b"), file("c")])
    second = look_again(first, ASKED, [file("a"), file("b"), file("c")])
    third = look_again(second, ASKED, [file("a"), file("c"), file("0")])
    assert [(one.name, one.seen) for one in second.files] == [("b", 1), ("c", 1), ("a", 2)]
    assert [(one.name, one.seen) for one in third.files] == [("c", 1), ("a", 2), ("0", 3)]
    assert write_lock(tmp_path, "mine", third)
    assert not write_lock(tmp_path, "mine", third)
    assert read_lock(tmp_path, "mine") == third
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["mine.json"]


def test_sums_stay_with_what_did_not_change() -> None:
    before = look_again(None, ASKED, [file("same"), file("changed"), file("moved"), file("grown")])
    before = before.with_sums({one.name: (5, one.name * 8) for one in before.files})
    now = [
        file("same"),
        file("changed", version="2"),
        file("moved", version="of another store", url="s3://mirror/moved"),
        file("grown", size=6, url="s3://mirror/grown"),
    ]
    after = look_again(before, ASKED, now)
    assert {one.name: one.sha256 for one in after.files} == {
        "same": "same" * 8,
        "changed": "",
        "moved": "moved" * 8,
        "grown": "",
    }
    told = look_again(before, ASKED, [file("same", sha256="said by the source")])
    assert told.files[0].sha256 == "said by the source"


def test_a_lock_that_cannot_be_read_names_the_remedy(tmp_path: Path) -> None:
    assert read_lock(tmp_path, "mine") is None
    write_lock(tmp_path, "mine", Lock(ASKED))
    path = tmp_path / "locks/mine.json"
    for text in ("{", '{"source": {}}', '{"source": {}, "files": [{"odd": 1}]}'):
        path.write_text(text)
        with pytest.raises(InputError, match=r"locks/mine\.json: no lock.*videollava data lock mine"):
            read_lock(tmp_path, "mine")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/b c+d.tar", "a/b c+d.tar"),
        ("x//y.tar", "x/%/y.tar"),
        ("../../up.tar", "%2E%2E/%2E%2E/up.tar"),
        ("./a", "%2E/a"),
        ("line\nbreak", "line%0Abreak"),
        ("小 ü.tar", "小 ü.tar"),
    ],
)
def test_keys_become_paths_inside_the_folder(key: str, name: str) -> None:
    assert local_name(key) == name


def test_a_long_key_keeps_its_ending() -> None:
    one, other = (local_name("x" * 900 + end + ".tar.gz") for end in "ab")
    assert one != other
    assert len(one) <= 200
    assert one.endswith(".gz")
