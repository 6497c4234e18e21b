"""Whether a server answers, asked as its own clients would ask it."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from flows.servers.ports import is_ours
from videollava.environment import is_loopback
from videollava.scrub import scrub

__all__ = ["is_up", "open_address", "why_not"]

PATIENCE = 5.0  # seconds for one answer
REFUSED = {401: "it asks for credentials", 403: "it refuses the credentials"}
KEYS = "PREFECT_API_KEY (Prefect Cloud) or PREFECT_API_AUTH_STRING (a server with PREFECT_SERVER_API_AUTH_STRING)"


def open_address(request: str | urllib.request.Request, timeout: float = PATIENCE) -> Any:
    """urlopen, which asks this machine's own servers directly, whatever proxy is set."""
    url = request if isinstance(request, str) else request.full_url
    direct = [urllib.request.ProxyHandler({})] if is_loopback(url) else []
    return urllib.request.build_opener(*direct).open(request, timeout=timeout)


def is_up(url: str) -> bool:
    """Whether a Prefect server of this user and of our major version answers at this loopback API address.

    What another user runs there is not ours to write to, and other programs answer on these ports too.
    """
    base = url.rstrip("/")
    try:
        with open_address(f"{base}/health") as reply:
            healthy = json.load(reply) is True
        with open_address(f"{base}/admin/version") as reply:
            theirs = json.load(reply)
    except urllib.error.HTTPError as error:
        # Health is answered to everybody; the rest, where it asks for credentials, to Prefect's client.
        return error.code in REFUSED and _is_ours(base) and not why_not(base)
    except (urllib.error.URLError, OSError, ValueError):
        return False
    return healthy and _major(theirs) == _major(version("prefect")) and _is_ours(base)


def why_not(url: str) -> str:
    """Why no Prefect server answers at a configured address; "" where one does.

    Asked by Prefect's own client: with its keys, headers, certificates and proxies, from the environment or a
    profile. Takes seconds.
    """
    try:
        _ask(url)
    except Exception as error:  # whatever is wrong with a server or its settings is said in one way
        return _reason(error)
    return ""


def _ask(url: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        get_client(httpx_settings={"timeout": PATIENCE}, sync_client=True) as client,
    ):
        client.read_flows(limit=1)  # the one thing that a server, Prefect Cloud and no other service answers


def _reason(error: BaseException) -> str:
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        if code in REFUSED:
            return f"{REFUSED[code]} (HTTP {code}); set {KEYS}"
        if code == 407:
            return "the proxy asks for credentials (HTTP 407); set them in HTTP_PROXY / HTTPS_PROXY"
        if code in (404, 405):
            return f"what answers is no Prefect API (HTTP {code}); its address usually ends in /api"
        return f"it answers HTTP {code}"
    chain = _chain(error)
    if any(isinstance(one, ssl.SSLError) for one in chain):
        return (
            f"its certificate is not trusted ({scrub(str(chain[-1]))}); "
            "name your company's in PREFECT_API_SSL_CERT_FILE"
        )
    if any(isinstance(one, socket.gaierror) for one in chain):
        return "its host name is not known"
    if isinstance(error, httpx.ProxyError):
        return f"the proxy does not let it through ({scrub(str(error))}); list the host in NO_PROXY"
    if isinstance(error, httpx.TimeoutException):
        return f"nothing answers within {PATIENCE:.0f} s"
    if isinstance(error, httpx.TransportError):
        return f"nothing answers ({scrub(str(error))})"
    if isinstance(error, ValueError) and not isinstance(error, httpx.InvalidURL):
        return f"what answers is no Prefect API ({scrub(str(error).splitlines()[0])})"
    return scrub(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (before := found[-1].__cause__ or found[-1].__context__) is not None and before not in found:
        found.append(before)
    return found


def _is_ours(base: str) -> bool:
    port = urlsplit(base).port
    return port is None or is_ours(port)


def _major(text: Any) -> str:
    return str(text).partition(".")[0]
