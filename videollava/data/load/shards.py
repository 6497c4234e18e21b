"""Random access to the media that data/index names, in the shards that lie wherever places.py finds them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from videollava.data.load.places import Shard, find_shard
from videollava.data.media.stored import StoredFrames, is_stored
from videollava.data.prepare.tables import MEDIA, open_table
from videollava.errors import InputError

__all__ = ["Shards"]

# Files a reader keeps open; the usual limit of a process is 1,024. More are opened for each read: some 10 us.
KEPT_OPEN = 128


class Shards:
    """Random access to prepared media; safe over threads, forks and spawned processes.

    Args:
        folder: the index (data/index).
        verify: check the sha256 of what is read.
    """

    def __init__(self, folder: Path | str, verify: bool = False) -> None:
        self.folder = Path(folder)
        self.verify = verify
        self.media = open_table(self.folder / MEDIA)
        columns = (self.media.column(name).to_numpy() for name in ("shard", "offset", "size"))
        self._shard, self._offset, self._size = columns
        self._listed = _read_list(self.folder / "shards.json")
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return int(self.media.num_rows)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "verify": self.verify}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        Shards.__init__(self, state["folder"], state["verify"])

    def check_frames(self, count: int, size: int) -> None:
        """InputError where clips are stored as other frames than `count` of `size` pixels."""
        for listed in self._listed:
            if listed.frames and tuple(listed.frames) != (count, size):
                stored, side = listed.frames
                raise InputError(
                    f"{self.folder}: of {listed.source}'s clips {stored} frames of {side} pixels are stored "
                    f"(shards.frames), and {count} of {size} are asked for: write these there, or "
                    f"shards.frames.count: 0, which keeps the clips; then `videollava shards {listed.source}` and "
                    "`videollava index`"
                )

    def read(self, media_id: int) -> bytes | StoredFrames:
        """One medium, encoded, or the frames that stand in its place; InputError where the shard is damaged or nowhere
        to be had.
        """
        if not 0 <= media_id < len(self):
            raise InputError(
                f"{self.folder}: no medium {media_id}, there are {len(self)}; run `videollava index`"
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
        medium = StoredFrames(data) if is_stored(data) else data
        if len(data) != size or not self._is_it(medium, media_id):
            listed = self._listed[shard]
            raise InputError(
                f"{self._path(shard)}: medium {media_id} is not what was written; run "
                f"`videollava shards {listed.source}` and `videollava index` again"
            )
        return medium

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

    def _is_it(self, medium: bytes | StoredFrames, media_id: int) -> bool:
        """Whether the index means these bytes: all of them are summed where `verify` says so.

        Frames name their clip, and are asked for it always: those of all clips have one size, so shards that were cut
        anew under an old index have others at its very places.
        """
        if not self.verify and not isinstance(medium, StoredFrames):
            return True
        meant = str(self.media.column("sha256")[media_id].as_py())
        if isinstance(medium, StoredFrames) and medium.seal != meant:
            return False
        return not self.verify or _sum_of(medium) == meant

    def _path(self, shard: int) -> Path:
        return find_shard(self._listed[shard], self.folder)

    def _file(self, shard: int) -> int:
        """Its descriptor; the caller closes one that was not kept."""
        if shard in self._files:
            return self._files[shard]
        opened = os.open(self._path(shard), os.O_RDONLY)
        if len(self._files) < KEPT_OPEN:
            self._files.setdefault(shard, opened)  # unless another thread was quicker
        return opened


def _sum_of(medium: bytes | StoredFrames) -> str:
    """Of the clip, where frames are stored: they carry it."""
    return medium.sha256() if isinstance(medium, StoredFrames) else hashlib.sha256(medium).hexdigest()


def _read_list(file: Path) -> list[Shard]:
    try:
        return [Shard(**entry) for entry in json.loads(file.read_text())]
    except FileNotFoundError as error:
        raise InputError(f"{file}: not found; run `videollava index`") from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{file}: not what index writes ({error!r}); run `videollava index` again"
        ) from error
