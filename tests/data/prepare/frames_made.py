"""What tests of stored frames share: a fetched source of clips, and workers that are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from made import archive_source, lines, llava, params, tar

from videollava.data.acquire.fetch import run as fetch
from videollava.data.media.stored import Form
from videollava.data.pool import Pool
from videollava.params import Frames, Params

COUNT, SIZE = 3, 16  # what `params` of these tests has the model take


class Here(Pool):
    """All work is done here, but of one item, which kills its process."""

    def __init__(self, workers: int = 1, fatal: object = None) -> None:
        super().__init__(workers)
        self.fatal = fatal

    def stream(
        self, function: Any, items: Iterable[Any], crashed: Any = None, *_: Any, **__: Any
    ) -> Iterator[Any]:
        for item in items:
            yield crashed(item) if self.fatal is not None and item is self.fatal else function(item)


def fetched(workspace: Path, media: dict[str, bytes], **settings: Any) -> Params:
    records = [llava(name, **{kind_of(name): name}) for name in media] + [llava("text")]
    archive = tar(workspace / "from/media.tar", media)
    chosen = params(archive_source(archive, lines(workspace / "from/notes.jsonl", records)), **settings)
    fetch(chosen, workspace)
    return chosen


def kind_of(name: str) -> str:
    return "image" if name.endswith(".png") else "video"


def storing(chosen: Params, form: Form = "exact") -> Params:
    frames = Frames(count=chosen.model.frames, size=chosen.model.image_size, form=form)
    return chosen.replace(shards=chosen.shards.replace(frames=frames))
