"""What OpenAI-compatible servers say, and how they differ: addresses, settings they refuse, forms of a reply.

A refusal that names a setting is a lesson: the endpoint asks again without it, and keeps to that.
"""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from videollava.errors import InputError
from videollava.scrub import scrub

__all__ = [
    "LARGEST",
    "OTHER_ADDRESS",
    "Completion",
    "Refusal",
    "Transient",
    "addresses",
    "is_azure",
    "lesson_of",
    "outcome_of",
    "read_completion",
    "request_body",
    "seconds_to_wait",
    "unpacked",
]

LARGEST = 1 << 24  # bytes of a reply
SHOWN = 300  # characters of what a server said
PATH = "/chat/completions"
WORTH_REPEATING = frozenset((408, 409, 425, 429))

# Why a reply is not whole, as OpenAI, Anthropic and Gemini say it.
ENDS = {
    **dict.fromkeys(("length", "max_tokens"), "cut at the limit of tokens"),
    **dict.fromkeys(
        ("content_filter", "safety", "prohibited_content", "blocklist", "recitation", "refusal"),
        "cut by a content filter",
    ),
}

# Lessons.
OTHER_ADDRESS = "address without /v1"
NEW_LIMIT = "max_completion_tokens"
NO_LIMIT = "no limit of tokens"
NO_TEMPERATURE = "no temperature"
NO_SYSTEM = "no system role"

_SYSTEM = re.compile(
    r"system[_ ]?(?:role|message|prompt|instruction)|role\W{0,20}system|developer instruction|roles must alternate",
    re.IGNORECASE,
)
_FILTERED = re.compile(
    r"content[_ ]?filter|content management policy|content_policy|data_inspection_failed", re.I
)
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum context|prompt is too long|reduce the length|exceeds? the (?:mod|max)",
    re.IGNORECASE,
)
_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)
# "Please retry in 36.07s", "try again in 1m12s"; a bound by the minute is said like an empty account.
_LATER = re.compile(
    r"\b(?:re)?try(?: again)? (?:in|after) (?:(\d+)\s*m(?:in(?:ute)?s?)?(?!s)\s*)?"
    r"(?:(\d+(?:\.\d+)?)\s*(ms|millisec|s))?",
    re.IGNORECASE,
)
_NAMED = (
    (re.compile(r"rate.?limit|too many requests", re.IGNORECASE), 429),
    (re.compile(r"api.?key|unauthori[sz]ed|authentication", re.IGNORECASE), 401),
    (re.compile(r"not.?found|does not exist|unknown model|invalid_request", re.IGNORECASE), 400),
)


class Transient(Exception):
    """A call failed in a way that may pass; `after` is how long the server asks to wait, in seconds."""

    def __init__(self, text: str, after: float = 0.0, *, throttled: bool = False) -> None:
        super().__init__(scrub(text))
        self.after = after
        self.throttled = throttled


class Refusal(Exception):
    """The server answered with an error: its status (or the one that its words stand for), words, seconds to wait."""

    def __init__(self, status: int, said: str, after: float = 0.0) -> None:
        super().__init__(said)
        self.status, self.said, self.after = status, said, after


@dataclass(frozen=True)
class Completion:
    """A judge's reply; `version` is the model's exact name as the server gives it.

    note: why there is no more of it ("" for a whole reply). final: asked again, the same would come.
    """

    text: str
    version: str
    note: str = ""
    final: bool = False


def addresses(base_url: str) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """Where to post, in the order of trying, and the user and password that the address holds.

    With or without /v1, a slash at the end, or the whole .../chat/completions; a query is kept.
    """
    if not base_url.strip():
        raise InputError(
            "evaluate.judge.base_url is empty: give the server's address, such as https://api.openai.com/v1 "
            "(OPENAI_BASE_URL is not read: what judges is part of the parameters)"
        )
    parts = _split(base_url.strip())
    host = parts.netloc.rpartition("@")[2]
    user = (unquote(parts.username or ""), unquote(parts.password or "")) if "@" in parts.netloc else None
    path = parts.path.rstrip("/")
    paths = [path if path.endswith(PATH) else path + PATH] if path else ["/v1" + PATH, PATH]
    return tuple(urlunsplit((parts.scheme, host, one, parts.query, "")) for one in paths), user


def _split(base_url: str) -> SplitResult:
    """An address in its parts. InputError where it has no scheme, host or possible port."""
    wrong = f"evaluate.judge.base_url: {base_url!r}: want http://.. or https://.. up to /v1"
    if re.search(r"[\s\x00-\x1f\x7f]", base_url):
        raise InputError(f"{wrong}, without white space")
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InputError(f"{wrong} ({error})") from error
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise InputError(wrong)
    return parts


def is_azure(url: str) -> bool:
    """Whether the server is one of Azure's, which take the key in a header `api-key`."""
    host = urlsplit(url).hostname or ""
    return host.endswith(
        (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".azure-api.net")
    )


def request_body(
    model: str, messages: Sequence[Mapping[str, str]], room: int, temperature: float, lessons: Collection[str]
) -> dict[str, Any]:
    """What is posted, within what this server has been found to take."""
    body: dict[str, Any] = {"model": model, "messages": list(messages)}
    if NO_SYSTEM in lessons:
        whole = "\n\n".join(message["content"] for message in messages)
        body["messages"] = [{"role": "user", "content": whole}]
    if NO_LIMIT not in lessons:
        body["max_completion_tokens" if NEW_LIMIT in lessons else "max_tokens"] = room
    if NO_TEMPERATURE not in lessons:
        body["temperature"] = temperature
    return body


def lesson_of(refusal: Refusal, lessons: Collection[str], others: bool) -> str | None:
    """What to do otherwise after a refusal, None where it names nothing that could be."""
    said, status = refusal.said, refusal.status
    found = ""
    if status in (404, 405) and others:
        found = OTHER_ADDRESS
    elif status in (400, 404, 422, 500) and _SYSTEM.search(said):
        found = NO_SYSTEM
    elif status in (400, 422) and _TOO_LONG.search(said):
        return None
    elif status in (400, 422) and re.search(r"max_(?:completion_)?tokens", said):
        found = NO_LIMIT if NEW_LIMIT in lessons else NEW_LIMIT
    elif status in (400, 422) and "temperature" in said:
        found = NO_TEMPERATURE
    return found if found and found not in lessons else None


def outcome_of(refusal: Refusal, url: str, model: str, key_name: str) -> Completion:
    """What a refusal comes to: a question that this judge does not answer.

    Raises:
        Transient: it may pass.
        InputError: key, model or address are wrong, or the account is empty.
    """
    status, said = refusal.status, refusal.said
    if status in (400, 403, 422) and _FILTERED.search(said):
        return Completion("", model, f"refused by a content filter: {said[:SHOWN]}", final=True)
    if status in (400, 413, 422) and _TOO_LONG.search(said):
        return Completion("", model, f"too long for the judge: {said[:SHOWN]}", final=True)
    later = _said_to_wait(said)
    if (status >= 500 or status in WORTH_REPEATING) and (later or not _QUOTA.search(said)):
        told = f": {said[:SHOWN]}" if said else ""
        after = refusal.after or later
        raise Transient(f"{url}: HTTP {status}{told}", after, throttled=status in (429, 503))
    hint = f"; set {key_name}" if status in (401, 403) else ""
    page = "; an HTML page: does evaluate.judge.base_url end where /v1 does?" if _is_page(said) else ""
    raise InputError(f"{url}: HTTP {status}: {said[:SHOWN]}{hint}{page}")


def read_completion(body: bytes, model: str) -> Completion:
    """The reply in a body: an object, or a stream of events that nobody asked for.

    Raises:
        Refusal: an error in the place of a reply.
        Transient: neither.
    """
    whole = _parsed(body)
    if isinstance(whole, dict) and whole.get("error") and not whole.get("choices"):
        raise _refusal(whole["error"])
    try:
        choice = whole["choices"][0]
        message = choice.get("message") or {}
        content = message.get("content", choice.get("text"))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _odd(body) from error
    if choice.get("error"):
        raise _refusal(choice["error"])
    text = _text(content) or _text(message.get("refusal"))
    finish = choice.get("finish_reason")
    note = ENDS.get(str(finish).lower(), "")
    if not text and (message.get("reasoning_content") or message.get("reasoning")):
        note = f"only reasoning came, {note or 'no answer'}"
    return Completion(text, str(whole.get("model") or model), note, final=bool(note))


def seconds_to_wait(headers: Message) -> float:
    """How long the server asks to wait: seconds, milliseconds, or until a date; 0 where it doesn't."""
    for name, unit in (("retry-after-ms", 1000.0), ("Retry-After", 1.0)):
        said = headers.get(name, "").strip()
        try:
            return max(0.0, float(said) / unit)
        except ValueError:
            pass
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0


def _said_to_wait(said: str) -> float:
    """Seconds that a refusal's words ask to wait, 0 where they ask for none."""
    found = _LATER.search(said)
    if found is None:
        return 0.0
    unit = 1000 if (found[3] or "").lower().startswith("m") else 1
    return 60.0 * int(found[1] or 0) + float(found[2] or 0) / unit


def unpacked(data: bytes, encoding: str) -> bytes:
    """A body as it was before the server compressed it. ValueError where it is broken or too large."""
    kind = encoding.strip().lower()
    if kind in ("", "identity"):
        return data
    if kind not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"the reply is compressed by {encoding!r}")
    try:
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by what it begins with
        content = stream.decompress(data, LARGEST)
    except zlib.error as error:
        raise ValueError(f"a broken compressed reply: {error}") from error
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError("the compressed reply is too large, or broke off")
    return content


def _parsed(body: bytes) -> Any:
    text = body.decode(errors="replace").lstrip("\ufeff \r\n\t")
    if text.startswith(("data:", "event:", ":", "id:")):
        return _joined(body, [line[5:].strip() for line in text.splitlines() if line.startswith("data:")])
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _odd(body) from error


def _joined(body: bytes, events: Sequence[str]) -> dict[str, Any]:
    """The pieces of a stream as one reply; one that broke off is no reply."""
    text, finish, model = "", None, ""
    for event in events:
        if event == "[DONE]":
            finish = finish or "stop"
            continue
        try:
            piece = json.loads(event)
            if piece.get("error"):
                return {"error": piece["error"]}
            model = piece.get("model") or model
            for choice in piece.get("choices") or ():
                text += _text((choice.get("delta") or choice.get("message") or {}).get("content"))
                finish = choice.get("finish_reason") or finish
        except (ValueError, AttributeError, RecursionError) as error:
            raise _odd(body) from error
    if finish is None:
        raise Transient(f"the stream broke off: {body[-80:]!r}")
    return {"model": model, "choices": [{"message": {"content": text}, "finish_reason": finish}]}


def _text(content: Any) -> str:
    """A message's content: a text, a list of parts of which some are text, or the verdict itself as an object."""
    if isinstance(content, list):
        parts = (
            part if isinstance(part, str) else part.get("text", "")
            for part in content
            if isinstance(part, str | dict)
        )
        return "".join(part for part in parts if isinstance(part, str))
    if content is None or isinstance(content, str):
        return content or ""
    return json.dumps(content)


def _refusal(error: Any) -> Refusal:
    """An error that came with status 200: its code, or what its words stand for."""
    told = error if isinstance(error, dict) else {"message": str(error)}
    said = json.dumps(error)[:SHOWN]
    for name in ("code", "status"):
        code = str(told.get(name) or "")
        if code.isdigit() and 400 <= int(code) < 600:
            return Refusal(int(code), said)
    return Refusal(next((status for words, status in _NAMED if words.search(said)), 500), said)


def _odd(body: bytes) -> Transient:
    hint = (
        "; an HTML page: does evaluate.judge.base_url end where /v1 does?"
        if _is_page(body[:200].decode(errors="replace"))
        else ""
    )
    return Transient(f"not a chat completion: {body[:80]!r}{hint}")


def _is_page(text: str) -> bool:
    return text.lstrip().lower().startswith(("<!doctype", "<html"))
