"""What a person sees while a stage trains: a live bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

__all__ = ["Progress"]

LINE_EVERY = 10.0  # seconds between lines where there is no terminal


class Progress:
    """Steps done, losses, tokens per second and time left."""

    def __init__(self, name: str, steps: int, start: int, shown: bool) -> None:
        self.name, self.steps, self.start, self.shown = name, steps, start, shown
        self.began = self.spoken = time.monotonic()
        self.live = shown and sys.stderr.isatty()
        self.held_out: Mapping[str, float] = {}  # as it was last measured, by what it's called here

    def advance(self, step: int, values: Mapping[str, float]) -> None:
        """`step` steps are done; `values` are the last one's metrics."""
        if not self.shown:
            return
        now = time.monotonic()
        last = step == self.steps
        if not (last or self.live or now - self.spoken >= LINE_EVERY):
            return
        self.spoken = now
        done = max(1, step - self.start)
        left = (now - self.began) / done * (self.steps - step)
        parts = [f"{self.name} {step}/{self.steps} ({step / self.steps:.0%})", f"loss {values['loss']:.4f}"]
        parts += [f"{called} {value:.4g}" for called, value in self.held_out.items()]
        if "tokens_per_second" in values:
            parts.append(f"{values['tokens_per_second']:,.0f} tokens/s")
        if "mfu" in values:
            parts.append(f"MFU {values['mfu']:.1%}")
        text = "  ".join([*parts, f"{_clock(left)} left"])
        if self.live:
            filled = round(24 * step / self.steps)
            sys.stderr.write(f"\r\x1b[K{'━' * filled}{'╌' * (24 - filled)} {text}")
            sys.stderr.flush()
        else:
            print(text, flush=True)

    def close(self) -> None:
        """End the line of a live bar."""
        if self.live:
            sys.stderr.write("\n")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
