from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from made import tar

from videollava.data.archives import listing as archives
from videollava.data.archives.listing import (
    Member,
    Refusal,
    TarWriter,
    is_safe,
    list_archive,
    list_members,
    open_member,
    read_member,
    unpack_compressed,
)
from videollava.errors import InputError

FILES = {"a/1.png": b"one", "b.json": b"two" * 400, "long/" + "x" * 150 + ".mp4": b"", "ünï.png": b"four"}


def reasons(archive: Path) -> dict[str, str]:
    return {found.name: found.reason for found in list_members(archive) if isinstance(found, Refusal)}


def refused(group: list[Path], scratch: Path) -> dict[str, str]:
    return {one.name: one.detail for one in list_archive(group, scratch) if isinstance(one, Refusal)}


def contents(*files: Path) -> dict[str, bytes]:
    return {found.name: read_member(found) for found in list_members(*files) if isinstance(found, Member)}


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_writes_a_plain_tar_with_the_offsets_it_says(tmp_path: Path) -> None:
    paths = [tmp_path / "1.tar", tmp_path / "2.tar"]
    for path in paths:
        with TarWriter(path) as writer:
            offsets = {name: writer.add(name, data) for name, data in FILES.items()}
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with tarfile.open(paths[0]) as archive:
        assert {info.name: archive.extractfile(info).read() for info in archive} == FILES  # type: ignore[union-attr]
        assert {info.mtime for info in archive} == {0}
    assert {m.name: m.offset for m in list_members(paths[0]) if isinstance(m, Member)} == offsets
    assert contents(paths[0]) == FILES


def test_reads_zip_and_stream(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", FILES)
    assert contents(archive) == FILES
    for path in (archive, tar(tmp_path / "a.tar", FILES)):
        members = [found for found in list_members(path) if isinstance(found, Member)]
        with open_member(members[1]) as stream:
            assert stream.read(3) == b"two"
            assert stream.read() == FILES["b.json"][3:]


def test_a_replaced_archive_is_read_anew(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        path = tmp_path / "a.tar"
        path.unlink(missing_ok=True)
        assert contents(tar(path, {"x": data})) == {"x": data}


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "a/../../up", "a\\b", "c:x", "a\nb", "", ".", "a\0b"]
)
def test_names_that_lead_outside(name: str) -> None:
    assert not is_safe(name)


def test_names_that_do_not() -> None:
    assert all(map(is_safe, ["a", "a/b.png", "a b/ü.png", "..a", ".hidden"]))


def special(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_a_hostile_tar_gives_its_good_members_and_reasons(tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.open(path, "w") as archive:
        for info in (
            special("/etc/cron.d/x", size=2),
            special("../../x", size=2),
            special("link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
            special("hard", type=tarfile.LNKTYPE, linkname="good"),
            special("device", type=tarfile.CHRTYPE, devmajor=1),
            special("pipe", type=tarfile.FIFOTYPE),
            special("folder", type=tarfile.DIRTYPE),
            special("good", size=2),
            special("./good", size=2),
        ):
            archive.addfile(info, io.BytesIO(b"hi") if info.size else None)
    assert reasons(path) == {
        **dict.fromkeys(("/etc/cron.d/x", "../../x", "link", "hard", "device", "pipe"), "unsafe member"),
        "good": "duplicate member",
    }
    assert contents(path) == {"good": b"hi"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_hostile_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE", 1000)
    monkeypatch.setattr(archives, "MAX_MEMBER", 1 << 20)
    path = tmp_path / "hostile.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../x", "x")
        archive.writestr("bomb", bytes(1 << 20))
        archive.writestr("huge", bytes((1 << 20) + 1))
        archive.writestr("good", "hi")
    assert reasons(path) == {
        "link": "unsafe member",
        "../x": "unsafe member",
        "bomb": "decompression bomb",
        "huge": "too large",
    }
    assert contents(path) == {"good": b"hi"}


def test_a_zip_member_that_lies_about_its_size(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"x": b"hello"})
    member = next(iter(list_members(path)))
    assert isinstance(member, Member)
    with pytest.raises(archives.DAMAGED, match="not the 3 bytes"):
        read_member(Member(member.archive, member.name, 3, -1))


def test_a_cut_off_tar(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"one": b"1" * 1000, "two": b"2" * 1000})
    path.write_bytes(path.read_bytes()[:2500])
    assert contents(path) == {"one": b"1" * 1000}
    assert "damaged archive" in reasons(path).values() or "unreadable archive" in reasons(path).values()


def test_a_tar_damaged_in_the_middle_does_not_end_there_in_silence(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", {"one": b"1", "two": b"2", "three": b"3"})
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"#" * 76
    path.write_bytes(data)
    assert list(contents(path)) == ["one"]
    assert reasons(path) == {"": "damaged archive"}


@pytest.mark.parametrize("data", [b"<html>not found</html>" * 40, b"", b"PK\x03\x04 broken"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    assert reasons(path) == {"": "unreadable archive"}


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_compressed_tars(tmp_path: Path, packer: Any) -> None:
    plain = tar(tmp_path / "a.tar", FILES)
    packed = tmp_path / "a.tar.packed"
    packed.write_bytes(packer.compress(plain.read_bytes()))
    assert unpack_compressed([plain], tmp_path) == ([plain], "")
    assert contents(*unpack_compressed([packed], tmp_path)[0]) == FILES
    packed.write_bytes(packed.read_bytes()[:-30])
    assert "ended before" in unpack_compressed([packed], tmp_path)[1]
    assert refused([packed], tmp_path)[""].endswith("; get a.tar.packed again")


@pytest.mark.parametrize("packer", [gzip, bz2, lzma])
def test_what_is_lost_between_two_members_is_told(tmp_path: Path, packer: Any) -> None:
    """Blocks of a MiB come out of what is cut: here each is one member with its header."""
    files = {f"{number}.bin": random.Random(number).randbytes((1 << 20) - 512) for number in range(3)}
    whole = packer.compress(tar(tmp_path / "a.tar", files).read_bytes())
    parts = [tmp_path / "a.tar.gz.00", tmp_path / "a.tar.gz.01"]
    for number, part in enumerate(parts):
        part.write_bytes(whole[number * len(whole) // 2 : (number + 1) * len(whole) // 2])
    assert contents(*unpack_compressed(parts, tmp_path)[0]) == files
    told = refused(parts[:1], tmp_path)
    assert set(told) == {""}
    assert "a part after a.tar.gz.00 lacks" in told[""]
    (tmp_path / "a.tar.gz.02").write_bytes(parts[1].read_bytes())
    parts[1].write_bytes(parts[1].read_bytes()[:-40])
    assert "a part after a.tar.gz.01 lacks" in refused(parts, tmp_path)[""]


def test_a_tar_in_parts_ends_as_a_tar_does(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {f"{number}": bytes(512) for number in range(4)}).read_bytes()
    parts = [tmp_path / f"a.tar.{number:02d}" for number in range(5)]
    for number, part in enumerate(parts):
        part.write_bytes(whole[number * 1024 : (number + 1) * 1024 if number < 4 else None])
    assert not refused(parts, tmp_path)
    for count in (2, 4):
        assert f"a part after a.tar.0{count - 1} lacks" in refused(parts[:count], tmp_path)[""]
    parts[2].write_bytes(parts[2].read_bytes()[:-100])
    assert set(refused(parts, tmp_path)) == {""}


def test_a_full_disk_is_no_damage_of_an_archive(tmp_path: Path) -> None:
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(tar(tmp_path / "a.tar", FILES).read_bytes()))
    target = tmp_path / f"{archives.place_of(tmp_path)}-a.tar.gz.plain"
    target.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        unpack_compressed([packed], tmp_path)


def test_a_compressed_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "FREE", 1 << 20)
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(gzip.compress(bytes(8 << 20)))
    with pytest.raises(InputError, match="decompression bomb"):
        unpack_compressed([packed], tmp_path)
    assert list(tmp_path.iterdir()) == [packed]


def test_a_zip_whose_members_are_a_bomb_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_ZIP", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(40):
            archive.writestr(f"{number}.png", bytes(1 << 18))
    found = list(list_members(path))
    assert [(one.name, one.reason) for one in found if isinstance(one, Refusal)] == [
        ("", "decompression bomb")
    ]
    assert len(found) == 1


def test_an_archive_of_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(5):
            archive.writestr(f"{number}.png", b"x")
    *members, last = list_members(path)
    assert [one.name for one in members] == ["0.png", "1.png", "2.png"]
    assert isinstance(last, Refusal)
    assert last.reason == "too many members"
