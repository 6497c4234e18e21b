"""Endpoints as people find them: forms of a reply, settings refused, addresses, keys, proxies, certificates."""

from __future__ import annotations

import gzip
import json
import ssl
import time
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from judge_server import Act, Log, serve

from videollava.errors import InputError
from videollava.evaluate import judge_endpoint
from videollava.evaluate.judge import Cache, Limits, judge_asks
from videollava.evaluate.judge_dialects import (
    Refusal,
    addresses,
    outcome_of,
    read_completion,
    seconds_to_wait,
)
from videollava.evaluate.judge_endpoint import Completion, Endpoint, Transient, key_from
from videollava.evaluate.judge_prompts import MATCH, Ask

YES = "{'pred': 'yes', 'score': 4}"
ASK = Ask("k1", MATCH, "what?", "dog", "a dog")
QUICK = Limits(concurrency=1, retries=2, pause=0.001, longest_pause=0.01)


def said(log: Log, **options: Any) -> Completion:
    return Endpoint(log.url, "fake", **options).complete(ASK, 0)


def message(content: Any, finish: str = "stop", **more: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": content, **more}, "finish_reason": finish}
    return json.dumps({"model": "fake-1", "choices": [choice]}).encode()


def stream(*events: Any) -> bytes:
    return b"".join(
        b"data: " + (e if isinstance(e, bytes) else json.dumps(e).encode()) + b"\n\n" for e in events
    )


def delta(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"model": "fake-1", "choices": [{"delta": {"content": text}, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("body", "text", "note"),
    [
        (message(YES), YES, ""),
        (
            message([{"type": "text", "text": "{'pred': 'yes',"}, {"type": "text", "text": " 'score': 4}"}]),
            YES,
            "",
        ),
        (message(None), "", ""),
        (message(None, refusal="I will not."), "I will not.", ""),
        (
            message(None, "length", reasoning_content="Let me think"),
            "",
            "only reasoning came, cut at the limit",
        ),
        (message("{'pred': 'y", "length"), "{'pred': 'y", "cut at the limit of tokens"),
        (message("", "content_filter"), "", "cut by a content filter"),
        (message("{'pred': 'y", "MAX_TOKENS"), "{'pred': 'y", "cut at the limit of tokens"),  # Gemini
        (message("{'pred': 'y", "max_tokens"), "{'pred': 'y", "cut at the limit of tokens"),  # Anthropic
        (message("", "SAFETY"), "", "cut by a content filter"),
        (message({"pred": "yes", "score": 4}), '{"pred": "yes", "score": 4}', ""),
        (message(4), "4", ""),
        (json.dumps({"choices": [{"text": YES}]}).encode(), YES, ""),
        (stream(delta("{'pred': 'yes',"), delta(" 'score': 4}", "stop"), b"[DONE]"), YES, ""),
        (b": ping\n\n" + stream(delta(YES), b"[DONE]"), YES, ""),
        (b"\xef\xbb\xbf" + message(YES), YES, ""),
    ],
)
def test_forms_of_a_reply(body: bytes, text: str, note: str) -> None:
    found = read_completion(body, "fake")
    assert (found.text, found.note[: len(note) or None]) == (text, note)
    assert found.final == bool(note)


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html>Bad gateway</html>",
        b"",
        b"null",
        b"[]",
        b'{"choices": []}',
        b"[" * 100_000,
        b"data: " + b"[" * 100_000 + b"\n\n",
        stream(delta("{'pred': 'yes'")),  # a stream that broke off
    ],
)
def test_what_is_no_reply_is_asked_for_again(body: bytes) -> None:
    with serve(lambda _, before: Act(raw=body) if before == 0 else Act(YES)) as log:
        judged = judge_asks([ASK], Endpoint(log.url, "fake"), None, QUICK)
    assert (judged.replies, judged.calls) == ({"k1": [YES]}, 2)


def test_a_compressed_reply() -> None:
    for packed in (gzip.compress(message(YES)), gzip.compress(message(YES))[:-9]):
        with serve(lambda *_, packed=packed: Act(raw=packed, headers={"Content-Encoding": "gzip"})) as log:
            if len(packed) == len(gzip.compress(message(YES))):
                assert said(log).text == YES
            else:
                with pytest.raises(Transient, match="broke off"):
                    said(log)


def refusing(body: dict[str, Any]) -> Act:
    """A server of a reasoning model: no system role, no temperature, another name for the limit."""
    for key, words in (
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ("temperature", "Unsupported value: 'temperature' does not support 0 with this model."),
    ):
        if key in body:
            return Act(status=400, raw=json.dumps({"error": {"message": words, "param": key}}).encode())
    if any(one["role"] == "system" for one in body["messages"]):
        return Act(status=400, raw=b'{"error": {"message": "System role not supported"}}')
    return Act(YES)


def test_settings_that_a_server_refuses_are_left_out_and_that_is_remembered() -> None:
    asks = [Ask(f"k{n}", MATCH, f"what {n}?", "dog", "a dog") for n in range(3)]
    with serve(lambda body, _: refusing(body)) as log:
        judged = judge_asks(asks, Endpoint(log.url, "fake"), None, QUICK)
    assert judged.replies == {f"k{n}": [YES] for n in range(3)}
    assert len(log.bodies) == 3 + 3  # three lessons, once
    assert set(log.bodies[-1]) == {"model", "messages", "max_completion_tokens"}
    (whole,) = log.bodies[-1]["messages"]
    assert whole["role"] == "user"
    assert MATCH.system in whole["content"]


def test_a_refusal_that_names_nothing_else_to_do_is_an_error() -> None:
    refused = Act(status=400, raw=b"unknown field 'messages'")
    with serve(lambda *_: refused) as log, pytest.raises(InputError, match="HTTP 400: unknown field"):
        said(log)
    assert len(log.bodies) == 1


@pytest.mark.parametrize(
    ("status", "words", "note"),
    [
        (400, '{"error": {"code": "content_filter", "message": "filtered"}}', "refused by a content filter"),
        (
            400,
            '{"error": {"message": "maximum context length is 4096 tokens, max_tokens is 64"}}',
            "too long",
        ),
        (200, '{"error": {"code": "context_length_exceeded", "status": 400}}', "too long for the judge"),
    ],
)
def test_one_answer_that_a_judge_will_not_take_does_not_end_the_run(
    status: int, words: str, note: str, tmp_path: Path
) -> None:
    asks = [Ask(f"k{n}", MATCH, f"what {n}?", "dog", "a dog") for n in range(4)]

    def act(body: dict[str, Any], _: int) -> Act:
        return Act(status=status, raw=words.encode()) if "what 2?" in str(body) else Act(YES)

    cache = Cache(tmp_path / "v.jsonl")
    with serve(act) as log:
        judged = judge_asks(asks, Endpoint(log.url, "fake"), cache, QUICK)
        assert (judged.invalid, judged.complete, len(log.bodies)) == (["k2"], True, 4)
        assert note in (tmp_path / "v.jsonl").read_text()
        judge_asks(asks, Endpoint(log.url, "fake"), Cache(cache.path), QUICK)
        assert len(log.bodies) == 4


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        ({"code": 429, "message": "slow down"}, Transient),
        ({"message": "Rate limit reached"}, Transient),
        ({"message": "upstream unavailable"}, Transient),
        ("overloaded", Transient),
        ({"code": "invalid_api_key", "message": "no"}, InputError),
        ({"message": "The model `x` does not exist"}, InputError),
        ({"code": 429, "type": "insufficient_quota"}, InputError),
    ],
)
def test_an_error_inside_a_reply_of_status_200(error: Any, raised: type[Exception]) -> None:
    with serve(lambda *_: Act(raw=json.dumps({"error": error}).encode())) as log, pytest.raises(raised):
        said(log)


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("http://h:1/v1", ["http://h:1/v1/chat/completions"]),
        ("http://h:1/v1/", ["http://h:1/v1/chat/completions"]),
        ("http://h:1/v1/chat/completions", ["http://h:1/v1/chat/completions"]),
        ("https://h/openai/v1", ["https://h/openai/v1/chat/completions"]),
        ("http://h:1", ["http://h:1/v1/chat/completions", "http://h:1/chat/completions"]),
        (
            "https://h/openai/deployments/d?api-version=2024-10-21",
            ["https://h/openai/deployments/d/chat/completions?api-version=2024-10-21"],
        ),
        ("https://me:se%40cret@h/v1", ["https://h/v1/chat/completions"]),
    ],
)
def test_addresses(base: str, wanted: list[str]) -> None:
    assert list(addresses(base)[0]) == wanted


def test_a_server_without_v1_is_found() -> None:
    def act(_: dict[str, Any], __: int) -> Act:
        return Act(YES) if log.paths[-1] == "/chat/completions" else Act(status=404)

    with serve(act) as log:
        endpoint = Endpoint(log.url.removesuffix("/v1"), "fake")
        assert endpoint.complete(ASK, 0).text == endpoint.complete(ASK, 0).text == YES
    assert log.paths == ["/v1/chat/completions", "/chat/completions", "/chat/completions"]


def test_keys_and_the_headers_they_go_into(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda *_: Act(YES)) as log:
        said(log, key="sk-1234567")
        said(log, key="sk-1234567", key_header="api-key")
        Endpoint(log.url.replace("://", "://me:pass%20word@"), "fake").complete(ASK, 0)
    assert [headers.get("authorization") for headers in log.headers] == [
        "Bearer sk-1234567",
        None,
        "Basic bWU6cGFzcyB3b3Jk",
    ]
    assert log.headers[1]["api-key"] == "sk-1234567"
    azure = Endpoint("https://x.openai.azure.com/openai/v1", "fake", "k1234567")
    assert azure._headers()["api-key"] == "k1234567"
    assert "Authorization" not in azure._headers()
    assert "k1234567" not in repr(azure)
    secret = Endpoint("https://me:hunter22@h/v1", "fake")
    assert "hunter22" not in repr(secret)


def test_a_key_with_a_line_end_is_cut_and_one_with_a_space_refused() -> None:
    assert key_from({"OPENAI_API_KEY": " sk-1234567\n"}) == "sk-1234567"
    assert key_from({"AZURE_OPENAI_API_KEY": "a"}, "https://x.openai.azure.com") == "a"
    for wrong in ("sk-12 34567", "sk-\u00e9345678"):
        with pytest.raises(InputError, match="OPENAI_API_KEY holds white space") as caught:
            key_from({"OPENAI_API_KEY": wrong})
        assert wrong not in str(caught.value)


def test_a_key_is_in_no_failure() -> None:
    with (
        serve(lambda *_: Act(status=500, raw=b"trace: Bearer sk-verysecret1")) as log,
        pytest.raises(Transient) as no,
    ):
        said(log, key="sk-verysecret1")
    assert "sk-verysecret1" not in str(no.value)
    assert "HTTP 500: trace" in str(no.value)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "in 30 s"}, 25, 31),  # as a date
        ({"Retry-After": "in -30 s"}, 0, 0),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25, 0.25),
        ({"Retry-After": "soon"}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], least: float, most: float) -> None:
    told = Message()
    for name, value in headers.items():
        ahead = value.removeprefix("in ").removesuffix(" s")
        told[name] = formatdate(time.time() + int(ahead), usegmt=True) if value.startswith("in ") else value
    assert least <= seconds_to_wait(told) <= most


def test_a_server_is_left_alone_as_long_as_it_asks_or_the_run_ends() -> None:
    began = time.monotonic()
    with serve(
        lambda _, before: Act(YES) if before else Act(status=429, headers={"Retry-After": "0.3"})
    ) as log:
        assert judge_asks([ASK], Endpoint(log.url, "fake"), None, QUICK).complete
    assert time.monotonic() - began > 0.3  # QUICK's own longest pause is 0.01 s
    for wait in ("3600", "inf"):
        with serve(lambda *_, wait=wait: Act(status=429, headers={"Retry-After": wait})) as log:
            judged = judge_asks([ASK], Endpoint(log.url, "fake"), None, QUICK)
        assert (judged.stopped, judged.calls) == (True, 1)
        assert f"it asks to wait {float(wait):,.0f} s: start again then" in judged.problem


@pytest.mark.parametrize(
    ("words", "after"),
    [
        (
            "You exceeded your current quota, please check your billing details. Please retry in 36.07s.",
            36.07,
        ),
        ("Rate limit reached for gpt-4o-mini. Please try again in 250ms.", 0.25),
        ("Limit 200000, Used 199000. Please try again in 1m12s.", 72.0),
        ("Too many requests, try again after 20 seconds", 20.0),
        ("Too many requests", 0.0),
    ],
)
def test_a_bound_by_the_minute_is_no_empty_account(words: str, after: float) -> None:
    with pytest.raises(Transient) as caught:
        outcome_of(Refusal(429, words), "http://h", "fake", "KEY")
    assert caught.value.after == pytest.approx(after)
    assert caught.value.throttled


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("", "is empty: give the server's address"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
        ("http://127.0.0.1:abc/v1", "could not be cast"),
        ("http://127.0.0.1:99999/v1", "out of range"),
        ("http://a b/v1", "without white space"),
        ("http://h\r\nX: y/v1", "without white space"),
        ("localhost:8000/v1", "want http://"),
        ("http://:8000/v1", "want http://"),
    ],
)
def test_addresses_of_no_server(base: str, told: str) -> None:
    with pytest.raises(InputError, match=r"evaluate\.judge\.base_url") as caught:
        Endpoint(base, "fake")
    assert told in str(caught.value)


def test_a_redirect_says_where_to() -> None:
    with (
        serve(lambda *_: Act(status=308, headers={"Location": "https://u:secret1@h/v1"})) as log,
        pytest.raises(
            InputError, match=r"HTTP 308: it sends to https://\*\*\*@h/v1; set evaluate.judge.base_url"
        ),
    ):
        said(log)


def test_who_pays_is_told_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-1")
    headers = Endpoint("https://api.openai.com/v1", "fake", "k")._headers()
    assert (headers["OpenAI-Organization"], headers["OpenAI-Project"]) == ("org-1", "proj-1")
    assert "OpenAI-Organization" not in Endpoint("https://other.org/v1", "fake", "k")._headers()


def test_no_proxy_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with serve(lambda *_: Act(YES)) as log:
        assert said(log).text == YES


def test_certificates_that_are_not_trusted_are_no_outage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Untrusting:
        def open(self, *_: object, **__: object) -> None:
            raise judge_endpoint.urllib.error.URLError(ssl.SSLCertVerificationError(1, "self-signed"))

    with monkeypatch.context() as patch:
        patch.setattr(judge_endpoint, "_opener", lambda url: Untrusting())
        with pytest.raises(InputError, match=r"certificate is not trusted here .*SSL_CERT_FILE"):
            Endpoint("https://judge.example.org/v1", "fake").complete(ASK, 0)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
    with pytest.raises(InputError, match=r"gone.pem: no file of certificates"):
        Endpoint("https://judge.example.org/v1", "fake").complete(ASK, 0)
