"""The judges that can be asked: an OpenAI-compatible endpoint, a local model, recorded replies."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from videollava.environment import is_loopback
from videollava.errors import InputError
from videollava.evaluate.benchmarks.replies import Replies, runs_of
from videollava.evaluate.judge_dialects import (
    LARGEST,
    OTHER_ADDRESS,
    Completion,
    Refusal,
    Transient,
    addresses,
    is_azure,
    lesson_of,
    outcome_of,
    read_completion,
    request_body,
    seconds_to_wait,
    unpacked,
)
from videollava.evaluate.judge_prompts import Ask
from videollava.model.positions import positions_of
from videollava.scrub import HIDDEN, scrub

__all__ = [
    "KEYS",
    "Completion",
    "Endpoint",
    "Exhausted",
    "Judge",
    "LocalModel",
    "Replay",
    "Transient",
    "key_from",
]

KEYS = ("VIDEOLLAVA_JUDGE_API_KEY", "OPENAI_API_KEY")
AZURE_KEY = "AZURE_OPENAI_API_KEY"
OPENAI = "api.openai.com"
ACCOUNT = {"OPENAI_ORG_ID": "OpenAI-Organization", "OPENAI_PROJECT_ID": "OpenAI-Project"}  # who pays there
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # OpenSSL itself reads the first
CHUNK = 1 << 16
READ_OF_ERRORS = 2000  # bytes


class Exhausted(Exception):
    """Recorded replies hold no further attempt."""


class Judge(Protocol):
    """Whoever grades. `name` is part of every verdict's key; `attempt` counts readable-or-not replies so
    far.
    """

    @property
    def name(self) -> str: ...

    def complete(self, ask: Ask, attempt: int) -> Completion: ...


def key_from(environment: Mapping[str, str] = os.environ, base_url: str = "") -> str:
    """The endpoint's key, "" where none is set. It is sent and never shown.

    InputError where what is set cannot be a key (white space within, or other than ASCII).
    """
    names = (KEYS[0], AZURE_KEY, *KEYS[1:]) if base_url and is_azure(base_url) else KEYS
    for name in names:
        key = environment.get(name, "").strip()
        if key:
            if not key.isascii() or not key.isprintable() or " " in key:
                raise InputError(
                    f"the variable {name} holds white space or letters that no key has; set it again"
                )
            return key
    return ""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server: `base_url` with or without /v1 or /chat/completions.

    max_tokens: of a reply, 0 for what the prompt needs. key_header: the header that takes the key; by default
    `Authorization: Bearer`, and `api-key` at Azure. lessons: what this server was found to refuse.
    """

    base_url: str = field(repr=False)
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    max_tokens: int = 0
    key_header: str = ""
    lessons: set[str] = field(default_factory=set, repr=False, compare=False)

    def __post_init__(self) -> None:
        addresses(self.base_url)
        if not self.model:
            raise InputError("evaluate.judge.model: name the model that judges")

    @property
    def name(self) -> str:
        return self.model

    def complete(self, ask: Ask, attempt: int) -> Completion:
        """Ask once. The first attempt is greedy; after an unreadable reply the same one would come again.

        Where the server refuses a setting, it is asked at once without it.
        """
        room, temperature = self.max_tokens or ask.prompt.max_tokens, min(1.0, attempt / 2)
        while True:
            known = frozenset(self.lessons)
            url, others = self._address(known)
            try:
                body = request_body(self.model, ask.messages(), room, temperature, known)
                return read_completion(self._post(url, body), self.model)
            except Refusal as refusal:
                lesson = lesson_of(refusal, known, others)
                if lesson is None:
                    return outcome_of(refusal, url, self.model, KEYS[0])
                self.lessons.add(lesson)

    def _address(self, known: frozenset[str]) -> tuple[str, bool]:
        """Where to post now, and whether there is another address to try."""
        urls, _ = addresses(self.base_url)
        other = len(urls) > 1 and OTHER_ADDRESS in known
        return urls[1 if other else 0], len(urls) > 1 and not other

    def _post(self, url: str, body: Mapping[str, Any]) -> bytes:
        request = urllib.request.Request(url, json.dumps(body).encode(), self._headers(), method="POST")
        opener = _opener(url)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return _read(response, time.monotonic() + self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                said = self._shown(_excerpt(error))
                if 300 <= error.code < 400:
                    told = error.headers.get("Location", "another address")
                    said = f"it sends to {self._shown(told)}; set evaluate.judge.base_url to where that is"
                raise Refusal(error.code, said, seconds_to_wait(error.headers)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
                raise InputError(
                    f"{url}: its certificate is not trusted here ({getattr(error, 'reason', error)}); set "
                    f"{BUNDLES[0]} to the file with your organisation's certificates"
                ) from None
            raise Transient(f"{url}: {type(error).__name__}: {self._shown(str(error))}") from None

    def _headers(self) -> dict[str, str]:
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": "videollava",
        }
        name = self.key_header or ("api-key" if is_azure(self.base_url) else "Authorization")
        _, user = addresses(self.base_url)
        if self.key:
            headers[name] = f"Bearer {self.key}" if name.lower() == "authorization" else self.key
        if urlsplit(self.base_url).hostname == OPENAI:
            headers |= {field: os.environ[name] for name, field in ACCOUNT.items() if os.environ.get(name)}
        if user and "Authorization" not in headers:
            headers["Authorization"] = f"Basic {b64encode(':'.join(user).encode()).decode()}"
        return headers

    def _shown(self, text: str) -> str:
        return scrub(text.replace(self.key, HIDDEN) if self.key else text)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """As the environment says of proxies and certificates; this machine's own servers without a proxy."""
    handlers: list[urllib.request.BaseHandler | type[urllib.request.BaseHandler]] = [_NoRedirect]
    if is_loopback(url):
        handlers.append(urllib.request.ProxyHandler({}))
    if url.startswith("https:"):
        bundle = next((os.environ[name] for name in BUNDLES if os.environ.get(name)), None)
        try:
            context = ssl.create_default_context(cafile=bundle)
        except OSError as error:
            raise InputError(
                f"{bundle}: no file of certificates ({error}); mend {', '.join(BUNDLES)}"
            ) from error
        handlers.append(urllib.request.HTTPSHandler(context=context))
    return urllib.request.build_opener(*handlers)


def _excerpt(error: urllib.error.HTTPError) -> str:
    """What came with a refusal, as far as it can be read."""
    try:
        data = error.read(READ_OF_ERRORS)
    except (OSError, http.client.HTTPException):
        return ""
    try:
        return unpacked(data, error.headers.get("Content-Encoding", "")).decode(errors="replace")
    except ValueError:
        return data.decode(errors="replace")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, whole, unpacked and before the deadline; a short one is an error."""
    parts, size = [], 0
    while part := response.read1(CHUNK):
        parts.append(part)
        size += len(part)
        if time.monotonic() > deadline:
            raise TimeoutError("the reply came too slowly")
        if size > LARGEST:
            raise ValueError("the reply is too large")
    announced = response.headers.get("Content-Length")
    if announced is not None and int(announced) != size:
        raise ValueError(f"the reply broke off after {size} of {announced} bytes")
    return unpacked(b"".join(parts), response.headers.get("Content-Encoding", ""))


class LocalModel:
    """A chat model of transformers, from a folder or hub id, greedy; one question at a time.

    max_tokens: of a reply, 0 for what the prompt needs.
    """

    def __init__(self, path: str, max_tokens: int = 0) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._torch = torch
        self._lock = threading.Lock()
        self._tokenizer = AutoTokenizer.from_pretrained(path)
        self._model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()
        if torch.cuda.is_available():
            self._model = self._model.cuda()
        self.name = Path(path).name
        self.version = _fingerprint(self._model)
        self.max_tokens = max_tokens

    def complete(self, ask: Ask, attempt: int) -> Completion:
        """Ask once. A prompt that leaves no room for a reply is not answered."""
        torch, tokenizer = self._torch, self._tokenizer
        with self._lock, torch.inference_mode():
            ids = tokenizer(
                self._text(ask), return_tensors="pt", add_special_tokens=not tokenizer.chat_template
            )
            ids = ids.to(self._model.device)
            length, room = ids["input_ids"].shape[1], self.max_tokens or ask.prompt.max_tokens
            most = positions_of(self._model.config)
            if most and length >= most:
                note = f"too long for the judge: {length:,} tokens for its {most:,} positions"
                return Completion("", self.version, note, final=True)
            room = min(room, most - length) if most else room
            torch.manual_seed(attempt)
            chosen = (
                {"do_sample": True, "temperature": min(1.0, attempt / 2)} if attempt else {"do_sample": False}
            )
            stop = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
            out = self._model.generate(
                input_ids=ids["input_ids"],
                attention_mask=ids["attention_mask"],
                max_new_tokens=room,
                pad_token_id=stop,
                **chosen,
            )
        said = out[0, length:]
        text = tokenizer.decode(said, skip_special_tokens=True).strip()
        return Completion(text, self.version, "cut at the limit of tokens" if len(said) == room else "")

    def _text(self, ask: Ask) -> str:
        messages = ask.messages()
        if not self._tokenizer.chat_template:
            return "\n\n".join(message["content"] for message in messages) + "\n"
        from jinja2 import TemplateError

        try:
            return self._templated(messages)
        except TemplateError:  # a template without a system role
            whole = "\n\n".join(message["content"] for message in messages)
            return self._templated([{"role": "user", "content": whole}])

    def _templated(self, messages: Sequence[Mapping[str, str]]) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _fingerprint(model: Any) -> str:
    """Of a model's configuration and of a sample of each weight: another model has another version."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Replay:
    """Recorded replies, given out attempt by attempt under the name of the judge that gave them."""

    replies: Replies

    @property
    def name(self) -> str:
        return str(self.replies.judge["name"])

    def complete(self, ask: Ask, attempt: int) -> Completion:
        runs: Sequence[Sequence[str]] = runs_of(self.replies.by_id.get(ask.id, []))
        if ask.run >= len(runs) or attempt >= len(runs[ask.run]):
            raise Exhausted(ask.id)
        return Completion(runs[ask.run][attempt], str(self.replies.judge["version"]))
