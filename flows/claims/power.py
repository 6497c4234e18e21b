"""The smallest difference that a plan of so many questions, media and seeds would decide, stated before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit

from videollava.errors import InputError

__all__ = ["ASSUMED", "Assumed", "Plan", "smallest_difference"]

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True)
class Assumed:
    """What is assumed of two models: the share of questions on which one is right and the other wrong (`discordance`),
    how alike such changes are within a medium (`within`, a correlation), and how far apart the true differences of two
    seeds lie (`spread`, a standard deviation in points).
    """

    discordance: float = 0.25
    within: float = 0.1
    spread: float = 2.0


ASSUMED = Assumed()


@dataclass(frozen=True)
class Plan:
    """questions, about `media`, asked of both models of each of `seeds`."""

    questions: int
    media: int
    seeds: int


def smallest_difference(plan: Plan, assumed: Assumed = ASSUMED, tests: int = 1) -> tuple[float, float]:
    """In points, four times in five decided at 5 % (divided by `tests` of one claim): by questions of these very
    models, and of the recipe, of which seeds are a sample (infinite for one seed).

    The mean of paired differences in {-100, 0, 100} has the variance 100^2 discordance / questions, times
    1 + (questions a medium - 1) within for the clusters; questions of several seeds are taken as independent draws.
    Seeds add spread^2 / seeds, and Student's distribution takes the normal one's place.
    """
    if min(plan.questions, plan.media, plan.seeds) < 1:
        raise InputError(f"power: questions, media and seeds must be at least 1, not {plan}")
    together = 1 + (plan.questions / plan.media - 1) * assumed.within
    by_questions = 100**2 * assumed.discordance * together / (plan.questions * plan.seeds)
    tail, usual = 1 - LEVEL / tests / 2, POWER
    answers = (ndtri(tail) + ndtri(usual)) * math.sqrt(by_questions)
    if plan.seeds < 2:
        return float(answers), math.inf
    free = plan.seeds - 1
    whole = math.sqrt(by_questions + assumed.spread**2 / plan.seeds)
    return float(answers), float((stdtrit(free, tail) + stdtrit(free, usual)) * whole)
