"""Archives that were published in parts: cut anywhere, or split zips whose parts know of each other."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from made import tar
from split_zips import split_zip

from videollava.data.archives.listing import list_archive
from videollava.data.archives.members import DAMAGED, Member, Refusal, open_member, read_member
from videollava.data.archives.parts import group_of, group_parts, is_archive, is_part

FILES = {f"clips/{number}.bin": random.Random(number).randbytes(40_000) for number in range(7)}
SIZE = 1 << 16


def contents(group: list[Path], scratch: Path) -> dict[str, bytes]:
    return {one.name: read_member(one) for one in list_archive(group, scratch) if isinstance(one, Member)}


def refusal(group: list[Path], scratch: Path) -> str:
    (found,) = list_archive(group, scratch)
    assert isinstance(found, Refusal), found
    assert found.reason == "unreadable archive"
    return found.detail


def names(groups: list[list[Path]]) -> list[list[str]]:
    return [[file.name for file in group] for group in groups]


def touched(folder: Path, *written: str) -> list[list[str]]:
    for name in written:
        (folder / name).touch()
    return names(group_parts(sorted(folder.iterdir())))


def test_parts_of_one_archive_stand_together_in_their_order(tmp_path: Path) -> None:
    assert touched(tmp_path, "b.z02", "B.ZIP", "b.Z01", "a.zip", "c.z01", "b.zip.txt") == [
        ["b.Z01", "b.z02", "B.ZIP"],
        ["a.zip"],
        ["b.zip.txt"],
        ["c.z01"],
    ]
    many = [f"{number:02d}" for number in range(1, 103)]
    folder = tmp_path / "many"
    folder.mkdir()
    expected = [*(f"x.z{number}" for number in many), "x.zip"]
    assert touched(folder, *expected) == [expected]
    folder = tmp_path / "cut"
    folder.mkdir()
    assert touched(folder, "x.zip.9", "x.zip.10", "x.zip.jpg", "x.zip.png", "x.zip") == [
        ["x.zip"],
        ["x.zip.9", "x.zip.10"],
        ["x.zip.jpg"],
        ["x.zip.png"],
    ]
    assert group_of(tmp_path / "B.ZIP") == [tmp_path / name for name in ("b.Z01", "b.z02", "B.ZIP")]
    assert [is_part(name) for name in ("x.z01", "x.Z100", "x.tar.aa", "x.zip", "x.zip.mov")] == [True] * 3 + [
        False
    ] * 2
    beside = ("x.zip.asc", "x.tar.gz.sig", "x.tar.idx", "x.tar.sha", "x.zip.log", "x.7z.001")
    assert not any(map(is_archive, beside))
    assert [is_archive(name) for name in ("X.ZIP", "x.tar.lz4", "x.zip.001", "x.zip.png", "x.z1")] == [
        True
    ] * 3 + [False] * 2


def test_archives_that_were_cut_are_read_where_they_lie(tmp_path: Path) -> None:
    whole = gzip.compress(tar(tmp_path / "x.tar", {"a": b"1" * 3000}).read_bytes())
    plain = tar(tmp_path / "y.tar", {"b": b"2" * 3000, "c": b"3"}).read_bytes()
    folder, scratch = tmp_path / "raw", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    for name, data, endings in (("x.tar.gz", whole, ("aa", "ab", "ac")), ("y.tar", plain, ("001", "002"))):
        size = len(data) // len(endings) + 1
        for number, ending in enumerate(endings):
            (folder / f"{name}.{ending}").write_bytes(data[number * size : (number + 1) * size])
    packed, cut = group_parts(sorted(folder.iterdir()))
    assert contents(cut, scratch) == {"b": b"2" * 3000, "c": b"3"}
    assert not list(scratch.iterdir())
    assert contents(packed, scratch) == {"a": b"1" * 3000}
    assert "part ab of x.tar.gz is not there" in refusal([packed[0], packed[2]], scratch)
    assert "part aa of x.tar.gz is not there" in refusal(packed[1:], scratch)
    assert "part 001 of y.tar is not there" in refusal(cut[1:], scratch)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_split_zips(tmp_path: Path, wide: bool, deflate: bool) -> None:
    files = FILES | {f"many/{number}.txt": b"%d" % number for number in range(800)}
    parts = split_zip(tmp_path / "x.zip", files, SIZE, wide=wide, deflate=deflate)
    assert len(parts) > 4
    assert contents(parts, tmp_path) == files
    found = [one for one in list_archive(parts, tmp_path) if isinstance(one, Member)]
    assert [one.name for one in found] == list(files)
    with open_member(found[3]) as stream:
        assert stream.read() == files[found[3].name]
    # A part that was replaced is read anew.
    spoilt = bytearray(parts[1].read_bytes())
    spoilt[100] ^= 1
    parts[1].write_bytes(spoilt)
    with pytest.raises(DAMAGED):
        [read_member(one) for one in found]


def test_a_hundred_parts_and_more(tmp_path: Path) -> None:
    parts = split_zip(tmp_path / "x.zip", FILES, 2000)
    assert parts[105].name == "x.z106"
    assert group_parts(sorted(tmp_path.iterdir())) == [parts]
    assert contents(parts, tmp_path) == FILES


def test_a_zip_that_was_cut_and_one_that_was_split_are_read_alike(tmp_path: Path) -> None:
    parts = split_zip(tmp_path / "x.zip", FILES, 10**7)
    assert [part.name for part in parts] == ["x.zip"]
    whole = parts[0].read_bytes()
    cut = [tmp_path / f"{stem}" for stem in ("y.zip.001", "y.zip.002", "y.zip.003")]
    for number, file in enumerate(cut):
        file.write_bytes(whole[number * 100_000 : (number + 1) * 100_000])
    assert contents(cut, tmp_path) == contents(parts, tmp_path) == FILES
    assert "does not end the zip" in refusal(cut[:2], tmp_path)
    cut[1].write_bytes(cut[1].read_bytes()[:-7])
    assert "its parts lack 7 bytes: one is shorter" in refusal(cut, tmp_path)
    # A part of another archive, beside a zip that is whole by itself.
    (tmp_path / "x.z01").write_bytes(bytes(500))
    assert "hold 500 bytes more" in refusal([tmp_path / "x.z01", parts[0]], tmp_path)


def test_a_split_zip_that_lacks_a_part_says_which(tmp_path: Path) -> None:
    parts = split_zip(tmp_path / "x.zip", FILES, SIZE)
    assert len(parts) == 5
    assert refusal(parts[:-1], tmp_path).startswith("x.zip, the last part of a split zip, is not there")
    assert refusal(parts[1:], tmp_path).startswith("part z01 of x.zip is not there")
    assert refusal([*parts[:2], *parts[3:]], tmp_path).startswith("part z03 of x.zip is not there")
    told = refusal([*parts[:2], parts[-1]], tmp_path)
    assert told == "x.zip is the last of 5 parts, and 3 are here: list x.z03 to x.z04 beside it"
    told = refusal(parts[-1:], tmp_path)
    assert told == "x.zip is the last of 5 parts, and 1 is here: list x.z01 to x.z04 beside it"
    added = copied(parts[3], "x.z05")
    told = refusal([*parts[:4], added, parts[4]], tmp_path)
    assert told.startswith("x.zip is the last of 5 parts, and 6 are here: a part is of another archive")
    before = copied(parts[0], "x.z00")
    told = refusal([before, *parts], tmp_path)
    assert told == "x.z00 is no part of x.zip, whose first is x.z01; take it away"
    twin = copied(parts[0], "X.Z01")
    (group,) = group_parts([twin, *parts])
    assert refusal(group, tmp_path).startswith("X.Z01 and x.z01 are the same part")


def copied(part: Path, name: str) -> Path:
    other = part.with_name(name)
    shutil.copy(part, other)
    return other


def entry_field(parts: list[Path], number: int, at: int, form: str, value: int) -> None:
    """Write a field of an entry of the directory, which lies in the last part."""
    data = bytearray(parts[-1].read_bytes())
    places = [place for place in range(len(data)) if data.startswith(b"PK\x01\x02", place)]
    struct.pack_into(form, data, places[number] + at, value)
    parts[-1].write_bytes(data)


def end_field(parts: list[Path], at: int, form: str, value: int) -> None:
    data = bytearray(parts[-1].read_bytes())
    struct.pack_into(form, data, len(data) - 22 + at, value)
    parts[-1].write_bytes(data)


def cut(number: int, size: int) -> Callable[[list[Path]], None]:
    def spoil(parts: list[Path]) -> None:
        parts[number].write_bytes(parts[number].read_bytes()[:size])

    return spoil


def swap(one: int, other: int) -> Callable[[list[Path]], None]:
    def swapped(parts: list[Path]) -> None:
        first, second = parts[one].read_bytes(), parts[other].read_bytes()
        parts[one].write_bytes(second)
        parts[other].write_bytes(first)

    return swapped


def of_another(parts: list[Path]) -> None:
    files = {f"other/{name}": data for name, data in FILES.items()}
    shutil.copy(split_zip(parts[0].with_name("y.zip"), files, SIZE)[1], parts[1])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda parts: entry_field(parts, 1, 34, "<H", 9), "is said to start in part 10, and 5 are here"),
        (
            lambda parts: entry_field(parts, 6, 42, "<L", 1 << 31),
            "x.z04 has 65536 bytes and clips/6.bin is said",
        ),
        (lambda parts: entry_field(parts, 2, 42, "<L", 0xFFFFFFFF), "its directory is damaged in x.zip"),
        (lambda parts: entry_field(parts, 2, 0, "<L", 0), "its directory is damaged in x.zip"),
        (lambda parts: end_field(parts, 6, "<H", 7), "its directory is not where x.zip says"),
        (lambda parts: end_field(parts, 16, "<L", 1 << 31), "its directory is not where x.zip says"),
        (lambda parts: end_field(parts, 10, "<H", 6), "lists more than the 6 members"),
        (lambda parts: end_field(parts, 10, "<H", 8), "lists 7 members and says 8"),
        (cut(1, 60_000), "x.z02 is shorter than it was"),
        (cut(3, 10), "x.z04 has 10 bytes and clips/5.bin is said to start"),
        (cut(1, 0), "x.z02 has 0 bytes"),
        (cut(4, 5000), "x.zip does not end the zip"),
        (swap(0, 1), "x.z01 does not hold the members it should"),
        (swap(1, 3), "x.z02 does not hold the members it should"),
        (of_another, "x.z02 does not hold the members it should"),
    ],
)
def test_parts_that_do_not_fit_are_refused_with_what_to_do(
    tmp_path: Path, spoil: Callable[[list[Path]], None], said: str
) -> None:
    parts = split_zip(tmp_path / "x.zip", FILES, SIZE)
    spoil(parts)
    told = refusal(parts, tmp_path)
    assert said in told
    assert "get all parts" in told


def test_two_hundred_damages_are_read_or_refused(tmp_path: Path) -> None:
    files = {f"{number}.bin": random.Random(number).randbytes(3_000) for number in range(20)}
    made: dict[bool, list[bytes]] = {False: [], True: []}
    for wide, kept in made.items():
        kept += [file.read_bytes() for file in split_zip(tmp_path / "x.zip", files, 6_000, wide=wide)]
    scratch, started, outcomes = tmp_path / "scratch", time.monotonic(), [0, 0, 0]
    scratch.mkdir()
    written: dict[Path, bytes] = {}
    for seed in range(200):
        rng = random.Random(seed)
        parts = [bytearray(part) for part in made[rng.random() < 0.5]]
        spoil_at_random(parts, rng)
        group = [tmp_path / f"x.z{number:02d}" for number in range(1, len(parts))] + [tmp_path / "x.zip"]
        for file, part in zip(group, map(bytes, parts), strict=True):
            if written.get(file) != part:
                file.write_bytes(part)
                written[file] = part
        for found in list_archive(group, scratch):
            if isinstance(found, Refusal):
                assert found.detail or found.name
                outcomes[2] += 1
                continue
            try:
                data = read_member(found)
            except DAMAGED:
                outcomes[1] += 1
            else:
                # Sums tell bytes from others; a name or an entry may be another.
                assert data in files.values() or not data
                outcomes[0] += 1
    assert time.monotonic() - started < 60
    assert min(outcomes) > 20, outcomes


def spoil_at_random(parts: list[bytearray], rng: random.Random) -> None:
    kind = rng.choice(["flip", "flip end", "flip end", "cut", "swap", "drop", "grow", "again"])
    part = rng.choice(parts)
    if kind.startswith("flip"):
        part = parts[-1] if kind == "flip end" else part
        for _ in range(rng.randrange(1, 4)):
            part[rng.randrange(len(part))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del part[rng.randrange(len(part)) :]
    elif kind == "swap":
        one, other = rng.randrange(len(parts)), rng.randrange(len(parts))
        parts[one], parts[other] = parts[other], parts[one]
    elif kind == "drop":
        parts.remove(part)
    elif kind == "grow":
        part += rng.randbytes(rng.randrange(1, 500))
    else:
        parts.insert(rng.randrange(len(parts)), part)


def zipped_by_the_program(folder: Path, files: dict[str, bytes], *arguments: str) -> list[Path]:
    program = shutil.which("zip")
    if program is None:
        pytest.skip("Info-ZIP's zip is not here: apt-get install zip")
    for name, data in files.items():
        file = folder / "packed" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o644)
        os.utime(file, (1735732800, 1735732800))
    command = [program, "-q", "-D", "-s", "64k", *arguments, "../x.zip", *files]
    subprocess.run(command, cwd=folder / "packed", check=True, env=os.environ | {"TZ": "UTC"})
    (group,) = group_parts(sorted(folder.glob("x.z*")))
    return group


def test_the_tests_write_what_zip_writes(tmp_path: Path) -> None:
    theirs = zipped_by_the_program(tmp_path, FILES, "-X", "-0")
    ours = split_zip(tmp_path / "y.zip", FILES, SIZE)
    assert [part.read_bytes() for part in theirs] == [part.read_bytes() for part in ours]


@pytest.mark.parametrize("arguments", [(), ("-fz",), ("-0", "-X")])
def test_what_zip_splits(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    files = FILES | {f"text/{number}.txt": b"a word " * number for number in range(400)}
    group = zipped_by_the_program(tmp_path, files, *arguments)
    assert len(group) > 4
    assert contents(group, tmp_path) == files
