"""Pooling, power and the honest sentence, on cases worked by hand."""

from __future__ import annotations

import math

import pytest

from flows.claims.arms import CLAIMS
from flows.claims.pooled import Pooled, decide, pool, sentence, word_of
from flows.claims.power import Assumed, Plan, smallest_difference
from videollava.errors import InputError
from videollava.evaluate.results import Answer, Results

CLAIM = CLAIMS[0]


def results(right: str, media: str = "") -> Results:
    """A benchmark whose questions are right where `right` has a 1; about the media named, by default each its own."""
    answers = {}
    for number, digit in enumerate(right):
        medium = media[number] if media else str(number)
        answers[str(number)] = Answer(
            str(number),
            "color",
            "what color?",
            "red",
            digit,
            digit == "1",
            100.0 * int(digit),
            (medium,),
            (medium,),
        )
    return Results("easy_vqa", answers)


def test_pooled_differences_are_those_of_all_questions_of_all_seeds() -> None:
    base = {0: results("1110"), 1: results("1111")}
    other = {
        0: results("1010"),
        1: results("1000"),
        7: results("0000"),
    }  # a seed that only one has is left out
    found = pool(("aligned", "separate"), base, other)
    assert found.by_seed == {0: 25.0, 1: 75.0}
    assert (found.paired.n, found.paired.media) == (8, 4)
    assert (found.paired.b, found.paired.a, found.paired.difference) == (87.5, 37.5, 50.0)
    assert (found.paired.gained, found.paired.lost) == (4, 0)
    # Media 1, 2 and 3 changed by +2, +1 and +1 questions: of eight signs two give a sum of 4.
    assert found.paired.p == pytest.approx(2 / 8)
    # Student's with one degree of freedom: 12.706 times 25.
    assert found.seeds.value == 50.0
    assert found.seeds.high - 50 == pytest.approx(12.706 * 25, rel=1e-3)


def test_questions_about_one_medium_are_one_draw() -> None:
    found = pool(("y", "x"), {0: results("111111")}, {0: results("000000")})
    assert found.paired.p == pytest.approx(2 / 64)
    tied = pool(("y", "x"), {0: results("111111", "aaabbb")}, {0: results("000000", "aaabbb")})
    assert tied.paired.p == pytest.approx(2 / 4)


def test_arms_without_a_common_seed_are_refused() -> None:
    with pytest.raises(InputError, match="y and x: have no seed in common"):
        pool(("y", "x"), {0: results("1")}, {1: results("1")})


def many(seeds: int, better: int, worse: int = 0, of: int = 40) -> Pooled:
    """The base right where the other is wrong on `better` questions, and the other way round on `worse`; seed k has k
    more of the former.
    """
    base, other = {}, {}
    for seed in range(seeds):
        gained = better + seed
        rest = "1" * (of - gained - worse)
        base[seed] = results("1" * gained + "0" * worse + rest)
        other[seed] = results("0" * gained + "1" * worse + rest)
    return pool(("aligned", "separate"), base, other)


def test_a_word_needs_both_questions_and_seeds() -> None:
    assert word_of(many(3, 12)) == "holds here"
    assert word_of(many(3, 0, 12)) == "does not hold here"
    assert word_of(many(1, 20)) == "undecided"  # one seed
    assert word_of(many(3, 0, 1)) == "undecided"  # seeds fall on both sides
    few = many(2, 20)
    assert few.paired.p < 1e-6
    assert word_of(few, tests=2) == "holds here"
    apart = pool(
        ("y", "x"),
        {0: results("1" * 40), 1: results("1" * 40)},
        {0: results("0" * 39 + "1"), 1: results("1" * 40)},
    )
    assert apart.paired.p < 1e-6
    assert word_of(apart) == "undecided"  # the questions are sure of these models, the seeds not of the next


def near(seeds: int, of: int = 4000, apart: int = 0) -> Pooled:
    """Arms that disagree on eight questions of each seed, as often one way as the other, but for `apart`."""
    base = {seed: results("1" * (4 + apart) + "0" * (4 - apart) + "1" * (of - 8)) for seed in range(seeds)}
    other = {seed: results("0" * (4 + apart) + "1" * (4 - apart) + "1" * (of - 8)) for seed in range(seeds)}
    return pool(("aligned", "separate"), base, other)


def test_arms_that_surely_lie_within_a_point_do_not_differ() -> None:
    assert word_of(near(3)) == "no difference"
    assert word_of(near(3, of=400)) == "undecided"  # too few questions to exclude a point
    assert word_of(near(1)) == "undecided"  # one seed
    small = near(3, apart=4)
    assert small.seeds.value == pytest.approx(0.2)
    assert word_of(small) == "holds here"  # small, and surely there


def test_a_claim_holds_where_one_contrast_does_and_none_is_reversed() -> None:
    holds, reverse, open_ = many(3, 12), many(3, 0, 12), many(3, 0, 1)
    assert decide([holds, open_]) == "holds here"
    assert decide([reverse, open_]) == "does not hold here"
    assert decide([holds, reverse]) == "undecided"
    assert decide([open_]) == "undecided"
    assert decide([near(3), near(3)]) == "no difference"
    assert decide([near(3), open_]) == "undecided"
    assert decide([near(3), holds]) == "holds here"


def test_sentences_say_the_word_and_the_numbers() -> None:
    said = sentence(CLAIM, [many(3, 12)])
    assert said.startswith("(a) holds here: aligned encoders answer better than separately learned ones. ")
    assert (
        "easy_vqa, aligned against separate: +32.5 [+26.3, +38.7 at 95 %] points over 3 seeds (ahead in 3), p <0.001"
        in said
    )
    assert sentence(CLAIM, [many(1, 20)]).startswith("(a) undecided: one seed says nothing about the next. ")
    assert "does not hold here: separately learned encoders" in sentence(CLAIM, [many(3, 0, 12)])
    over = many(3, 0, 1)
    assert (
        f"a difference was not shown; differences beyond {-over.seeds.low:.1f} points are excluded. easy_vqa"
        in (sentence(CLAIM, [over]))
    )
    assert "reversed on another" in sentence(CLAIM, [many(3, 12), many(3, 0, 12)])
    assert "(a) no difference: it makes no difference of a point or more. easy_vqa, aligned" in sentence(
        CLAIM, [near(3)]
    )
    assert "another leaves it open" in sentence(CLAIM, [near(3), many(3, 0, 1)])
    assert sentence(CLAIM, []) == "(a) not run: no seed has both arms."


def test_power_is_that_of_the_formula_worked_by_hand() -> None:
    one = Assumed(discordance=0.25, within=0.0, spread=0.0)
    # 100 sqrt(0.25 / 2500) is one point; 1.960 + 0.842 of them.
    assert smallest_difference(Plan(2500, 2500, 1), one)[0] == pytest.approx(2.8016, abs=1e-3)
    assert smallest_difference(Plan(2500, 2500, 1), one)[1] == math.inf
    # Four seeds: half of it by questions; Student's with three degrees of freedom for the recipe (3.182 + 0.978).
    answers, recipe = smallest_difference(Plan(2500, 2500, 4), one)
    assert answers == pytest.approx(1.4008, abs=1e-3)
    assert recipe == pytest.approx(0.5 * (3.1824 + 0.9785), abs=1e-3)
    # Ten questions a medium that correlate by 0.1: the variance is 1.9 times as large.
    tied = smallest_difference(Plan(2500, 250, 1), Assumed(0.25, 0.1, 0.0))[0]
    assert tied == pytest.approx(2.8016 * math.sqrt(1.9), abs=1e-3)
    # Seeds that lie two points apart: 2 / sqrt(4) beside the half point of the questions.
    spread = smallest_difference(Plan(2500, 2500, 4), Assumed(0.25, 0.0, 2.0))[1]
    assert spread == pytest.approx(math.sqrt(0.25 + 1.0) * (3.1824 + 0.9785), abs=1e-3)
    with pytest.raises(InputError, match="at least 1"):
        smallest_difference(Plan(10, 0, 1))
