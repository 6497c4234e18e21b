"""One run of asking a judge: threads, pace, retries, the bound on calls, and on answers that cannot be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace

from videollava.evaluate.judge_cache import Cache, Entry
from videollava.evaluate.judge_endpoint import Completion, Exhausted, Judge, Transient
from videollava.evaluate.judge_prompts import Ask, Reader, first_usable
from videollava.train.launch.pulse import beat

__all__ = ["Limits", "Run"]

SHOWN_EVERY = 10.0  # seconds
PATIENCE = 600.0  # seconds that a server may ask to wait; one that asks for more is asked another day
OUTAGES_A_THREAD = 3  # asks in a row that found no judge, after which a run ends
EARLY = 10  # unread answers, after which a run need not come to its end to be stopped
FAR_OVER = 4  # times the share that may be unread
SHOWN = 200  # characters of a reply in an error


@dataclass(frozen=True)
class Limits:
    """How hard a judge is asked, and how its replies are read. `retries` bounds the calls of one ask beyond its
    first, `max_calls` those of all; `per_minute` 0 sets no rate. Waits after a failure start at `pause` seconds,
    double, and end at `longest_pause`; what a server asks for
    counts where it is longer, to ten minutes. Prices are in currency units for a million tokens, 0 where unknown.
    max_unread: the share of answers without a readable reply, above which all ends. max_tokens: of a reply, 0 for
    what the prompt needs.
    """

    concurrency: int = 4
    retries: int = 5
    max_calls: int = 10_000
    per_minute: float = 0.0
    pause: float = 1.0
    longest_pause: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0
    reader: Reader = "official"
    max_unread: float = 0.05
    max_tokens: int = 0

    def settles(self, ask: Ask, entry: Entry | None) -> bool:
        """Whether nothing is left to ask: a reply can be read, or no further one is wanted or would come."""
        if entry is None:
            return False
        if first_usable(ask.prompt, entry.replies, self.reader) is not None:
            return True
        return (entry.final or len(entry.replies) > self.retries) and self.room(ask) <= (
            entry.room or self.room(ask)
        )

    def room(self, ask: Ask) -> int:
        """The most tokens of a reply."""
        return self.max_tokens or ask.prompt.max_tokens


class Run:
    """What the threads of one run share: the calls made, the pace, the answers unread, the sign to stop."""

    def __init__(self, judge: Judge, cache: Cache | None, limits: Limits, total: int) -> None:
        self.judge, self.cache, self.limits, self.total = judge, cache, limits, total
        self.calls = 0
        self.problem = ""
        self.stop = threading.Event()
        self._outages = 0  # asks given up in a row because the judge could not be reached
        self._settled = 0
        self._unread: list[tuple[Ask, Entry]] = []
        self._lock = threading.Lock()
        self._free_at = 0.0  # when the next call may start

    def ask_all(self, waiting: dict[str, Ask], show: Callable[[str], None]) -> dict[str, Entry]:
        """Settle all that wait, several at a time; entries by key."""
        settled: dict[str, Entry] = {}
        shown = time.monotonic()
        with ThreadPoolExecutor(max(1, self.limits.concurrency)) as pool:
            futures = [pool.submit(self.settle, key, ask) for key, ask in waiting.items()]
            try:
                for future in as_completed(futures):
                    entry = future.result()
                    if entry is not None:
                        settled[entry.key] = entry
                    if time.monotonic() - shown > SHOWN_EVERY:
                        shown = time.monotonic()
                        show(f"judged {len(settled)} of {len(waiting)}, {self.calls} calls")
            except BaseException:
                self.stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return settled

    def settle(self, key: str, ask: Ask) -> Entry | None:
        """The ask's entry, in the cache; None where the run stopped or the judge could not be reached."""
        had = self.cache.get(key) if self.cache else None
        entry = had or Entry(key, self.judge.name, "", ask.prompt.hash, ask.id, (), usable=False)
        room = self.limits.room(ask)
        # With more room for a reply, what was cut or unreadable before is asked anew.
        left = self.limits.retries + 1 - (len(entry.replies) if room <= (entry.room or room) else 0)
        failures = 0
        while left > failures:
            if not self._may_call():
                return None
            try:
                said = self.judge.complete(ask, len(entry.replies))
            except Transient as failure:
                failures += 1
                self.problem = self.problem if self.stop.is_set() else str(failure)
                self._hold(failure, failures)
                continue
            except Exhausted:
                break
            left -= 1
            usable = ask.prompt.usable(said.text, self.limits.reader)
            entry = self._keep(_with(entry, said, room, usable))
            if entry.usable or entry.final:
                break
        if failures and not self.limits.settles(ask, entry):  # an outage is no verdict
            self._give_up()
            return None
        self.count(ask, entry)
        return entry

    def count(self, ask: Ask, entry: Entry | None) -> None:
        """Take up a settled ask; where too many cannot be read, the run ends."""
        with self._lock:
            self._settled += 1
            if entry is not None and first_usable(ask.prompt, entry.replies, self.limits.reader) is None:
                self._unread.append((ask, entry))
                stopped = self.stop.is_set() and self.problem  # by another thread, which has said why
                if not stopped and self._too_many():
                    self.problem = self._complaint()
                    self.stop.set()

    def _too_many(self) -> bool:
        """Whether more is unread than may be at the end, or far more so far: then nothing is bought in vain."""
        unread, share = len(self._unread), self.limits.max_unread
        if share >= 1:
            return False
        if unread >= EARLY and unread > FAR_OVER * share * self._settled:
            return True
        return unread == self.total or (unread > share * self.total and (unread > 1 or not share))

    def _complaint(self) -> str:
        ask, entry = self._unread[0]
        said = (entry.replies or ("",))[-1]
        example = repr(said if len(said) <= SHOWN else said[:SHOWN] + "..")
        note = f" ({entry.note})" if entry.note else ""
        plainer = sum(first_usable(a.prompt, e.replies, "tolerant") is not None for a, e in self._unread)
        remedy = "look at the judge's replies"
        if plainer and self.limits.reader == "official":
            remedy = f"evaluate.judge.reader=tolerant reads {plainer:,} of them (a score that says so)"
        elif any("limit of tokens" in e.note or "reasoning" in e.note for _, e in self._unread):
            remedy = f"raise evaluate.judge.max_tokens (now {self.limits.room(ask)})"
        return (
            f"of {self._settled:,} answers judged so far (of {self.total:,}) {len(self._unread):,} have no reply that "
            f"the {self.limits.reader} reader reads, such as {ask.id!r}: {example}{note}; {remedy}, or allow more by "
            "evaluate.judge.max_unread; replies are kept, and none is bought again"
        )

    def _give_up(self) -> None:
        self._outages += 1
        if self._outages >= OUTAGES_A_THREAD * self.limits.concurrency:
            self.stop.set()

    def _keep(self, entry: Entry) -> Entry:
        self._outages = 0
        beat()
        if self.cache is not None:
            self.cache.put(entry)
        return entry

    def _may_call(self) -> bool:
        """Wait for this call's turn and count it; False where the run has stopped or the cap is reached."""
        while not self.stop.is_set():
            with self._lock:
                now = time.monotonic()
                wait = self._free_at - now
                if wait <= 0:
                    if self.calls >= self.limits.max_calls:
                        self.stop.set()
                        return False
                    self.calls += 1
                    self._free_at = now + (60 / self.limits.per_minute if self.limits.per_minute else 0.0)
                    return True
            self.stop.wait(min(wait, PATIENCE))
        return False

    def _hold(self, failure: Transient, failures: int) -> None:
        """Wait after a failed call; a server that is overrun is left alone by all threads."""
        if failure.after > PATIENCE:
            self.problem = f"{failure}; it asks to wait {failure.after:,.0f} s: start again then"
            self.stop.set()
            return
        doubled = self.limits.pause * 2.0 ** min(failures - 1, 64)
        pause = max(failure.after, min(self.limits.longest_pause, doubled))
        if failure.throttled:
            with self._lock:
                self._free_at = max(self._free_at, time.monotonic() + pause)
        else:
            self.stop.wait(pause)


def _with(entry: Entry, said: Completion, room: int, usable: bool) -> Entry:
    longer = replace(entry, version=said.version, replies=(*entry.replies, said.text), usable=usable)
    return replace(longer, note=said.note, final=said.final, room=room)
