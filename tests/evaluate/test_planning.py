"""Plans of all questions: from their texts alone, the same for every rank, linear, with balanced shares."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from videollava.evaluate.batches import outline
from videollava.evaluate.planning import Plan, deal, make_plan
from videollava.evaluate.prompting import prompt_sample
from videollava.evaluate.questions import Item

WORDS = ("color", "shape", "side", "thing", "red circle", "blue square", "way")


def questions(media: int, each: int, mark: str = "<image>") -> list[Item]:
    return [
        Item(f"{m}-{n}", "", f"{mark}\nwhat {WORDS[n % 7]} {n} is it, {'really ' * (m % 4)}?", "", (f"p{m}",))
        for m in range(media)
        for n in range(each)
    ]


def planned(micro: Any, items: list[Item], tokens: int = 2000, **options: Any) -> Plan:
    """Checked to hold every question once, and no batch more than its budget."""
    found = make_plan(*micro, items, tokens, 4, **options)
    asked = [item.id for unit in found.units for item in unit.items]
    assert sorted([*asked, *found.unasked]) == sorted(item.id for item in items)
    for unit in found.units:
        for batch in unit.batches:
            outlines = [row.outline for row in batch]
            width = max(one.cut for one in outlines) + max(one.rest for one in outlines) + 4
            assert len(batch) == 1 or width * len(batch) <= tokens
            assert options.get("blind") or {m for row in batch for m in row.item.seen} <= unit.media.keys()
    return found


def test_no_medium_is_opened_and_lengths_are_those_of_the_prompts(micro: Any) -> None:
    """The media are not there at all."""
    model, tokenizer = micro
    two = [Item("two", "", "<image> and <video>, which?", "", ("a", "b")), Item("none", "", "what?", "")]
    items = [
        *questions(3, 2),
        *questions(2, 2, "<video>")[:1],
        *two,
        Item("end", "", "what is <image>", "", ("a",)),
    ]
    found = planned(micro, items)
    places = (model.config.image_token_id, model.config.video_token_id)
    for unit in found.units:
        for row in (row for batch in unit.batches for row in batch):
            kinds = Counter(kind for kind, _ in row.item.seen)
            blanks = [[None] * kinds[kind] for kind in ("image", "video")]
            sample = prompt_sample(model, tokenizer, row.item.question, *blanks)  # type: ignore[arg-type]
            alike = outline(sample, places)
            assert (row.outline.cut, row.outline.rest) == (alike.cut, alike.rest)


def test_all_of_a_medium_is_one_units(micro: Any) -> None:
    """Whether its questions fill less than a batch or several."""
    for each in (1, 3, 25, 70):
        units = planned(micro, questions(40, each)).units
        homes = Counter(medium for unit in units for medium in unit.media)
        assert set(homes.values()) == {1}
        assert len(units) > 3 or each == 1


def test_a_medium_of_nearly_all_questions_is_shared_by_ranks(micro: Any) -> None:
    units = planned(micro, questions(2, 900)).units
    assert len(units) >= 5
    assert max(unit.cost for unit in units) <= 8 * 2000


def test_features_of_a_unit_are_bounded(micro: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions about two videos each, in a ring: joined without a bound they were one unit."""
    from videollava.evaluate import planning

    ring = [Item(str(n), "", "<video><video> which?", "", (f"v{n}", f"v{(n + 1) % 30}")) for n in range(30)]
    bytes_each = micro[0].config.video_tokens() * 32 * 4
    monkeypatch.setattr(planning, "FEATURES", 6 * bytes_each)
    units = planned(micro, ring, 100).units
    assert {1} != {len(unit.batches) for unit in units}
    assert all(len(unit.media) <= 6 for unit in units)


def test_blinded_the_same_words_are_one_prompt(micro: Any) -> None:
    items = [Item(str(n), "", f"<image>\nwhat {WORDS[n % 7]}?", "", (f"p{n}",)) for n in range(70)]
    items.append(Item("v", "", "<video>\nwhat color?", "", ("p0",)))
    rows = [
        row for unit in planned(micro, items, blind=True).units for batch in unit.batches for row in batch
    ]
    assert sorted(len(row.items) for row in rows) == [1, *[10] * 7]
    assert len({row.outline.prefix for row in rows}) == 2
    seen = [row for unit in planned(micro, items).units for batch in unit.batches for row in batch]
    assert len(seen) == 71


def test_what_cannot_be_asked_is_told(micro: Any) -> None:
    found = planned(micro, [Item("long", "", "red " * 5000, ""), Item("empty", "", "<image>", "", ("a",))])
    assert found.units == []
    assert "1,024 positions" in found.unasked["long"]
    assert "question 'empty': the question is empty" in found.unasked["empty"]


def test_shares_are_balanced_and_every_place_is_dealt_once() -> None:
    costs = [1 + n * n % 97 for n in range(400)]
    for ranks in (1, 2, 3, 8):
        shares = deal(costs, ranks)
        assert sorted(place for share in shares for place in share) == list(range(400))
        loads = [sum(costs[place] for place in share) for share in shares]
        assert max(loads) - min(loads) <= max(costs)
        assert all(share == sorted(share) for share in shares)
    assert deal([], 3) == [[], [], []]
    assert deal([5], 3) == [[0], [], []]


def test_a_plan_takes_steps_in_proportion_to_its_questions(
    micro: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: looks at homes of media and moves between units; a list searched anew for each would be a square."""
    from videollava.evaluate import planning

    moved = []
    move = planning._move
    monkeypatch.setattr(
        planning, "_move", lambda less, *more: (moved.append(len(less.media)), move(less, *more))
    )
    counts = []
    for media in (100, 400):
        moved.clear()
        planned(micro, questions(media, 30))
        counts.append(sum(moved))
    assert 0 < counts[1] <= 8 * counts[0]
