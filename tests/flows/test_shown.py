"""No credential reaches Prefect: not by a stage's output, a log, a traceback, an artifact or a state's message."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import prefect.artifacts
import pytest
from prefect.exceptions import ParameterTypeError

import flows.deployed  # sets up Prefect's loggers, so that a handler added afterwards stays
from flows.shown import Page, hide_in_failures, hide_in_logs, show_table
from flows.stages.stage import StageFailed
from videollava.process import OutputLines

URL = "https://user:s3cret/w?rd@host/x.tar?X-Amz-Signature=abcdef0123456789"
PARTS = ("s3cret", "w?rd", "abcdef0123456789")


def clean(text: object) -> bool:
    return not any(part in str(text) for part in PARTS)


@pytest.fixture
def records() -> Iterator[list[str]]:
    """What a handler writes, tracebacks included."""
    before, found = logging.getLogRecordFactory(), []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(self.format(record))

    handler = Keep()
    # Prefect's loggers do not hand on what they log, once it has set them up.
    loggers = [logging.getLogger(name) for name in ("somebody", "prefect.flows")]
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)
    logging.setLogRecordFactory(before)


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", ""])
def test_a_stages_output_is_scrubbed_for_the_log_and_for_who_watches(end: str) -> None:
    lines: list[str] = []
    echoed: list[str] = []
    output = OutputLines(lines.append, echoed.append)
    output._drawn = -100.0  # a bar is due
    for piece in (f"fetching {URL[:20]}", f"{URL[20:]}{end}"):
        output.feed(piece)
    output.close()
    assert len(lines) == 1
    assert lines[0].startswith("fetching https://***@host/x.tar")
    assert clean(lines)
    assert clean(echoed)


def test_logs_are_scrubbed_with_their_tracebacks(records: list[str]) -> None:
    hide_in_logs()
    hide_in_logs()  # twice is once
    log = logging.getLogger("somebody")
    log.warning("from %s", URL)
    log.warning("a plain %s stays %d", "one", 1)
    log.warning("%s {'token': 'abcdef0123456789'}", "said")
    try:
        raise OSError(f"cannot open {URL}")
    except OSError:
        log.exception("failed")
    assert records[1] == "a plain one stays 1"
    assert "OSError: cannot open https://***@host" in records[3]
    assert clean(records)


def test_parameters_of_the_wrong_kind_are_not_repeated_with_their_credentials(
    records: list[str],
) -> None:
    hide_in_failures(lambda: None)
    with pytest.raises(ParameterTypeError) as caught:
        flows.deployed.retrain.validate_parameters({"profile": [URL], "changes": URL, "push": URL})
    assert clean(caught.value)
    assert any("Parameter validation failed" in record for record in records)
    assert clean(records)


def test_failures_are_scrubbed_and_others_are_as_they_were(records: list[str]) -> None:
    @hide_in_failures
    def fail(error: Exception) -> None:
        """What it says."""
        raise error

    assert fail.__doc__ == "What it says."
    with pytest.raises(RuntimeError, match=r"OSError: cannot open https://\*\*\*@host") as caught:
        fail(OSError(f"cannot open {URL}"))
    assert clean(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(KeyError, match="plain"):
        fail(KeyError("plain"))
    assert clean(StageFailed("fetch", 1, [f"from {URL}"]))


def test_artifacts_are_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[object] = []
    for name in ("create_table_artifact", "create_markdown_artifact"):
        monkeypatch.setattr(prefect.artifacts, name, lambda *args, **kwargs: sent.append((args, kwargs)))
    show_table([{"source": URL, "score": 0.5, "more": [URL]}], "scores", f"of {URL}")
    Page("page", URL).write(f"# {URL}")
    assert clean(sent)
    assert "'score': 0.5" in str(sent[0])
    assert "# https://***@host/x.tar" in str(sent[1])


def test_a_page_whose_server_is_away_warns_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise httpx.ConnectError(f"no {URL}")

    monkeypatch.setattr(prefect.artifacts, "create_markdown_artifact", fail)
    page = Page("page", "of a retraining")
    for _ in range(3):
        page.write("# words")
    (record,) = caplog.records
    assert record.getMessage().startswith("the page page is not written: no https://***@host")
