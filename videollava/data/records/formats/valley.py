"""Valley's instructions and captions (Valley-Instruct, Valley-webvid2M-Pretrain).

The original finds a clip at `<source>/<video>.mp4`, under `webvid` where no source is said (valley/data/dataset.py); of
VATEX the clip that is asked about is `v_id`, cut out of `video`. Video-LLaVA's copies name `valley/<video>`.
"""

from __future__ import annotations

from collections.abc import Iterator

from videollava.data.records.endings import MEDIA_ENDINGS
from videollava.data.records.formats.format import Context, Item, ItemFormat
from videollava.data.records.formats.llava import LLAVA
from videollava.data.records.formats.marking import mend_marks, put_marks

__all__ = ["VALLEY"]

SOURCES = {"vatex", "jukinmedia", "jukin", "webvid"}
WITHOUT_SOURCE = "webvid"


def _fits(item: Item) -> bool:
    source = item.get("source")
    return (
        isinstance(item.get("conversations"), list)
        and "video" in item
        and ("v_id" in item or (isinstance(source, str) and source.lower() in SOURCES))
    )


def _as_llava(item: Item, place: str, context: Context) -> Item:
    places = list(_places(item))
    video = next(filter(context.present, places), places[0] if places else item.get("video"))
    plain = {"id": item.get("v_id"), **item, "video": video}
    mended = mend_marks({key: value for key, value in plain.items() if key != "source"}, place, context.notes)
    return put_marks(mended, place, context.notes)


def _places(item: Item) -> Iterator[str]:
    """Where the clip may lie, the likeliest first."""
    source = item.get("source") or ""
    names = [item.get("video")]
    if isinstance(source, str) and source.lower() == "vatex" and item.get("v_id"):
        names.insert(0, item["v_id"])
    folders = [f"{source}/", ""] if source else ["", f"{WITHOUT_SOURCE}/"]
    for name in names:
        if isinstance(name, str) and name:
            whole = name if name.lower().endswith(MEDIA_ENDINGS) else f"{name}.mp4"
            yield from (folder + whole for folder in folders)


VALLEY = ItemFormat(
    "valley",
    "Valley: video (under its source), v_id, conversations",
    _fits,
    _as_llava,
    (*LLAVA.keys, "v_id", "source"),
)
