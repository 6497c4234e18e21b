"""Prepared data on disk: media in tar shards, a table of where each lies, a table for each split.

media-00000.tar ..   plain tars: any tool can look inside
media.arrow          one row a medium, the row number is its media_id
splits/<split>.arrow one row a record; of a training split's, <split>-valid has the samples held out of it
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from videollava.data.text.bounds import KEY, Bound
from videollava.errors import InputError

__all__ = [
    "Shards",
    "SplitWriter",
    "base_split",
    "is_trained_on",
    "load_split",
    "media_schema",
    "split_names",
    "split_schema",
    "valid_part",
    "write_media",
]

VALID = "-valid"
ROWS = 4096  # of a record batch
# Files a reader keeps open; the usual limit of a process is 1,024. More are opened for each read: some 10 us.
KEPT_OPEN = 128


def media_schema() -> Any:
    """Columns of media.arrow."""
    import pyarrow as pa

    integers = {"shard": pa.int32(), "offset": pa.int64(), "size": pa.int64()}
    sides = dict.fromkeys(("width", "height", "frames"), pa.int32())
    return pa.schema(
        {"media_id": pa.int32(), "kind": pa.string(), **integers, "sha256": pa.string(), **sides}.items()
    )


def split_schema() -> Any:
    """Columns of splits/<split>.arrow; conversations is JSON text, [[role, text], ...]."""
    import pyarrow as pa

    texts = dict.fromkeys(("id", "source", "kind", "conversations"), pa.string())
    counts = dict.fromkeys(("text_tokens", "target_tokens", "images", "videos", "tokens"), pa.int32())
    return pa.schema({**texts, "media": pa.list_(pa.int32()), **counts}.items())


class Shards:
    """Random access to prepared media; safe over threads, forks and spawned processes.

    Args:
        folder: the prepared folder (data/prepared).
        verify: check the sha256 of what is read.
    """

    def __init__(self, folder: Path | str, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.verify = verify
        self.media = _open_table(self.folder / "media.arrow")
        columns = (self.media.column(name).to_numpy() for name in ("shard", "offset", "size"))
        self._shard, self._offset, self._size = columns
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self.media.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "verify": self.verify}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Shards.__init__(self, state["folder"], state["verify"])

    def read(self, media_id: int) -> bytes:
        """The encoded bytes of one medium; InputError where the shard is damaged."""
        if not 0 <= media_id < len(self):
            raise InputError(
                f"{self.folder}: no medium {media_id}, there are {len(self)}; run `videollava prepare`"
            )
        size = int(self._size[media_id])
        shard = int(self._shard[media_id])
        file = self._file(shard)
        try:
            # pread keeps no position: threads and forked processes may share the descriptor.
            data = os.pread(file, size, int(self._offset[media_id]))
        finally:
            if self._files.get(shard) != file:
                os.close(file)
        if len(data) != size or (self.verify and self._hash(media_id) != hashlib.sha256(data).hexdigest()):
            raise InputError(
                f"{self._path(shard)}: medium {media_id} is not what was written; run `videollava prepare` again"
            )
        return data

    def kind(self, media_id: int) -> str:
        """ "image", "video", ..."""
        return str(self.media.column("kind")[media_id].as_py())

    def close(self) -> None:
        """Close the shards' files; the next read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def _hash(self, media_id: int) -> str:
        return str(self.media.column("sha256")[media_id].as_py())

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def _file(self, shard: int) -> int:
        """Its descriptor; the caller closes one that was not kept."""
        if shard in self._files:
            return self._files[shard]
        try:
            opened = os.open(self._path(shard), os.O_RDONLY)
        except FileNotFoundError as error:
            raise InputError(f"{self._path(shard)}: not found; run `videollava prepare`") from error
        if len(self._files) < KEPT_OPEN:
            self._files.setdefault(shard, opened)  # unless another thread was quicker
        return opened


def shard_name(shard: int) -> str:
    """The file name of a shard."""
    return f"media-{shard:05d}.tar"


def load_split(folder: Path | str, name: str) -> Any:
    """A split as a memory-mapped pyarrow Table; InputError where there is none of this name."""
    file = Path(folder) / "splits" / f"{name}.arrow"
    if not file.is_file():
        known = ", ".join(split_names(folder)) or "none"
        raise InputError(f"{file}: no split {name!r}, there are: {known}; run `videollava prepare`")
    return _open_table(file)


def split_names(folder: Path | str) -> list[str]:
    """Names of the splits in a prepared folder."""
    return sorted(file.stem for file in (Path(folder) / "splits").glob("*.arrow"))


def valid_part(split: str) -> str:
    """The split with the samples held out of a training split."""
    return f"{split}{VALID}"


def base_split(split: str) -> str:
    """The training split that a validation part was held out of; any other split is its own."""
    return split.removesuffix(VALID)


def is_trained_on(split: str) -> bool:
    """Whether samples of the split are learned from: neither asked in a test nor held out."""
    return not split.startswith("test-") and not split.endswith(VALID)


def _open_table(file: Path) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found; run `videollava prepare`") from error
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: not an Arrow file ({error}); run `videollava prepare` again") from error


def write_media(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write media.arrow."""
    _write_rows(folder / "media.arrow", media_schema(), rows)


class SplitWriter:
    """Writes one split, row by row, with bounded memory; batches depend on the rows alone.

    `bound`: what samples were cut to, kept beside the counts that follow from it.
    """

    def __init__(self, folder: Path, name: str, bound: Bound | None = None) -> None:
        import pyarrow as pa

        file = folder / "splits" / f"{name}.arrow"
        file.parent.mkdir(parents=True, exist_ok=True)
        self._schema = split_schema()
        if bound is not None:
            self._schema = self._schema.with_metadata({KEY: bound.to_json()})
        self._writer = pa.ipc.new_file(str(file), self._schema)
        self._rows: list[Mapping[str, Any]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a record's row."""
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left and the file's footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
            self._rows.clear()


def _write_rows(file: Path, schema: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    import pyarrow as pa

    with pa.ipc.new_file(str(file), schema) as writer:
        waiting: list[Mapping[str, Any]] = []
        for row in rows:
            waiting.append(row)
            if len(waiting) == ROWS:
                writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=schema))
                waiting.clear()
        if waiting:
            writer.write_batch(pa.RecordBatch.from_pylist(waiting, schema=schema))
