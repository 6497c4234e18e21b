"""Video-ChatGPT's 100k instructions: as published (q, a, video_id), or as its script rewrites them (.pkl)."""

from __future__ import annotations

from videollava.data.records.formats.format import Context, Item, ItemFormat
from videollava.data.records.formats.llava import LLAVA
from videollava.data.records.formats.marking import mend_marks
from videollava.data.records.marks import escape_marks, mark
from videollava.data.records.rejected import RecordError

__all__ = ["VIDEO_CHATGPT"]

FEATURES = ".pkl"
# Of the published file; the benchmark's files write them large and name the clip.
NAMES = {"question": ("q", "Q"), "answer": ("a", "A"), "video": ("video_id", "video_name")}


def _fits(item: Item) -> bool:
    if all(_under(item, names) is not None for names in NAMES.values()):
        return True
    video = item.get("video")
    return isinstance(video, str) and video.endswith(FEATURES) and isinstance(item.get("conversations"), list)


def _as_llava(item: Item, place: str, context: Context) -> Item:
    """A clip's name has no ending there: the member of this name is found whatever its ending."""
    if isinstance(item.get("conversations"), list):
        video = item.get("video")
        if isinstance(video, str):
            item = {**item, "video": video.removesuffix(FEATURES)}
        return mend_marks(item, place, context.notes)
    said = {name: _under(item, names) for name, names in NAMES.items()}
    for name, value in said.items():
        if not isinstance(value, str) or not value.strip():
            raise RecordError(
                "malformed record",
                f"{place}: field {NAMES[name][0]}: must be a text; fill it in or drop the record",
            )
    question = escape_marks(str(said["question"]))
    turns = [
        {"from": "human", "value": f"{mark('video')}\n{question}"},
        {"from": "gpt", "value": escape_marks(str(said["answer"]))},
    ]
    gold = {key: item[key] for key in ("id", "kind", "split") if key in item}
    return {**gold, "video": said["video"], "conversations": turns}


def _under(item: Item, names: tuple[str, ...]) -> object:
    return next((item[name] for name in names if name in item), None)


VIDEO_CHATGPT = ItemFormat(
    "video-chatgpt",
    "Video-ChatGPT: q, a, video_id, or its training form with features (.pkl) for clips",
    _fits,
    _as_llava,
    (*LLAVA.keys, *(name for names in NAMES.values() for name in names)),
)
