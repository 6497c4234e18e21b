"""`videollava embed` and `search`, and the table between them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from videollava import cli
from videollava.embedding.encoders import load_encoders
from videollava.embedding.files import embed_files, list_files
from videollava.embedding.search import search
from videollava.embedding.table import Made, open_table, table_of, write_whole
from videollava.errors import InputError

MADE = Made(8, "space", {"image": {"name": "x", "hash": "h"}})
# Of rows of 768 numbers: what a search of any number of them may take above what importing takes.
BOUND = 400 << 20


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def write(path: Path, vectors: np.ndarray, made: Made = MADE, kinds: tuple[str, ...] = ("image",)) -> None:
    rows = [(f"{place}.jpg", kinds[place % len(kinds)]) for place in range(len(vectors))]
    write_whole(path, made, [table_of(rows, vectors.astype(np.float32), made)])


def test_search_is_exact_in_any_chunks_and_of_equals_the_earlier_row_is_first(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((1000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[700] = vectors[30]
    write(tmp_path / "t.parquet", vectors)
    queries = vectors[[30, 5]]
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :7]
    for chunk in (1, 13, 4096):
        found = search(tmp_path / "t.parquet", queries, 7, chunk=chunk)
        assert [[hit.row for hit in hits] for hits in found] == expected.tolist()
    assert found[0][0].path == "30.jpg"
    assert found[0][0].score == pytest.approx(float(vectors[30] @ vectors[30]), abs=1e-5)
    assert len(search(tmp_path / "t.parquet", queries, 2000)[0]) == 1000


def test_search_of_one_modality(tmp_path: Path) -> None:
    vectors = np.eye(8, dtype=np.float32)
    write(tmp_path / "t.parquet", vectors, kinds=("image", "audio"))
    hits = search(tmp_path / "t.parquet", vectors[:1], 10, kind="audio")[0]
    assert [hit.row for hit in hits] == [1, 3, 5, 7]


def test_what_is_no_table_of_ours_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("no")
    with pytest.raises(InputError, match="no Parquet file"):
        open_table(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", np.eye(8))
    plain = pq.read_table(tmp_path / "b.parquet").replace_schema_metadata(None)
    pq.write_table(plain, tmp_path / "c.parquet")
    with pytest.raises(InputError, match="says not whose vectors"):
        open_table(tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"vectors of 8 numbers, the queries are \(1, 3\)"):
        search(tmp_path / "b.parquet", np.zeros((1, 3), np.float32))


def test_media_to_a_table_to_a_search_from_any_modality(
    shared: Path, encoder_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media, out = shared / "media", tmp_path / "out.parquet"
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    model = ("--model", encoder_folders)
    files = [media / "image/image_0.jpg", broken, media / "audio"]
    status, said, error = run(capsys, "embed", *files, "--to", out, *model)
    assert (status, said.strip()) == (1, f"{out}: 3 vectors of 32 written (1 image, 2 audio), 1 unreadable")
    assert error.startswith(f"unreadable: {broken}: cannot be read as image")
    assert run(capsys, "embed", *files, "--to", out, *model)[0] == 2  # exists
    depth = ("embed", media / "depth", "--as", "depth", "--to", out, "--add", *model)
    assert run(capsys, *depth)[1].strip() == f"{out}: 2 vectors of 32 written (2 depth)"
    assert run(capsys, *depth)[1].strip() == f"{out}: 0 vectors of 32 written, 2 were there"
    table = pq.read_table(out)
    assert table.column("kind").to_pylist() == ["image", "audio", "audio", "depth", "depth"]
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    made = json.loads(table.schema.metadata[b"videollava"])
    assert sorted(made["encoders"]) == ["audio", "depth", "image"]
    assert not list(tmp_path.glob("*.parts"))

    status, said, _ = run(capsys, "search", "a lion", "--index", out, "--top", 2)
    assert status == 0
    assert len(said.splitlines()) == 2
    like = media / "depth/depth_1.png"
    status, said, _ = run(capsys, "search", "--like", like, "--as", "depth", "--index", out, "--json")
    hits = json.loads(said)
    assert (len(hits), hits[0]["path"]) == (5, str(like))
    assert hits[0]["score"] == pytest.approx(1, abs=1e-5)
    assert (
        "holds no video, but audio, depth, image"
        in run(capsys, "search", "x", "--index", out, "--only", "video")[2]
    )
    # A modality that the table has none of, with its encoder named.
    heat = ("search", "--like", media / "thermal/thermal_0.jpg", "--as", "thermal", "--index", out)
    assert "names no encoder of it" in run(capsys, *heat)[2]
    assert run(capsys, *heat, "--model", encoder_folders / "thermal")[0] == 0


def test_a_table_of_another_model_is_refused(
    shared: Path, encoder_folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, picture = tmp_path / "out.parquet", shared / "media/image/image_0.jpg"
    assert run(capsys, "embed", picture, "--to", out, "--model", encoder_folders / "image")[0] == 0
    other = shared / "reference/languagebind_depth_lora"
    status, _, error = run(capsys, "search", "x", "--index", out, "--model", other)
    assert status == 2
    assert "another text space" in error
    # The same text tower, and another encoder of pictures.
    tuned = ("--model", f"image={encoder_folders / 'image'}")
    made = open_table(out)[1]
    changed = Made(made.dim, made.space, {"image": {"name": "old", "hash": "0" * 64}})
    write(tmp_path / "old.parquet", np.eye(32, dtype=np.float32), changed)
    status, _, error = run(capsys, "search", "x", "--index", tmp_path / "old.parquet", *tuned)
    assert status == 2
    assert "its image vectors are of old (000000000000), another model than" in error
    status, _, error = run(capsys, "embed", picture, "--to", tmp_path / "old.parquet", "--add", *tuned)
    assert status == 2


def test_embedding_goes_on_where_it_was_ended(
    shared: Path, encoder_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videollava.embedding import files

    monkeypatch.setattr(files, "PART", 2)
    encoders = load_encoders(encoder_folders / "image")
    rows = list_files([str(shared / "media/image")])
    assert len(rows) == 6
    whole, out = tmp_path / "whole.parquet", tmp_path / "out.parquet"
    embed_files(encoders, rows, whole, batch=1)

    def end(done: int, all_of: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(encoders, rows, out, batch=1, tell=end)
    assert not out.exists()
    done = embed_files(encoders, rows, out, batch=1)
    assert (done.kept, done.written) == (4, 2)
    assert pq.read_table(out).equals(pq.read_table(whole))


def test_nothing_readable_writes_no_table(encoder_folders: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    encoders = load_encoders(encoder_folders / "image")
    with pytest.raises(InputError, match=r"none of 1 files could be read; the first: .*a.jpg"):
        embed_files(encoders, list_files([str(tmp_path / "a.jpg")]), tmp_path / "out.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["a.jpg"]


def _large(path: Path, rows: int, dim: int = 768) -> tuple[int, np.ndarray]:
    """A table of random rows, written a piece at a time, and one of them."""
    made = Made(dim, "space", {"image": {"name": "x", "hash": "h"}})
    block = np.random.default_rng(0).standard_normal((20_000, dim), dtype=np.float32)
    block /= np.linalg.norm(block, axis=1, keepdims=True)

    def pieces() -> Iterator[pa.Table]:
        for start in range(0, rows, len(block)):
            vectors = np.roll(block, start // len(block), axis=1)  # others in each piece
            yield table_of([(str(start + at), "image") for at in range(len(block))], vectors, made)

    write_whole(path, made, pieces())
    return rows - 7, np.roll(block[-7], rows // len(block) - 1)


SEARCH = """
import json, resource, sys
from pathlib import Path
import numpy as np
from videollava.embedding.search import search
query = np.load(sys.argv[2])[None]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
hit = search(Path(sys.argv[1]), query, 10)[0][0]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps([hit.row, hit.path, hit.score, grown << 10]))
"""


@pytest.mark.parametrize(
    "rows", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)], ids=["100k", "1M"]
)
def test_many_rows_in_bounded_memory(tmp_path: Path, rows: int) -> None:
    place, query = _large(tmp_path / "t.parquet", rows)
    np.save(tmp_path / "q.npy", query)
    told = subprocess.run(
        [sys.executable, "-c", SEARCH, tmp_path / "t.parquet", tmp_path / "q.npy"],
        check=True,
        capture_output=True,
        text=True,
    )
    row, path, score, grown = json.loads(told.stdout)
    assert (row, path) == (place, str(place))
    assert score == pytest.approx(1, abs=1e-5)
    assert grown < BOUND
