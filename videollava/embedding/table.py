"""A table of vectors: a Parquet file with path, kind and vector of each medium, and whose vectors they are.

Schema: path (string), kind (string), vector (fixed-size list of float32, normalised). The schema's metadata has under
`videollava` a JSON text: format_version, dim, space (SHA-256 of the text tower's weights) and, for each modality in
it, its encoder's name and SHA-256. Row groups are small, so that a search holds one of them at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from videollava.embedding.encoders import Encoders, Vectors
from videollava.errors import InputError

__all__ = [
    "Made",
    "check_made",
    "made_by",
    "merge",
    "open_table",
    "rows_of",
    "schema_of",
    "table_of",
    "write_whole",
]

KEY = b"videollava"
VERSION = 1
ROWS = 8192  # of a row group: 24 MiB of 768 numbers
Row = tuple[str, str]  # path, kind


@dataclass(frozen=True)
class Made:
    """Whose vectors a table holds. encoders: by modality, `name` as it was asked for and `hash` of the weights."""

    dim: int
    space: str
    encoders: Mapping[str, Mapping[str, str]]
    format_version: int = VERSION


def made_by(encoders: Encoders, kinds: Iterable[str]) -> Made:
    """What a table of these modalities says of the encoders."""
    towers = {kind: encoders.tower(kind) for kind in sorted(set(kinds))}
    named = {kind: {"name": tower.name, "hash": tower.hash} for kind, tower in towers.items()}
    return Made(encoders.dim, encoders.space, named)


def schema_of(made: Made) -> pa.Schema:
    fields = [("path", pa.string()), ("kind", pa.string()), ("vector", pa.list_(pa.float32(), made.dim))]
    return pa.schema(fields, metadata={KEY: json.dumps(asdict(made), sort_keys=True).encode()})


def table_of(rows: Sequence[Row], vectors: Vectors, made: Made) -> pa.Table:
    """Rows and their vectors (N, D) as they lie in the file."""
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns = [
        pa.array([path for path, _ in rows], pa.string()),
        pa.array([kind for _, kind in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(flat, made.dim),
    ]
    return pa.Table.from_arrays(columns, schema=schema_of(made))


def open_table(path: Path) -> tuple[pq.ParquetFile, Made]:
    """A table and whose vectors it holds. InputError where the file is none that `videollava embed` wrote."""
    try:
        file = pq.ParquetFile(path, pre_buffer=False)  # else it reads all that is asked for at once
    except FileNotFoundError as error:
        raise InputError(f"{path}: not found; write one with `videollava embed FILES --to {path}`") from error
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: no Parquet file ({' '.join(str(error).split())[:100]})") from error
    said = (file.schema_arrow.metadata or {}).get(KEY)
    if said is None:
        file.close()
        raise InputError(f"{path}: says not whose vectors it holds: write it with `videollava embed`")
    made = Made(**json.loads(said))
    if made.format_version != VERSION:
        file.close()
        raise InputError(f"{path}: of format {made.format_version}, read here is {VERSION}: embed again")
    return file, made


def check_made(path: Path, made: Made, encoders: Encoders, kinds: Iterable[str] | None = None) -> None:
    """InputError where vectors of these encoders cannot be compared with the table's, or are not of the same model.

    kinds: of the encoders, those to compare (by default all that are loaded).
    """
    if made.space != encoders.space:
        raise InputError(
            f"{path}: holds vectors of another text space (of {_names(made)}) than {encoders.text_name}: search it "
            "with the model that wrote it, or embed again"
        )
    for kind in encoders.towers if kinds is None else kinds:
        theirs, ours = made.encoders.get(kind), encoders.towers.get(kind)
        if theirs and ours and theirs["hash"] != ours.hash:
            raise InputError(
                f"{path}: its {kind} vectors are of {theirs['name']} ({theirs['hash'][:12]}), another model than "
                f"{ours.name} ({ours.hash[:12]}): use the model that wrote it, or embed again"
            )


def _names(made: Made) -> str:
    return ", ".join(dict.fromkeys(encoder["name"] for encoder in made.encoders.values())) or "none"


def rows_of(file: pq.ParquetFile) -> Iterator[Row]:
    """Path and kind of each row."""
    for batch in file.iter_batches(columns=["path", "kind"]):
        yield from zip(batch.column("path").to_pylist(), batch.column("kind").to_pylist(), strict=True)


def merge(sources: Sequence[Path], target: Path, made: Made, aside: Path | None = None) -> None:
    """Tables, in order, as one file at `target`, a row group at a time; whole or not at all."""
    write_whole(target, made, (group for source in sources for group in _groups(source)), aside)


def _groups(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number)


def write_whole(target: Path, made: Made, tables: Iterable[pa.Table], aside: Path | None = None) -> None:
    """A file of these tables, in row groups of at most ROWS, put in its place once it is whole; `aside` until then."""
    aside = aside or target.with_name(f".{target.name}.{os.getpid()}.tmp")
    schema = schema_of(made)
    options = {"compression": {"path": "zstd", "kind": "zstd", "vector.list.element": "none"}}
    try:
        with pq.ParquetWriter(aside, schema, use_dictionary=["kind"], **options) as writer:
            for table in tables:
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROWS)
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
