"""The benchmarks by id, each one file behind one interface: questions, score, submission, what to ask a
judge.
"""

from __future__ import annotations

import difflib

from videollava.errors import InputError
from videollava.evaluate.benchmarks import (
    activitynet_exact,
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mme,
    pope,
    scienceqa,
    seed,
    textvqa,
    tiny,
    video_chatgpt,
    video_choice,
    video_qa,
    vizwiz,
    vqav2,
)
from videollava.evaluate.benchmarks.interface import Benchmark, Question

__all__ = ["Benchmark", "Question", "get", "names"]

_BENCHMARKS = {
    benchmark.id: benchmark
    for benchmark in (
        vqav2.BENCHMARK,
        gqa.BENCHMARK,
        vizwiz.BENCHMARK,
        scienceqa.BENCHMARK,
        textvqa.BENCHMARK,
        pope.BENCHMARK,
        mmbench.BENCHMARK,
        llava_bench.BENCHMARK,
        mm_vet.BENCHMARK,
        mme.BENCHMARK,
        seed.BENCHMARK,
        *video_qa.BENCHMARKS,
        activitynet_exact.BENCHMARK,
        *video_chatgpt.BENCHMARKS,
        video_choice.BENCHMARK,
        *tiny.BENCHMARKS,
    )
}


def names() -> tuple[str, ...]:
    """Ids of all benchmarks, in the order of the paper's tables."""
    return tuple(_BENCHMARKS)


def get(name: str) -> Benchmark:
    """The benchmark of an id; InputError with the nearest id for another name."""
    if name not in _BENCHMARKS:
        near = difflib.get_close_matches(name.lower(), _BENCHMARKS, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no benchmark {name!r}{hint}; there are: {', '.join(_BENCHMARKS)}")
    return _BENCHMARKS[name]
