"""Which option a free answer chooses, by the rules of MMBench's evaluation kit without its judge."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["choose", "lettered"]

REFUSED = "Z"  # the kit's letter for no option
MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
NEAR_END = 5
FAILURE = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def lettered(options: Mapping[str, str]) -> str:
    """The options as lines of a prompt, each after a line end."""
    return "".join(f"\n{letter}. {text}" for letter, text in options.items())


def choose(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option an answer chooses, "Z" for a refusal, None where the rules find none.

    One letter among the words, first met in the last four of them (the kit counts five less one); else the
    text of just one option in the answer, unless the answer is over twice as long as all options together.
    """
    return _by_letter(answer, options) or _by_text(answer.lower(), options)


def _by_letter(answer: str, options: Mapping[str, str]) -> str | None:
    if FAILURE in answer:
        return None
    if any(refusal in answer for refusal in REFUSALS):
        return REFUSED
    words = answer.translate(MARKS).split()
    found = [letter for letter in options if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - NEAR_END:
        return found[0]
    return REFUSED if not found and REFUSED in words else None


def _by_text(answer: str, options: Mapping[str, str]) -> str | None:
    if len(answer) > 2 * sum(len(text) for text in options.values()):
        return None
    found = [letter for letter, text in options.items() if text.lower() in answer]
    return found[0] if len(found) == 1 else None
