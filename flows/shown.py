"""What Prefect shows and keeps (log lines, artifacts, failures), without credentials: the one way there."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from videollava.scrub import scrub, scrub_all

__all__ = ["Page", "hide_in_failures", "hide_in_logs", "show_table", "show_text"]

P = ParamSpec("P")
R = TypeVar("R")


def hide_in_logs() -> None:
    """From now on no log record of this process holds a credential, whoever writes it; tracebacks neither."""
    make = logging.getLogRecordFactory()
    if getattr(make, "hides", False):
        return

    def make_hidden(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
        except Exception:  # a wrong format: logging itself complains of it
            return record
        if (shown := scrub(text)) != text:
            record.msg, record.args = shown, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = scrub(logging.Formatter().formatException(record.exc_info))
        return record

    make_hidden.hides = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_hidden)


def hide_in_failures(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, whose errors Prefect may keep: one whose text holds a credential becomes a RuntimeError without.

    From here on no log record holds one either: Prefect logs a flow's parameters before it calls it, where they are
    of the wrong kind.
    """
    hide_in_logs()

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        hide_in_logs()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            if scrub(text) == text:
                raise
            raise RuntimeError(scrub(text)).with_traceback(error.__traceback__) from None

    return run


def show_table(rows: Sequence[Mapping[str, Any]], key: str, description: str) -> None:
    """A Prefect table artifact."""
    from prefect.artifacts import create_table_artifact

    create_table_artifact(scrub_all([dict(row) for row in rows]), key=key, description=scrub(description))


def show_text(markdown: str, key: str, description: str) -> None:
    """A Markdown artifact that is written once."""
    Page(key, description).write(markdown)


class Page:
    """A Markdown artifact of this flow run that is written anew as things go on. Where Prefect does not answer, a
    warning says so once, and the next time may succeed.
    """

    def __init__(self, key: str, description: str) -> None:
        self._key = key
        self._description = scrub(description)
        self._made: Any = None
        self._warned = False

    def write(self, markdown: str) -> None:
        """The page as it is to be seen from now on."""
        from httpx import HTTPError

        try:
            self._write(scrub(markdown))
        except HTTPError as error:
            if not self._warned:
                logging.getLogger(__name__).warning(
                    "the page %s is not written: %s", self._key, scrub(str(error))
                )
            self._warned = True

    def _write(self, markdown: str) -> None:
        from prefect.artifacts import create_markdown_artifact
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.actions import ArtifactUpdate

        if self._made is None:
            self._made = create_markdown_artifact(markdown, key=self._key, description=self._description)
            return
        with get_client(sync_client=True) as client:
            client.update_artifact(self._made, ArtifactUpdate(data=markdown))
