"""The judges that can be asked: an OpenAI-compatible endpoint, a local model, recorded replies."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any, Protocol

from videollava.errors import InputError
from videollava.evaluate.benchmarks.replies import Replies, runs_of
from videollava.evaluate.judge_prompts import Ask

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
CHUNK = 1 << 16
LARGEST = 1 << 24  # bytes of a reply
WORTH_REPEATING = frozenset((408, 409, 425, 429))


class Transient(Exception):
    """A call failed in a way that may pass; `after` is how long the server asks to wait, in seconds."""

    def __init__(self, text: str, after: float = 0.0, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.after = after
        self.throttled = throttled


class Exhausted(Exception):
    """Recorded replies hold no further attempt."""


@dataclass(frozen=True)
class Completion:
    """A judge's reply; `version` is the model's exact name as the server gives it."""

    text: str
    version: str


class Judge(Protocol):
    """Whoever grades. `name` is part of every verdict's key; `attempt` counts readable-or-not replies so
    far.
    """

    @property
    def name(self) -> str: ...

    def complete(self, ask: Ask, attempt: int) -> Completion: ...


def key_from(environment: Mapping[str, str] = os.environ) -> str:
    """The endpoint's key, "" where none is set. It is sent and never shown."""
    return next((environment[name] for name in KEYS if environment.get(name)), "")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server: `base_url` up to and with /v1."""

    base_url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise InputError(
                f"evaluate.judge.base_url: {self.base_url!r}: want http://.. or https://.. up to /v1"
            )
        if not self.model:
            raise InputError("evaluate.judge.model: name the model that judges")

    @property
    def name(self) -> str:
        return self.model

    def complete(self, ask: Ask, attempt: int) -> Completion:
        """Ask once. The first attempt is greedy; after an unreadable reply the same one would come again."""
        body = {
            "model": self.model,
            "messages": ask.messages(),
            "max_tokens": ask.prompt.max_tokens,
            "temperature": min(1.0, attempt / 2),
        }
        return _completion(self._post("/chat/completions", body), self.model)

    def _post(self, path: str, body: Mapping[str, Any]) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base_url.rstrip("/") + path
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout) as response:
                return _read(response, time.monotonic() + self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(url, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Transient(f"{url}: {type(error).__name__}: {error}") from error

    def _refused(self, url: str, error: urllib.error.HTTPError) -> Exception:
        if error.code >= 500 or error.code in WORTH_REPEATING:
            after = _seconds(error.headers)
            return Transient(f"{url}: HTTP {error.code}", after, throttled=error.code in (429, 503))
        said = error.read(300).decode(errors="replace").replace(self.key or "\0", "***")
        hint = f"; set {KEYS[0]}" if error.code in (401, 403) else ""
        return InputError(f"{url}: HTTP {error.code}: {said}{hint}")


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body, whole and before the deadline; a short one is an error."""
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
    return b"".join(parts)


def _completion(body: bytes, model: str) -> Completion:
    try:
        whole = json.loads(body)
        text = whole["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise Transient(f"not a chat completion: {body[:80]!r}") from error
    return Completion(text if isinstance(text, str) else "", str(whole.get("model") or model))


def _seconds(headers: Message) -> float:
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:
        return 0.0


class LocalModel:
    """A chat model of transformers, from a folder or hub id, greedy; one question at a time."""

    def __init__(self, path: str) -> None:
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

    def complete(self, ask: Ask, attempt: int) -> Completion:
        torch, tokenizer = self._torch, self._tokenizer
        with self._lock, torch.inference_mode():
            ids = tokenizer(
                self._text(ask), return_tensors="pt", add_special_tokens=not tokenizer.chat_template
            )
            ids = ids.to(self._model.device)
            torch.manual_seed(attempt)
            chosen = (
                {"do_sample": True, "temperature": min(1.0, attempt / 2)} if attempt else {"do_sample": False}
            )
            stop = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
            out = self._model.generate(
                input_ids=ids["input_ids"],
                attention_mask=ids["attention_mask"],
                max_new_tokens=ask.prompt.max_tokens,
                pad_token_id=stop,
                **chosen,
            )
        said = out[0, ids["input_ids"].shape[1] :]
        return Completion(tokenizer.decode(said, skip_special_tokens=True).strip(), self.version)

    def _text(self, ask: Ask) -> str:
        messages = ask.messages()
        if self._tokenizer.chat_template:
            return str(
                self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
        return "\n\n".join(message["content"] for message in messages) + "\n"


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
