"""A version's model under this code: loaded by its model_config, in this process or at the other end of `Apart`."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from videollava.registry.manifest import Manifest, cache_of, materialise, model_cache
from videollava.registry.store import Store
from videollava.serve.assistant import load
from videollava.serve.rows import read_rows

__all__ = ["open_model"]

Answer = Callable[[Iterable[Any]], list[str]]


def open_model(config: Mapping[str, Any], workspace: Path, roots: Sequence[str]) -> Answer:
    """What answers rows of question, images, videos. roots: the only folders whose files a row may name.

    InputError where the version's files cannot be had.
    """
    places = [*(Store.from_config(place) for place in config["stores"]), cache_of(workspace)]
    folder = materialise(Manifest.from_config(config), places, model_cache(workspace))
    assistant = load(folder, media_roots=list(roots))
    return lambda rows: list(assistant.answer_batch(read_rows(rows)))


def _serve() -> None:
    """The other end of `Apart`: what comes in on stdin is answered on stdout, until stdin ends."""
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    answer: Answer | None = None
    while True:
        try:
            what = pickle.load(given)
        except EOFError:
            return
        try:
            if answer is None:
                config, workspace, roots = what
                answer, reply = open_model(config, Path(workspace), roots), None
            else:
                reply = answer(what)
            told: tuple[bool, list[str] | str | None] = (True, reply)
        except ValueError as error:  # InputError too; what else is raised ends this process
            told = (False, str(error))
        pickle.dump(told, answers)
        answers.flush()


if __name__ == "__main__":
    _serve()
