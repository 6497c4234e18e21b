"""Members packed by Deflate64: what Windows Explorer writes of large files."""

from __future__ import annotations

import base64
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path

import inflate64
import pytest

from videollava.data.archives import listing
from videollava.data.archives.listing import list_archive, list_members
from videollava.data.archives.members import DAMAGED, Member, Refusal, open_member, read_member
from videollava.data.archives.parts import group_parts

# Of `7z a -tzip -mm=Deflate64` (7-Zip 26.02): copies in far.bin are longer and from farther away than those of Deflate.
GENUINE = base64.b64decode(
    "UEsDBBUAAAAJANoZfV2otOW/qAEAANOdAAAHAAAAZmFyLmJpbvq6MVXJK2L7xPtZH28Y2CWePbK77fDFI+oCNiY+jp2v9eWq"
    "r16pc8k/d2jxDcHiRIGnFdJnzi2bVqaXKHbs5UndmftNe/TYJZp0ntSsOO7I/ixnw5NNm79c7W06ldx26WReGV/j7NaTKocj"
    "C1OOLGPtYoiQUtqk+5SlyNlWz+XfjW07TOtczhpqTrA6eCV0+iKnvx/l+7WlLD8ffjZZ0Dnwzr4r7I+fbWPdOa+Z7e5yj2Vy"
    "TLO67B2jmbxEcj7c7Jrx8PzMaYk/0/euv89XbO7EI/yDYcSDEQ9GPBjxYMSDEQ9GPBjxYMSDEQ8A5MGBAAAAAACQ/2sh6PV6"
    "vV6v1+v1kAcHAgAAAABA/q+FoNfr9Xq9Xq/X6/V6vV6v1+shDw4EAAAAAID8XwtBr9fr9Xq9Xq/X6/V6vV6v1+v1er1er9fr"
    "9Xq9Xq/X6/V6PeXeMQEAAAgDoLL62v80xwZJ4PF4PB6Px+PxeDwej8fj8Xg8Ho/H4/F4PB6Px+PxeDwej8fj8Xg8Ho/H4/F4"
    "PB6Px+PxeDwej8fj8Xg8Ho/H4/F4PF6Clgfd3jxQSwMEFQAAAAkA2hl9XX5MQ7MbAAAAqAIAAAgAAAB0ZXh0LnR4dEtUSM7J"
    "LFDIT1NIVEjJT9dRGPECI15gUAoAAFBLAQI/AxUAAAAJANoZfV2otOW/qAEAANOdAAAHACQAAAAAAAAAIICkgQAAAABmYXIu"
    "YmluCgAgAAAAAAABABgACqOezK9/3QEAAAAAAAAAAAAAAAAAAAAAUEsBAj8DFQAAAAkA2hl9XX5MQ7MbAAAAqAIAAAgAJAAA"
    "AAAAAAAggKSBzQEAAHRleHQudHh0CgAgAAAAAAABABgA98eezK9/3QEAAAAAAAAAAAAAAAAAAAAAUEsFBgAAAAACAAIAswAA"
    "AA4CAAAAAA=="
)
HEAD = random.Random(1).randbytes(200)
FILES = {"far.bin": HEAD + bytes(40_000) + HEAD + b"end", "text.txt": b"a clip of a dog, " * 40}


def genuine(folder: Path) -> Path:
    path = folder / "genuine.zip"
    path.write_bytes(GENUINE)
    return path


def listed(*files: Path) -> list[Member]:
    return [found for found in list_members(*files) if isinstance(found, Member)]


def test_a_genuine_archive(tmp_path: Path) -> None:
    path = genuine(tmp_path)
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {9}
    assert {one.name: read_member(one) for one in listed(path)} == FILES
    with open_member(listed(path)[0]) as stream:
        assert b"".join(iter(lambda: stream.read(1001), b"")) == FILES["far.bin"]


def packed(folder: Path, content: bytes, *, size: int | None = None, crc: int | None = None) -> Path:
    """A zip of one member by Deflate64, and what its directory claims of it."""
    deflater = inflate64.Deflater()
    data = deflater.deflate(content) + deflater.flush()
    path = folder / "made.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a.mp4")
        archive.writestr(info, data)
    claimed = len(content) if size is None else size
    written = bytearray(path.read_bytes())
    entry = written.rindex(b"PK\x01\x02")
    struct.pack_into("<H", written, entry + 10, 9)
    struct.pack_into("<L", written, entry + 16, zlib.crc32(content) if crc is None else crc)
    struct.pack_into("<L", written, entry + 24, claimed)
    path.write_bytes(written)
    return path


def test_what_does_not_hold_what_it_says_is_not_read(tmp_path: Path) -> None:
    content = FILES["far.bin"] * 20
    (good,) = listed(packed(tmp_path, content))
    assert read_member(good) == content
    for claims in ({"size": len(content) - 1}, {"size": len(content) + 1}, {"size": 0}, {"crc": 7}):
        (member,) = listed(packed(tmp_path, content, **claims))
        with pytest.raises(zipfile.BadZipFile, match="not of the size or the sum"):
            read_member(member)
        with open_member(member) as stream, pytest.raises(zipfile.BadZipFile):
            stream.read()


def test_the_bounds_are_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "FREE", 10_000)
    monkeypatch.setattr(listing, "MAX_RATIO", 50)
    (refused, _) = list_members(genuine(tmp_path))
    assert isinstance(refused, Refusal)
    assert (refused.name, refused.reason) == ("far.bin", "decompression bomb")


def test_every_flipped_byte_is_read_right_or_refused(tmp_path: Path) -> None:
    spoilt = refused = 0
    for place in range(len(GENUINE)):
        data = bytearray(GENUINE)
        data[place] ^= 1 << place % 8
        path = tmp_path / "spoilt.zip"
        path.write_bytes(data)
        for member in listed(path):
            try:
                assert read_member(member) in FILES.values()
                spoilt += 1
            except DAMAGED:
                refused += 1
    assert min(spoilt, refused) > 300


def test_reading_keeps_nothing_of_what_was_read(tmp_path: Path) -> None:
    """inflate64 1.0.4 never lets go of the bytes that it is given."""
    (member,) = listed(packed(tmp_path, random.Random(2).randbytes(2 << 20)))
    read_member(member)
    before = resident()
    for _ in range(30):
        read_member(member)
    assert resident() - before < 30 << 20  # of 60 MiB


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("volumes", [(), ("-v64k",)])
def test_what_7zip_packs(tmp_path: Path, volumes: tuple[str, ...]) -> None:
    program = shutil.which("7z") or shutil.which("7zz")  # Debian 12 has the second alone
    if program is None:
        pytest.skip("7-Zip is not here: apt-get install 7zip")
    rng = random.Random(3)
    words = [rng.randbytes(5).hex().encode() for _ in range(200)]
    files = {
        "text.txt": b" ".join(rng.choices(words, k=40_000)),
        "zeros.bin": bytes(3 << 20),
        "random.bin": rng.randbytes(90_000),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [program, "a", "-tzip", "-mm=Deflate64", "-mmt=1", *volumes, "x.zip", *files]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    (group,) = group_parts(sorted(tmp_path.glob("x.zip*")))
    assert len(group) == 1 or volumes
    found = [one for one in list_archive(group, tmp_path) if isinstance(one, Member)]
    assert {one.name: read_member(one) for one in found} == files
