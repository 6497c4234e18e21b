"""The stack's own servers, asked over HTTP with a name and a password."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from base64 import b64encode
from typing import Any

from flows.servers.probe import open_address

__all__ = ["answers", "ask"]


def ask(url: str, login: str = "", body: object = None, method: str = "", timeout: float = 30.0) -> Any:
    """What a server answers, as JSON where it is some. login: USER:PASSWORD. urllib's errors where it refuses."""
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method or None)
    with open_address(request, timeout=timeout) as reply:
        text = reply.read().decode()
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def answers(url: str, login: str = "") -> bool:
    """Whether it answers, and well."""
    try:
        ask(url, login, timeout=5.0)
    except (urllib.error.URLError, OSError):
        return False
    return True
