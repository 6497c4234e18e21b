"""Writes the tables of the splits, batch by batch: the columns of the sources' records, and what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from videollava.data.prepare.counted import Counted
from videollava.data.prepare.joined import Joined, Part
from videollava.data.prepare.outlines import Lists, Numbers, Places, media_of
from videollava.data.prepare.splits import TESTED, TRAINED, VALID, Cut
from videollava.data.prepare.tables import TEST, TableWriter, base_split, split_writer, valid_part
from videollava.data.records.marks import KINDS
from videollava.data.records.quarantine import Quarantine
from videollava.data.records.readers import Rejected
from videollava.data.text.bounds import Bound

__all__ = ["Mixed", "Sizes", "write_splits"]

COUNTED = ("records", "text_tokens", "target_tokens", "images", "videos", "tokens")
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, and its bits are as good as random
IMAGE, VIDEO = KINDS.index("image"), KINDS.index("video")

# A batch of a source's records, rows that are kept, and their numbers among all.
Numbered = tuple[Part, Any, Numbers, Numbers]


@dataclass(frozen=True)
class Sizes:
    """Tokens that a picture and a clip take in the language model; `bounds`: how long samples of a split may be."""

    image_tokens: int
    video_tokens: int
    bounds: Mapping[str, Bound]


@dataclass
class Mixed:
    """What was written: totals by split, and samples and tokens by split and source."""

    splits: dict[str, Counter[str]] = field(default_factory=dict)
    mixture: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)

    def add(self, split: str, source: str, totals: Mapping[str, int]) -> None:
        """Samples of a source that went to a split."""
        of_split = self.splits.setdefault(split, Counter())
        of_split.update({name: count for name, count in totals.items() if count or name in COUNTED})
        of_source = self.mixture.setdefault(split, {}).setdefault(source, Counter())
        of_source.update({name: totals[name] for name in ("records", "tokens")})


def write_splits(
    joined: Joined, cut: Cut, counted: Counted, sizes: Sizes, folder: Path, quarantine: Quarantine
) -> Mixed:
    """Write the records that go anywhere to their splits, as often as they are trained on; others to quarantine."""
    writers: dict[str, TableWriter] = {}
    said: dict[str, list[Places]] = {}
    mixed = Mixed()
    for part, batch, rows, numbers in _kept(joined, cut, counted, quarantine):
        for split, chosen in _by_split(joined, cut, numbers):
            if split not in writers:
                writers[split] = split_writer(folder, split, sizes.bounds.get(base_split(split)))
            own = numbers[chosen]
            samples = _samples(part, batch, rows[chosen], counted.counts[own], sizes)
            copies = np.where(cut.roles[own] == TRAINED, cut.copies[own], 1)
            _write(writers[split], samples, np.repeat(np.arange(len(own)), copies))
            mixed.add(split, part.name, _totals(samples, copies))
            said.setdefault(split, []).append(_digests(samples))
    for split, writer in writers.items():
        writer.close()
        digests = np.concatenate(said.pop(split))
        repeated = len(digests) - len(np.unique(digests))
        mixed.splits[split].update({"repeated": repeated} if repeated else {})
    return mixed


def _kept(joined: Joined, cut: Cut, counted: Counted, quarantine: Quarantine) -> Iterator[Numbered]:
    """Records that go to a split; those that can't be used are told to the quarantine."""
    is_used = cut.is_taken
    is_used[list(counted.refused)] = False
    for part in joined.parts:
        for begin, batch, kept in part.batches():
            rows = np.flatnonzero(kept)
            numbers = np.arange(begin, begin + len(rows))
            used = is_used[numbers]
            _reject(part, batch, rows[~used], numbers[~used], counted, quarantine)
            yield part, batch, rows[used], numbers[used]


def _reject(
    part: Part, batch: Any, rows: Numbers, numbers: Numbers, counted: Counted, quarantine: Quarantine
) -> None:
    for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
        if why := counted.refused.get(number):
            split, name = (batch.column(column)[row].as_py() for column in ("split", "id"))
            quarantine.reject(Rejected(part.name, split, name, *why))


def _by_split(joined: Joined, cut: Cut, numbers: Numbers) -> Iterator[tuple[str, Numbers]]:
    """Names of splits, in the order in which they come first, and which of these records go there."""
    splits, roles = joined.outlines.split[numbers], cut.roles[numbers]
    keys, firsts, place = np.unique(np.stack([splits, roles]), axis=1, return_index=True, return_inverse=True)
    for key in np.argsort(firsts):
        split, role = joined.outlines.splits[keys[0, key]], keys[1, key]
        rows = np.flatnonzero(place.reshape(-1) == key)
        source = joined.parts[joined.outlines.source[numbers[rows[0]]]].name
        yield {TESTED: f"{TEST}{source}", VALID: valid_part(split)}.get(int(role), split), rows


@dataclass(frozen=True)
class _Samples:
    """`rows` of a batch that go to one split: media numbered over all sources, and counts."""

    source: str
    batch: Any
    rows: Numbers
    media: Lists
    counts: NDArray[Any]
    images: Numbers
    videos: Numbers
    tokens: Numbers


def _samples(part: Part, batch: Any, rows: Numbers, counts: NDArray[Any], sizes: Sizes) -> _Samples:
    media = media_of(batch).take(rows)
    videos = media.count(part.kinds == VIDEO)
    # Other kinds are aligned alone: they take no tokens of a language model.
    images = media.count(part.kinds == IMAGE)
    tokens = counts["text"] + images * sizes.image_tokens + videos * sizes.video_tokens
    everywhere = Lists(media.offsets, part.numbers[media.values])
    return _Samples(part.name, batch, rows, everywhere, counts, images, videos, tokens)


def _write(writer: TableWriter, samples: _Samples, rows: Numbers) -> None:
    """Write these of the samples; a row may come several times."""
    import pyarrow as pa

    media = samples.media.take(rows)
    own = {
        "source": pa.repeat(pa.scalar(samples.source), len(rows)),
        "media": pa.ListArray.from_arrays(pa.array(media.offsets, pa.int32()), pa.array(media.values)),
        "text_tokens": samples.counts["text"][rows],
        "target_tokens": samples.counts["targets"][rows],
        "images": samples.images[rows],
        "videos": samples.videos[rows],
        "tokens": samples.tokens[rows],
    }
    texts = samples.batch.take(pa.array(samples.rows[rows]))
    columns = [
        _column(own[name] if name in own else texts.column(name), kind)
        for name, kind in zip(writer.schema.names, writer.schema.types, strict=True)
    ]
    writer.write(pa.RecordBatch.from_arrays(columns, schema=writer.schema))


def _column(values: Any, kind: Any) -> Any:
    import pyarrow as pa

    return pa.array(values, kind) if isinstance(values, np.ndarray) else values.cast(kind)


def _totals(samples: _Samples, copies: NDArray[Any]) -> dict[str, int]:
    counts = samples.counts
    columns = {
        "records": np.ones(len(counts), np.int64),
        "text_tokens": counts["text"],
        "target_tokens": counts["targets"],
        "images": samples.images,
        "videos": samples.videos,
        "tokens": samples.tokens,
        "cut_records": counts["lost"] > 0,
        "cut_tokens": counts["lost"],
        "marks_as_words": counts["words"],
    }
    return {name: int((column * copies.astype(np.int64)).sum()) for name, column in columns.items()}


def _digests(samples: _Samples) -> Places:
    """Of what each sample says about which media."""
    media = samples.media
    inside = np.arange(len(media.values)) - np.repeat(media.offsets[:-1], media.lengths)
    places = (media.values.astype(np.uint64) + np.uint64(1)) * MIX
    places = (places ^ (places >> np.uint64(29))) * (MIX + inside.astype(np.uint64) * np.uint64(2))
    return samples.counts["said"] + media.sum(places ^ (places >> np.uint64(32)))
