"""Asking a judge about many answers: planned first, cached, bounded, concurrent, and resumed after a kill.

replies = judge_answers("msvd", gold, answers, open_judge(params.evaluate.judge), folder)
figures = score("msvd", gold, answers, replies)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from videollava.errors import InputError
from videollava.evaluate import benchmarks
from videollava.evaluate.benchmarks.interface import Benchmark
from videollava.evaluate.benchmarks.replies import read_replies
from videollava.evaluate.judge_cache import Cache, Entry, key_of
from videollava.evaluate.judge_endpoint import (
    Endpoint,
    Judge,
    LocalModel,
    Replay,
    key_from,
)
from videollava.evaluate.judge_prompts import Ask, Reader, first_usable
from videollava.evaluate.judge_run import Limits, Run
from videollava.params import Judge as JudgeParams

__all__ = [
    "Cache",
    "Judged",
    "Limits",
    "Plan",
    "judge_answers",
    "judge_asks",
    "limits_of",
    "open_judge",
    "plan",
]

CHARACTERS_A_TOKEN = 4  # a rough average of English

# The verdict on an answer that was never given, whoever judges. (A pair of ratings needs the judge for the other
# answer's; what is to be graded and missing has 0 without a reply.)
UNSEEN = {"literal": "{'pred': 'no', 'score': 0}"}


@dataclass(frozen=True)
class Plan:
    """What judging will take: asks, those in the cache, calls without retries, tokens, cost."""

    judge: str
    asks: int
    cached: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    max_calls: int

    def __str__(self) -> str:
        cost = "cost unknown (no price given)" if self.cost is None else f"at most about {self.cost:.2f}"
        cut = f"; stops at {self.max_calls}, before the end" if self.calls > self.max_calls else ""
        return (
            f"judge {self.judge}: {self.asks} answers, {self.cached} in the cache, {self.calls} calls to "
            f"make "
            f"(about {self.tokens_in:,} tokens in, at most {self.tokens_out:,} out; {cost}){cut}"
        )


@dataclass
class Judged:
    """What came of it. `replies` hold each settled ask's attempts by id (by run within, where there are
    several); `invalid` are ids without a readable reply, `failed` ids the judge could not be reached for,
    and `problem` the last failure to.
    """

    judge: str
    prompt: str
    reader: Reader = "official"
    replies: dict[str, Any] = field(default_factory=dict)
    versions: set[str] = field(default_factory=set)
    calls: int = 0
    cached: int = 0
    invalid: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    stopped: bool = False
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether every ask was settled."""
        return not self.stopped and not self.failed

    def add(self, ask: Ask, entry: Entry, runs: int) -> None:
        """Take up an ask's entry, in its place where the asks have several runs."""
        if runs == 1:
            self.replies[ask.id] = list(entry.replies)
        else:
            self.replies.setdefault(ask.id, [[] for _ in range(runs)])[ask.run] = list(entry.replies)
        if entry.version:
            self.versions.add(entry.version)
        if first_usable(ask.prompt, entry.replies, self.reader) is None:
            self.invalid.append(ask.id)

    def write(self, path: Path) -> None:
        """Replies with the judge's name, version, prompt hash and reader, as `score` reads them; written aside
        and renamed.
        """
        judge = {"name": self.judge, "version": ", ".join(sorted(self.versions)), "prompt": self.prompt}
        if self.reader != "official":  # the official one goes without saying
            judge["reader"] = self.reader
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".part")
        aside.write_text(json.dumps({"judge": judge, "replies": self.replies}, indent=1))
        os.replace(aside, path)


def open_judge(params: JudgeParams) -> Judge | None:
    """The judge that the parameters name, None for kind "none". An endpoint's key comes from the
    environment.
    """
    if params.kind == "endpoint":
        key = key_from(base_url=params.base_url)
        return Endpoint(
            params.base_url, params.model, key, params.timeout, params.max_tokens, params.key_header
        )
    if params.kind == "local":
        return LocalModel(params.model, params.max_tokens)
    if params.kind == "replay":
        return Replay(read_replies(Path(params.replies) if params.replies else None))
    return None


def limits_of(params: JudgeParams) -> Limits:
    """The limits that the parameters set."""
    return Limits(
        concurrency=params.concurrency,
        retries=params.retries,
        max_calls=params.max_calls,
        per_minute=params.per_minute,
        price_in=params.price_in,
        price_out=params.price_out,
        reader=params.reader,
        max_unread=params.max_unread,
        max_tokens=params.max_tokens,
    )


def plan(asks: Sequence[Ask], judge: Judge, cache: Cache | None, limits: Limits | None = None) -> Plan:
    """What asking will take, before any call."""
    limits = limits or Limits()
    waiting = _waiting(asks, judge, cache, limits)
    known = sum(key_of(judge.name, ask) not in waiting for ask in asks)
    tokens_in = (
        sum(len(m["content"]) for ask in waiting.values() for m in ask.messages()) // CHARACTERS_A_TOKEN
    )
    tokens_out = sum(map(limits.room, waiting.values()))
    priced = limits.price_in or limits.price_out
    cost = (tokens_in * limits.price_in + tokens_out * limits.price_out) / 1e6 if priced else None
    return Plan(judge.name, len(asks), known, len(waiting), tokens_in, tokens_out, cost, limits.max_calls)


def judge_asks(
    asks: Sequence[Ask],
    judge: Judge,
    cache: Cache | None = None,
    limits: Limits | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> Judged:
    """Settle every ask, from the cache or by the judge; `show` gets the plan first, then progress.

    Asks that differ in nothing but the id are put once. An ask ends with a readable reply, or after
    `retries` further calls. At `max_calls` calls all ends, and where more than `max_unread` of the answers have no
    readable reply; what was replied is kept, in the result and in the cache, and read again by whichever reader
    comes next. InputError where the endpoint refuses (key, model, address).
    """
    limits = limits or Limits()
    hashes = {ask.prompt.hash for ask in asks}
    if len(hashes) > 1:
        raise InputError("asks of several prompts: judge them one by one, since a score has one prompt")
    show(str(plan(asks, judge, cache, limits)))
    judged = Judged(judge.name, next(iter(hashes), ""), limits.reader)
    waiting = _waiting(asks, judge, cache, limits)
    keyed = {key_of(judge.name, ask): ask for ask in asks}
    run = Run(judge, cache, limits, len(keyed))
    for key, ask in keyed.items():
        if key not in waiting and cache is not None:
            run.count(ask, cache.get(key))
    settled = run.ask_all(waiting, show)
    judged.calls, judged.stopped, judged.problem = run.calls, run.stop.is_set(), run.problem
    runs = 1 + max((ask.run for ask in asks), default=0)
    for ask in asks:
        key = key_of(judge.name, ask)
        entry = settled.get(key) or (cache.get(key) if cache and key not in waiting else None)
        judged.cached += key not in waiting
        if entry is not None:
            judged.add(ask, entry, runs)
        elif not judged.stopped:
            judged.failed.append(ask.id)
    return judged


def judge_answers(
    benchmark: str | Benchmark,
    gold: Sequence[Path],
    answers: Path,
    judge: Judge,
    folder: Path,
    limits: Limits | None = None,
    show: Callable[[str], None] = lambda line: None,
    *,
    runs: int = 1,
    unseen: Collection[str] = (),
    verdicts: Path | None = None,
) -> Path:
    """Judge an answers file; gives the file of replies, `folder`/<benchmark>.replies.json, that `score`
    takes.

    Verdicts are kept in `verdicts` (by default `folder`/verdicts.jsonl), so that what was done before a stop
    is not asked again. `runs` judgements are made of each answer where the benchmark averages several. Ids in
    `unseen` are wrong without asking: their medium was missing. InputError where not all could be judged,
    since half a score is none.
    """
    one = benchmarks.get(benchmark) if isinstance(benchmark, str) else benchmark
    if one.asks is None:
        raise InputError(f"{one.id} has its own metric: it takes no judge")
    asks = one.asks(gold, answers)
    wrong = [ask for ask in asks if ask.id in unseen and ask.prompt.reply in UNSEEN]
    left = {ask.id for ask in wrong}
    put = [ask for ask in asks if ask.id not in left]
    if one.runs:
        put = [replace(ask, run=run) for run in range(runs) for ask in put]
    # Recorded replies cost nothing, and another record may bear the same judge's name.
    cache = None if isinstance(judge, Replay) else Cache(verdicts or folder / "verdicts.jsonl")
    judged = judge_asks(put, judge, cache, limits, show)
    if isinstance(judge, Endpoint) and judge.lessons:
        show(
            f"judge {judge.name} refuses what others take; it was asked with: {', '.join(sorted(judge.lessons))}"
        )
    if not judged.complete:
        cause = judged.problem or f"the cap of {judged.calls} calls (evaluate.judge.max_calls) was reached"
        raise InputError(f"{one.id}: {len(judged.replies)} answers judged and kept, the rest not: {cause}")
    for ask in wrong:
        judged.prompt = ask.prompt.hash
        judged.replies[ask.id] = [UNSEEN[ask.prompt.reply]]
    replies = folder / f"{one.id}.replies.json"
    judged.write(replies)
    return replies


def _waiting(asks: Sequence[Ask], judge: Judge, cache: Cache | None, limits: Limits) -> dict[str, Ask]:
    """The asks that need the judge, one of each key."""
    keyed = {key_of(judge.name, ask): ask for ask in asks}
    return {key: ask for key, ask in keyed.items() if not (cache and limits.settles(ask, cache.get(key)))}
