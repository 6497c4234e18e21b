"""Names of media as archives and annotations really write them."""

from __future__ import annotations

import io
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from made import tar

from videollava.data.archives.listing import (
    JUNK,
    Member,
    Refusal,
    list_members,
    open_member,
    read_member,
    unpack_compressed,
)
from videollava.data.archives.names import clean_name, is_junk, is_safe, renaming, zip_name
from videollava.data.prepare.catalogue import Finder, Unfound


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED, **fields: Any) -> Path:
    """A zip whose names stand as they are given, backslashes too."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type = name, method
            for field, value in fields.items():
                setattr(info, field, value)
            archive.writestr(info, data)
    return path


def named_in(path: Path, raw: bytes, data: bytes, extra: bytes = b"") -> Path:
    """A zip with one name in raw bytes, and no word on what they mean."""
    stand_in = "?" * len(raw)
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo(stand_in)
        info.extra = extra
        archive.writestr(info, data)
    path.write_bytes(path.read_bytes().replace(stand_in.encode(), raw))
    return path


def members(*files: Path) -> dict[str, bytes]:
    return {found.name: read_member(found) for found in list_members(*files) if isinstance(found, Member)}


def reasons(*files: Path) -> dict[str, str]:
    return {found.name: found.reason for found in list_members(*files) if isinstance(found, Refusal)}


def finder(*names: str, **ambiguous: str) -> Finder:
    return Finder({name: Member("a.tar", name, 1, 0) for name in names}, ambiguous)


def found(search: Finder, path: str) -> str:
    answer = search.find(clean_name(path))
    return answer.name if isinstance(answer, Member) else f"{answer.reason}: {answer.detail}"


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("clips\\a.mp4", "clips/a.mp4"),
        ("./a/./b.png", "a/b.png"),
        ("a//b.png", "a/b.png"),
        ("a/../b.png", "b.png"),
        ("v_x_0:10-0:20.mp4", "v_x_0:10-0:20.mp4"),
        (unicodedata.normalize("NFD", "ünï.png"), "ünï.png"),
        ("a b .png ", "a b .png "),
        ("\\\\server\\share\\a.png", "/server/share/a.png"),
        ("", ""),
        (".", ""),
        ("./", ""),
    ],
)
def test_clean_names(written: str, name: str) -> None:
    assert clean_name(written) == name
    assert clean_name(clean_name(written)) == clean_name(written)


@pytest.mark.parametrize(
    "written",
    [
        "/a",
        "\\a",
        "..\\a",
        "a\\..\\..\\b",
        "C:\\a",
        "C:/a",
        "C:a",
        "../a",
        "\\\\server\\a",
        "a\nb",
        "a\0b",
        "",
        ".",
        "./..",
        "a/..",
    ],
)
def test_names_that_leave_their_folder_do_so_in_any_form(written: str) -> None:
    assert not is_safe(clean_name(written))


@pytest.mark.parametrize(
    "name",
    [
        "__MACOSX/a/._1.png",
        "a/._1.png",
        ".DS_Store",
        "a/.DS_Store",
        "a/Thumbs.db",
        "desktop.ini",
        "@eaDir/a.png",
    ],
)
def test_what_systems_leave_behind(name: str) -> None:
    assert is_junk(name)
    assert not is_junk(
        name.replace("._", "_")
        .replace(".DS", "DS")
        .replace("MACOSX", "X")
        .replace("Thumbs", "t")
        .replace("desktop", "d")
        .replace("@", "")
    )


def test_a_zip_from_windows_and_from_a_mac(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "a.zip",
        {
            "clips\\": b"",
            "clips\\a.mp4": b"a",
            "__MACOSX/._a.mp4": b"x",
            ".DS_Store": b"x",
            "v_x_0:10-0:20.mp4": b"v",
        },
    )
    assert members(path) == {"clips/a.mp4": b"a", "v_x_0:10-0:20.mp4": b"v"}
    assert set(reasons(path).values()) == {JUNK}
    with open_member(next(m for m in list_members(path) if isinstance(m, Member))) as stream:
        assert stream.read() == b"a"


def test_a_zip_says_which_of_two_entries_of_one_name_is_read(tmp_path: Path) -> None:
    for second, reason in ((b"first", "duplicate member"), (b"other", "ambiguous member")):
        path = zipped(tmp_path / "a.zip", {"a": b"first", "b": second})
        path.write_bytes(path.read_bytes().replace(b"b", b"a"))
        assert members(path) == {"a": b"first"}
        assert reasons(path) == {"a": reason}


def test_names_that_only_separators_or_letters_tell_apart_are_ambiguous(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "é.png")
    for files in ({"a\\b.png": b"1", "a/b.png": b"2"}, {"é.png": b"1", decomposed: b"2"}):
        path = zipped(tmp_path / "a.zip", files)
        assert list(reasons(path).values()) == ["ambiguous member"]
        (refusal,) = [r for r in list_members(path) if isinstance(r, Refusal)]
        assert all(repr(name) in refusal.detail for name in files)


def test_zip_names_in_old_code_pages(tmp_path: Path) -> None:
    japanese = named_in(tmp_path / "j.zip", "写真/一.png".encode("cp932"), b"j")
    catalogue = {m.name: m for m in list_members(japanese) if isinstance(m, Member)}
    assert "写真/一.png" not in catalogue
    answer = Finder(catalogue, {}).find("写真/一.png")
    assert isinstance(answer, Member)
    assert read_member(answer) == b"j"
    assert isinstance(Finder(catalogue, {}).find("写真/二.png"), Unfound)
    assert members(named_in(tmp_path / "u.zip", "写真.png".encode(), b"u")) == {"写真.png": b"u"}
    raw = "写真.png".encode("cp932")
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + "写真.png".encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    stated = named_in(tmp_path / "x.zip", raw, b"x", extra)
    assert members(stated) == {"写真.png": b"x"}
    with zipfile.ZipFile(stated) as archive:
        (info,) = archive.infolist()
        info.filename = "写真.png"  # as Python's zipfile itself reads the field from 3.13 on
        assert zip_name(info) == ("写真.png", b"")


def test_zips_that_cannot_be_read_say_what_to_do(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"locked": b"x", "odd": b"y", "good": b"z"})
    data = bytearray(path.read_bytes())
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    data[entries[0] + 8] |= 1
    data[entries[1] + 10] = 95
    path.write_bytes(data)
    refusals = {r.name: r.detail for r in list_members(path) if isinstance(r, Refusal)}
    assert "without a password" in refusals["locked"]
    assert "packed by XZ: pack it again" in refusals["odd"]
    assert members(path) == {"good": b"z"}


def test_a_zip_with_a_comment_or_behind_a_program_and_a_tar_that_ends_with_a_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", {"a": b"1"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"made by hand"
    assert members(path) == {"a": b"1"}
    stub = tmp_path / "setup.exe"
    stub.write_bytes(b"MZ" + bytes(3000) + path.read_bytes())
    assert members(stub) == {"a": b"1"}
    both = tar(tmp_path / "b.tar", {"b": b"2", "inner.zip": path.read_bytes()})
    assert members(both) == {"b": b"2"}
    assert reasons(both) == {"inner.zip": "nested archive"}


def special(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def test_links_inside_an_archive_are_followed_and_never_out_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    link, hard = tarfile.SYMTYPE, tarfile.LNKTYPE
    with tarfile.open(path, "w") as archive:
        for info in (
            special("early", type=link, linkname="a/file"),
            special("a/file", size=2),
            special("a/b/up", type=link, linkname="../file"),
            special("chain", type=link, linkname="a/b/up"),
            special("hard", type=hard, linkname="./a/file"),
            special("loop", type=link, linkname="loop"),
            special("out", type=link, linkname="../a/file"),
            special("absolute", type=link, linkname="/a/file"),
            special("a/b/far", type=link, linkname="../../../a/file"),
            special("nowhere", type=link, linkname="b"),
            special("folder", type=link, linkname="a"),
        ):
            archive.addfile(info, io.BytesIO(b"hi") if info.size else None)
    assert members(path) == dict.fromkeys(("a/file", "hard", "early", "a/b/up", "chain"), b"hi")
    assert set(reasons(path)) == {"loop", "out", "absolute", "a/b/far", "nowhere", "folder"}
    zip_path = tmp_path / "a.zip"
    with zipfile.ZipFile(zip_path, "w") as archive_zip:
        for name, target in (("a/link", "file"), ("a/out", "../../etc/passwd")):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o120777 << 16
            archive_zip.writestr(entry, target)
        archive_zip.writestr("a/file", "hi")
    assert members(zip_path) == {"a/link": b"hi", "a/file": b"hi"}
    assert reasons(zip_path) == {"a/out": "unsafe member"}


def test_tars_joined_by_cat_and_bytes_behind_the_end(tmp_path: Path) -> None:
    one, two = tar(tmp_path / "1.tar", {"a": b"1"}), tar(tmp_path / "2.tar", {"b": b"2", "ü" * 120: b"3"})
    joined = tmp_path / "joined.tar"
    joined.write_bytes(one.read_bytes() + two.read_bytes())
    assert members(joined) == {"a": b"1", "b": b"2", "ü" * 120: b"3"}
    assert reasons(joined) == {}
    joined.write_bytes(one.read_bytes() + b"garbage" * 100)
    assert members(joined) == {"a": b"1"}
    assert reasons(joined) == {"": "trailing bytes"}


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_other_compressions(tmp_path: Path, codec: str) -> None:
    import pyarrow as pa

    plain = tar(tmp_path / "a.tar", {"a/b.png": b"1" * 5000})
    packed = tmp_path / f"a.tar.{codec}"
    with pa.CompressedOutputStream(str(packed), codec) as out:
        out.write(plain.read_bytes())
    assert members(*unpack_compressed([packed], tmp_path)[0]) == {"a/b.png": b"1" * 5000}
    packed.write_bytes(packed.read_bytes()[:20])
    files, damage = unpack_compressed([packed], tmp_path)
    assert reasons(*files)
    assert damage


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"7z\xbc\xaf", "7z archive"),
        (b"Rar!\x1a", "RAR"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"version https://git-lfs", "git lfs pull"),
    ],
)
def test_what_comes_in_the_place_of_an_archive_is_named(tmp_path: Path, start: bytes, said: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(start + bytes(2000))
    (refusal,) = list_members(path)
    assert isinstance(refusal, Refusal)
    assert said in refusal.detail


@pytest.mark.parametrize("name", ["a.7z.002", "A.R00", "a.part2.rar", "a.RAR"])
def test_parts_of_archives_that_are_not_read_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(256)) * 8)
    (refusal,) = list_members(path)
    assert isinstance(refusal, Refusal)
    assert "7z or RAR archive: pack it again" in refusal.detail
    outer = tar(tmp_path / "outer.tar", {f"in/{name}": b"1", "in/a.r0": b"2"})
    assert (reasons(outer), set(members(outer))) == ({f"in/{name}": "nested archive"}, {"in/a.r0"})


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("A/B.PNG", "a/b.png"),
        ("a/b.PNG", "a/b.png"),
        ("a%2Fb.png", "a/b.png"),
        ("a/c%20d.png", "a/c d.png"),
        ("a/e f.png", "a/e%20f.png"),
        ("a/trailing", "a/trailing."),
        ("a/g", "a/g.mp4"),
        ("a/plain", "a/plain"),
    ],
)
def test_what_a_person_would_call_the_same_is_found(path: str, member: str) -> None:
    names = ("a/b.png", "a/c d.png", "a/e%20f.png", "a/trailing.", "a/g.mp4", "a/plain", "a/plain.png")
    assert found(finder(*names), path) == member


def test_what_may_be_two_members_is_refused_with_both() -> None:
    assert (
        found(finder("a.PNG", "A.png"), "a.png")
        == "ambiguous medium: may be 'A.png', 'a.PNG'; write one of them"
    )
    assert found(finder("a.PNG", "A.png"), "a.PNG") == "a.PNG"
    assert found(finder("a.mp4", "a.mkv"), "a").startswith("ambiguous medium: may be 'a.mkv', 'a.mp4'")
    assert found(finder(**{"x/y": "'x\\\\y' and 'x/y'"}), "x/y") == "ambiguous medium: 'x\\\\y' and 'x/y'"


@pytest.mark.parametrize(
    ("path", "names", "said"),
    [
        (
            "coco/val2017/a.png",
            ("val2017/a.png",),
            "'val2017/a.png': strip: [coco/] of the source would lead there",
        ),
        (
            "images/a.png",
            ("set/images/a.png",),
            "'set/images/a.png': prefix: set/ of the source would lead there",
        ),
        ("x/a.png", ("y/a.png",), "strip: [x/] and prefix: y/ of the source"),
        ("https://host/d/a.png", ("a.png",), "strip: [https://host/d/] of the source"),
        (
            "/home/me/coco/val/a.png",
            ("val/a.png",),
            "leads outside its archive; the nearest member is 'val/a.png'",
        ),
        ("/home/me/coco/val/a.png", ("val/a.png",), "strip: [/home/me/coco/] of the source"),
        ("C:/Users/me/a.png", ("a.png",), "strip: [C:/Users/me/] of the source"),
        ("../val/a.png", ("val/a.png",), "strip: [../] of the source"),
        ("dog/a1.png", ("dog/a2.png", "cat/a1.jpeg"), "the nearest member is 'dog/a2.png'"),
        ("q.png", ("val/zzzzzz.mp4",), "there is for example 'val/zzzzzz.mp4'"),
        ("q.png", (), "not in the archives of its source"),
    ],
)
def test_a_missing_medium_names_the_nearest(path: str, names: tuple[str, ...], said: str) -> None:
    answer = found(finder(*names), path)
    outside = path.startswith(("/", "../", "C:"))
    reason = "unsafe path: leads outside" if outside else "missing medium: not in the archives of its source"
    assert answer.startswith(reason)
    assert said in answer


def test_the_settings_that_a_hint_names_lead_there() -> None:
    for path, member in (
        ("coco/v/a.png", "v/a.png"),
        ("a.png", "top/a.png"),
        ("https://h/d/a.png", "x/a.png"),
        ("file:///home/me/a.png", "a.png"),
        ("C:/Users/me/v/a.png", "v/a.png"),
        ("/home/me/v/a.png", "v/a.png"),
    ):
        detail = found(finder(member), path)
        strip = detail.partition("strip: [")[2].partition("]")[0]
        prefix = detail.partition("prefix: ")[2].partition(" ")[0]
        assert renaming([strip] if strip else [], prefix)(path) == member
        assert renaming([strip] if strip else [], prefix)(path.replace("/", "\\")) == member


def test_a_dot_in_a_name_is_no_ending() -> None:
    assert found(finder("v_x.12.mp4"), "v_x.12") == "v_x.12.mp4"
    assert found(finder("a.png.mp4"), "a.png").startswith("missing medium")
