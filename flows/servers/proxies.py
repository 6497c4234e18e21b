"""Proxies and certificates that Prefect's client can make nothing of: it refuses to start with them, whomever it
asks.
"""

from __future__ import annotations

import os
import ssl
import sys

from videollava.errors import InputError

__all__ = ["check_certificates", "set_proxies_aside", "with_all_proxies"]

NAMES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
EXCEPTIONS = ("no_proxy", "NO_PROXY")
_aside: dict[str, str] = {}


def check_certificates() -> None:
    """InputError where SSL_CERT_FILE names no file of certificates: no client of Prefect's would start."""
    file = os.environ.get("SSL_CERT_FILE")
    try:
        ssl.create_default_context(cafile=file or None)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            f"SSL_CERT_FILE is {file}, but no certificates can be read from it ({error.strerror or error}); "
            "correct it, or unset SSL_CERT_FILE"
        ) from error


def set_proxies_aside() -> None:
    """Take such proxies and exceptions away from this process, and say so: all it asks is a server on loopback.

    Stages, which may ask others, get them back (`with_all_proxies`).
    """
    for name in NAMES:
        if what := _unusable_proxy(os.environ.get(name, "")):
            _aside[name] = os.environ.pop(name)
            _tell(name, what)
    for name in EXCEPTIONS:
        listed = os.environ.get(name, "")
        hosts = [host.strip() for host in listed.split(",") if host.strip()]
        if wrong := [host for host in hosts if not _usable_exception(host)]:
            _aside[name] = listed
            os.environ[name] = ",".join(host for host in hosts if host not in wrong)
            _tell(name, f"the exception {', '.join(wrong)}")


def with_all_proxies(environment: dict[str, str]) -> dict[str, str]:
    """`environment` with what was set aside, for a process that may ask other machines."""
    return {**environment, **_aside}


def _tell(name: str, what: str) -> None:
    print(f"{name}: Prefect's client cannot use {what}; only the stages get it", file=sys.stderr)


def _unusable_proxy(value: str) -> str:
    """What is wrong with a proxy, "" where nothing is."""
    from importlib.util import find_spec

    import httpx

    scheme, mark, _ = value.partition("://")
    if scheme.lower().startswith("socks") and mark and not find_spec("socksio"):
        return f"a {scheme}:// proxy"
    try:
        if value:
            httpx.Proxy(value if mark else f"http://{value}")
    except (ValueError, httpx.InvalidURL) as error:
        return f"a {scheme}:// proxy" if mark and isinstance(error, ValueError) else f"this proxy ({error})"
    return ""


def _usable_exception(host: str) -> bool:
    """Whether httpx can read an entry of NO_PROXY (an IPv6 address it reads another way)."""
    import httpx

    try:
        httpx.URL(host if "://" in host else f"all://*{host}")
    except httpx.InvalidURL:
        return host.count(":") > 1 and not host.startswith("[")
    return True
