"""Who we are to a host: from the address, the environment or ~/.netrc, each for that host alone."""

from __future__ import annotations

import base64
import netrc
import os
from pathlib import Path
from urllib.parse import urlsplit

from videollava.data.acquire.addresses import Address

__all__ = ["authorization", "hint"]

HUB = {"huggingface.co", "hf.co"}
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def authorization(address: Address) -> str:
    """The Authorization header for an address, "" for none.

    The address's own user first, then for Hugging Face's hub over https its token (HF_TOKEN, or what its login left),
    then the host's entry in the file that NETRC names, ~/.netrc by default. An entry for any host is not used.
    """
    if address.user is not None:
        return _basic(*address.user)
    if _is_hub(address) and (token := _hub_token()):
        return f"Bearer {token}"
    entry = _netrc()[0].get(address.host)
    return _basic(entry[0], entry[2]) if entry else ""


def hint(address: Address) -> str:
    """What to do where a host refuses to answer us."""
    if _is_hub(address):
        return "set HF_TOKEN to a token that may read it, and accept its terms on its page"
    problem = _netrc()[1]
    way = f"put `machine {address.host} login USER password PASSWORD` into ~/.netrc, or ${{NAME}} into the address"
    return f"{way} and set that variable{f' ({problem})' if problem else ''}"


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _is_hub(address: Address) -> bool:
    mirror = urlsplit(os.environ.get("HF_ENDPOINT", "")).hostname
    return address.scheme == "https" and (address.host in HUB or address.host == mirror)


def _hub_token() -> str:
    given = next((os.environ[name].strip() for name in HUB_TOKENS if os.environ.get(name)), "")
    if given:
        return given
    home = os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")
    file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _netrc() -> tuple[dict[str, tuple[str, str, str]], str]:
    """Entries by host, and why they cannot be read: an entry for other hosts must not end a download."""
    names = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    file = next((path for name in names if (path := os.path.expanduser(name)) and os.path.isfile(path)), "")
    if not file:
        return {}, ""
    try:
        hosts = netrc.netrc(file).hosts
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
        line = f" at line {error.lineno}" if isinstance(error, netrc.NetrcParseError) else ""
        return {}, f"{file} cannot be read{line}"
    return {
        host: (user or "", account or "", word or "") for host, (user, account, word) in hosts.items()
    }, ""
