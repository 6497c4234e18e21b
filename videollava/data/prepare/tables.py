"""The tables of data/shards/NAME and of data/index.

media.arrow          one row a medium, the row number is its media_id: in which shard it lies, and where
records.arrow        of a source: one row a record, in its order, its media by number
splits/<split>.arrow of the index: one row a record; of a training split's, <split>-valid has the samples held out
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from videollava.data.text.bounds import KEY, Bound
from videollava.errors import InputError

__all__ = [
    "MEDIA",
    "RECORDS",
    "TEST",
    "TableWriter",
    "base_split",
    "is_trained_on",
    "load_split",
    "media_schema",
    "open_table",
    "read_batch",
    "read_batches",
    "record_schema",
    "split_names",
    "split_schema",
    "split_writer",
    "valid_part",
    "write_media",
]

MEDIA = "media.arrow"
RECORDS = "records.arrow"
VALID = "-valid"
TEST = "test-"
ROWS = 4096  # of a record batch


def media_schema() -> Any:
    """Columns of media.arrow; `shard` is its number, of a source or in the index's shards.json. `look`: media.look."""
    import pyarrow as pa

    integers = {"shard": pa.int32(), "offset": pa.int64(), "size": pa.int64()}
    sides = dict.fromkeys(("width", "height", "frames"), pa.int32())
    begin = {"media_id": pa.int32(), "kind": pa.string()}
    return pa.schema({**begin, **integers, "sha256": pa.string(), **sides, "look": pa.string()}.items())


def record_schema() -> Any:
    """Columns of records.arrow; conversations is JSON text, [[role, text], ...].

    `part`, `answers`, `choices` are what the record itself says (train, validation, test or ""; records.gold). `asked`:
    of one without media, sixteen hex digits of what is asked.
    """
    import pyarrow as pa

    texts = dict.fromkeys(("id", "split", "kind", "conversations", "part", "asked"), pa.string())
    lists = dict.fromkeys(("answers", "choices"), pa.list_(pa.string()))
    return pa.schema({**texts, **lists, "media": pa.list_(pa.int32())}.items())


def split_schema(name: str = "") -> Any:
    """Columns of splits/<name>.arrow; conversations, answers and choices as in records.arrow, these of a test alone."""
    import pyarrow as pa

    texts = dict.fromkeys(("id", "source", "kind", "conversations"), pa.string())
    counts = dict.fromkeys(("text_tokens", "target_tokens", "images", "videos", "tokens"), pa.int32())
    gold = dict.fromkeys(("answers", "choices") if name.startswith(TEST) else (), pa.list_(pa.string()))
    return pa.schema({**texts, "media": pa.list_(pa.int32()), **counts, **gold}.items())


def load_split(folder: Path | str, name: str) -> Any:
    """A split as a memory-mapped pyarrow Table; InputError where there is none of this name."""
    file = Path(folder) / "splits" / f"{name}.arrow"
    if not file.is_file():
        known = ", ".join(split_names(folder)) or "none"
        raise InputError(f"{file}: no split {name!r}, there are: {known}; run `videollava index`")
    return open_table(file)


def split_names(folder: Path | str) -> list[str]:
    """Names of the splits in an index."""
    return sorted(file.stem for file in (Path(folder) / "splits").glob("*.arrow"))


def valid_part(split: str) -> str:
    """The split with the samples held out of a training split."""
    return f"{split}{VALID}"


def base_split(split: str) -> str:
    """The training split that a validation part was held out of; any other split is its own."""
    return split.removesuffix(VALID)


def is_trained_on(split: str) -> bool:
    """Whether samples of the split are learned from: neither asked in a test nor held out."""
    return not split.startswith(TEST) and not split.endswith(VALID)


def open_table(file: Path, stage: str = "index") -> Any:
    """A memory-mapped pyarrow Table; InputError names the `stage` that writes it."""
    import pyarrow as pa

    with _told(file, stage):
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()


def read_batches(file: Path, columns: Sequence[str] = (), stage: str = "index") -> Iterator[Any]:
    """The record batches of a table, or some columns of them, in the table's order; InputError as `open_table`.

    One at a time: what is read is given back, where a memory map would keep it.
    """
    reader = _reader(file, stage, columns)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def read_batch(file: Path, number: int, columns: Sequence[str]) -> Any:
    """One of them."""
    return _reader(file, "index", columns).get_batch(number)


def write_media(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write media.arrow."""
    with TableWriter(folder / MEDIA, media_schema()) as writer:
        for row in rows:
            writer.add(row)


def split_writer(folder: Path, name: str, bound: Bound | None = None) -> TableWriter:
    """Of one split; `bound`: what samples were cut to, kept beside the counts that follow from it."""
    schema = split_schema(name)
    if bound is not None:
        schema = schema.with_metadata({KEY: bound.to_json()})
    return TableWriter(folder / "splits" / f"{name}.arrow", schema)


class TableWriter:
    """Writes a table, row by row, with bounded memory; batches depend on the rows alone."""

    def __init__(self, file: Path, schema: Any) -> None:
        import pyarrow as pa

        file.parent.mkdir(parents=True, exist_ok=True)
        self.schema = schema
        self._writer = pa.ipc.new_file(str(file), schema)
        self._rows: list[Mapping[str, Any]] = []
        self._rest: list[Any] = []

    def write(self, batch: Any) -> None:
        """Append a record batch."""
        import pyarrow as pa

        whole = pa.Table.from_batches([*self._rest, batch]).combine_chunks()
        full = whole.num_rows // ROWS * ROWS
        for begin in range(0, full, ROWS):
            self._writer.write_table(whole.slice(begin, ROWS))
        self._rest = whole.slice(full).to_batches()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer."""
        self._flush()
        for batch in self._rest:
            self._writer.write_batch(batch)
        self._writer.close()

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self.write(pa.RecordBatch.from_pylist(self._rows, schema=self.schema))
            self._rows.clear()


def _reader(file: Path, stage: str, columns: Sequence[str]) -> Any:
    import pyarrow as pa

    with _told(file, stage):
        schema = pa.ipc.open_file(pa.OSFile(str(file))).schema
        fields = sorted(schema.get_field_index(name) for name in columns) or None
        return pa.ipc.open_file(pa.OSFile(str(file)), options=pa.ipc.IpcReadOptions(included_fields=fields))


@contextmanager
def _told(file: Path, stage: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found; run `videollava {stage}`") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: not an Arrow file ({error}); run `videollava {stage}` again") from error
