"""Records made of a medium and what is asked or told of it, drawn the same way each time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from videollava.data.records.marks import MediumKind, mark
from videollava.data.records.record import Medium, Record, Turn
from videollava.params import Source

__all__ = ["REQUESTS", "TURNS", "caption", "conversation", "conversations", "draw"]

TURNS = {"image": 12, "video": 10}  # questions of one conversation, at most

# Stage-1 requests. The plain template leaves them out, as the original does.
REQUESTS: dict[MediumKind, tuple[str, ...]] = {
    "image": (
        "Say in a few words what the picture shows.",
        "What can be seen here?",
        "Give a short caption for this image.",
        "Describe this picture briefly.",
        "What is shown in the image? Keep it short.",
    ),
    "video": (
        "Say in a few words what happens in the video.",
        "What can be seen happening here?",
        "Give a short caption for this video.",
        "Describe this clip briefly.",
        "What does the video show? Keep it short.",
    ),
    "audio": (
        "Say in a few words what can be heard.",
        "What sound is this?",
        "Give a short caption for this recording.",
    ),
}
REQUESTS |= dict.fromkeys(("depth", "thermal"), REQUESTS["image"])


def caption(name: str, source: Source, medium: Medium, text: str) -> Record:
    """A request for a caption, and the caption."""
    request = draw(source, f"{name}-request").choice(REQUESTS[medium.kind])
    return conversation(name, source, medium, [(request, text)])


def conversations(
    name: str, source: Source, medium: Medium, pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, Record]]:
    """A medium's questions, shuffled, in as few conversations as TURNS allows, of even length."""
    order = list(pairs)
    draw(source, f"{name}-order").shuffle(order)
    count = -(-len(order) // TURNS[medium.kind])
    for part in range(count):
        chosen = order[part * len(order) // count : (part + 1) * len(order) // count]
        yield "finetune", conversation(f"{name}-{part}", source, medium, chosen)


def conversation(
    name: str, source: Source, medium: Medium, pairs: Sequence[tuple[str, str]], kind: str = ""
) -> Record:
    """Questions and answers about one medium, which stands before the first."""
    turns: list[Turn] = []
    for question, answer in pairs:
        turns += [
            Turn("human", question if turns else f"{mark(medium.kind)}\n{question}"),
            Turn("gpt", answer),
        ]
    return Record(name, source.name, tuple(turns), (medium,), kind)


def draw(source: Source, name: str) -> random.Random:
    """What is drawn for a record: the same for the same source, seed and name."""
    return random.Random(f"{source.name} {source.seed} {name}")
