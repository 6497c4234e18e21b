"""Proxies that Prefect's client can make nothing of: it refuses to start with them, whomever it asks."""

from __future__ import annotations

import os
import sys

__all__ = ["set_proxies_aside", "with_all_proxies"]

NAMES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_aside: dict[str, str] = {}


def set_proxies_aside() -> None:
    """Take such proxies away from this process, and say so: all it asks is a server on loopback.

    Stages, which may ask others, get them back (`with_all_proxies`).
    """
    from importlib.util import find_spec

    known = {"http", "https"} | ({"socks5", "socks5h"} if find_spec("socksio") else set())
    for name in NAMES:
        scheme, mark, _ = os.environ.get(name, "").partition("://")
        if mark and scheme.lower() not in known:
            _aside[name] = os.environ.pop(name)
            text = f"{name}: Prefect's client cannot use a {scheme}:// proxy; only the stages get it"
            print(text, file=sys.stderr)


def with_all_proxies(environment: dict[str, str]) -> dict[str, str]:
    """`environment` with what was set aside, for a process that may ask other machines."""
    return {**environment, **_aside}
