"""Notices to people: JSON posted to the web addresses of gate.yaml's `notify` and of VIDEOLLAVA_WEBHOOK.

Slack and Mattermost take the field `text`; programs read the others. An address is a secret (whoever has it may post):
of it only the host is ever shown. A notice that does not arrive is said, and changes nothing else.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import urlsplit

from videollava.errors import InputError
from videollava.scrub import scrub, scrub_all

__all__ = ["VARIABLE", "Notice", "addresses", "send"]

VARIABLE = "VIDEOLLAVA_WEBHOOK"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SECONDS = 5.0  # a try's
PATIENCE = 20.0  # for all tries and addresses together
RETRIES = 2


@dataclass(frozen=True)
class Notice:
    """What happened. event: moved, approval, passed, refused, failed, ceiling, data or alarm. scores: points by
    benchmark. link: a page, or nothing.
    """

    event: str
    text: str
    model: str
    version: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    reasons: Sequence[str] = ()
    who: str = ""
    link: str = ""

    def body(self) -> dict[str, Any]:
        """What is posted, without credentials."""
        return dict(scrub_all(asdict(self)))


def addresses(named: Sequence[str]) -> list[str]:
    """The addresses to tell: those of gate.yaml (or the variables that hold them) and of VIDEOLLAVA_WEBHOOK.

    InputError, which shows none of them, where one is no address that may be posted to.
    """
    found = []
    for item in (*named, VARIABLE if os.environ.get(VARIABLE) else ""):
        if re.fullmatch(r"[A-Za-z_]\w*", item):
            if not os.environ.get(item):
                raise InputError(f"gate.yaml: notify: the environment variable {item} is not set")
            found += [(word, item) for word in re.split(r"[\s,]+", os.environ[item]) if word]
        elif item:
            found.append((item, "gate.yaml: notify"))
    for address, where in found:
        _check(address, where)
    return list(dict.fromkeys(address for address, _ in found))


def send(notice: Notice, targets: Sequence[str]) -> list[str]:
    """Post a notice to these addresses; what went wrong, a sentence each. Never raises, and takes PATIENCE seconds at
    most.
    """
    body = notice.body()
    told = dict.fromkeys(targets, "it does not come to an end")

    def post(target: str) -> None:
        told[target] = _post(target, body)

    # Daemons: a server that never ends its answer keeps nobody from ending.
    posting = [threading.Thread(target=post, args=(target,), daemon=True) for target in targets]
    for one in posting:
        one.start()
    until = time.monotonic() + PATIENCE
    for one in posting:
        one.join(max(0.0, until - time.monotonic()))
    return [f"no notice to {_host(target)}: {trouble}" for target, trouble in list(told.items()) if trouble]


def _check(address: str, where: str) -> None:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if not host or parts.scheme not in ("https", "http"):
        raise InputError(f"{where}: holds what is no https:// address")
    if parts.scheme == "http" and host not in LOOPBACK:
        raise InputError(
            f"{where}: {host} would be told over http://, which anybody on the way reads; use https://"
        )


def _post(address: str, body: Mapping[str, Any]) -> str:
    """ "" where it was taken, else why not, without the address."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=RETRIES,
        backoff_factor=0.3,
        backoff_max=2,
        status_forcelist=(429, 500, 502, 503, 504),
        allowed_methods=None,
        respect_retry_after_header=False,
        raise_on_status=False,
        redirect=0,
    )
    try:
        with requests.Session() as session:
            session.mount("https://", HTTPAdapter(max_retries=retry))
            session.mount("http://", HTTPAdapter(max_retries=retry))
            session.trust_env = _host(address) not in LOOPBACK  # no proxy to oneself
            reply = session.post(address, json=body, timeout=SECONDS, allow_redirects=False, stream=True)
            reply.close()
    except (requests.Timeout, requests.ConnectionError) as error:
        late = isinstance(error, requests.Timeout) or "timed out" in str(error)
        return f"it gave no answer in {SECONDS:.0f} s" if late else "it cannot be reached"
    except Exception as error:  # whatever it is, a notice is no reason to fail
        return type(error).__name__
    return "" if reply.status_code < 300 else f"it answered {reply.status_code}"


def _host(address: str) -> str:
    return scrub(urlsplit(address).hostname or "somebody")
