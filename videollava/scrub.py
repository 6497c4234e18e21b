"""Credentials out of text, for every error, log line, tag and artifact: the one place that knows what they look like.

What people write keeps working (`https://user:secret@host/x.tar` is fetched with its password); what is shown
or kept of it goes through `scrub`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus, unquote

__all__ = ["HIDDEN", "has_password", "has_signature", "is_secret_name", "scrub"]

HIDDEN = "***"
SHORTEST = 6  # an environment value below this is no secret, but a word that would be cut out of every text

# Between "://" and the host, up to the last "@": passwords hold "@", "/" and "?" where people did not quote them.
_AUTHORITY = re.compile(
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s\"'<>`]*)@(?=[\w.\[-])", re.IGNORECASE
)
_NAMES = (
    r"(?:x-amz-|x-goog-|x-ms-)?(?:signature|credential|security-token)|sig|awsaccesskeyid|googleaccessid"
    r"|(?:[\w-]*[_-])?(?:api|access|auth|secret|private|account|aws|session|client)[_-]?(?:key|secret|token)(?:[_-]?id)?"
    r"|(?:[\w-]*[_-])?(?:secret|passw(?:or)?d|passphrase|pwd|credentials?)"
    # Language models have tokens too: pad_token and its like are no credentials.
    r"|(?!(?:\w+_)?(?:bos|eos|pad|unk|sep|cls|mask|image|video|audio|label|new|first|last|next|per|a|in|out)_token)"
    r"(?:[\w-]*[_-])?token"
)
# What goes on after "credentials:" in a sentence, and names of variables that hold what is secret.
_PROSE = (
    r"(?<=\s)(?:set|see|use|give|take|check|run|put|write|ask|name|where|which|the|its|it|an?|and|or|not?|is|are)(?=\s)"
    r"|[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w/+=-])"
)
# name=value, name: value, "name": "value"; a value ends at a separator or, in quotes, at the quote.
_ASSIGNED = re.compile(
    rf"(?P<name>(?<![\w-])[\"']?(?:{_NAMES})[\"']?\s*(?:=|:(?!//))\s*)"
    rf"(?:(?P<quote>[\"'])(?P<quoted>(?:(?!(?P=quote)).)+)(?P=quote)|(?!{_PROSE})(?P<bare>[^\s\"'&;,)}}\]]+))",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<kind>\bauthorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|digest|token)\s+)?|\bbearer\s+)"
    r"(?!(?:basic|bearer|digest|token)\b)(?P<value>[A-Za-z0-9._~+/=-]{6,})",
    re.IGNORECASE,
)
_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{10,}|sk-[A-Za-z0-9_-]{10,}|gh[pousr]_[A-Za-z0-9]{10,}|github_pat_\w{10,}|glpat-[\w-]{10,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{12,}|xox[abprs]-[\w-]{8,}|pnu_\w{10,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+)"
)
_VARIABLE = re.compile(r"\$\{\w+\}")
_SECRET_NAME = re.compile(rf"(?:^|_)(?:{_NAMES}|key|pass|auth_string)$", re.IGNORECASE)


def scrub(text: str) -> str:
    """`text` with `***` in the place of credentials, and everything else as it is.

    Passwords and tokens in addresses (also where their characters are not quoted), signatures of presigned
    addresses, `name=value` of telling names, authorization headers, tokens of known shape, and the values of
    environment variables whose names say that they are secret.
    """
    for secret in _environment_secrets():
        text = text.replace(secret, HIDDEN)
    if "@" in text:
        text = _AUTHORITY.sub(_hide_user, text)
    text = _ASSIGNED.sub(_hide_value, text)
    text = _HEADER.sub(lambda found: f"{found['kind']}{HIDDEN}", text)
    return _SHAPES.sub(HIDDEN, text)


def has_password(address: str) -> bool:
    """Whether an address holds a password or a token itself before its host, not just the name of a variable
    (`https://user:${NAME}@host`).
    """
    user, at, _ = address.partition("://")[2].rpartition("@")
    head, slash, _ = user.partition("/")
    if slash and (":" not in head or head.rpartition(":")[2].isdigit()):
        user, at, _ = head.rpartition("@")  # the other @ is part of a path
    name, colon, password = user.partition(":")
    return bool(at) and bool(_VARIABLE.sub("", password if colon else name))


def has_signature(address: str) -> bool:
    """Whether an address holds a token or a presigned signature itself, not just the name of a variable."""
    query = _VARIABLE.sub("", address).partition("?")[2]
    return scrub(query) != query


def is_secret_name(name: str) -> bool:
    """Whether a variable or field of this name holds a credential."""
    return bool(_SECRET_NAME.search(name))


def _hide_user(found: re.Match[str]) -> str:
    user = found["user"]
    # "https://host/path and me@host": the part before a slash is a host, unless a password went on behind it.
    head, slash, _ = user.partition("/")
    if slash and (":" not in head or head.rpartition(":")[2].isdigit()):
        return found.group()
    if ":" not in user and "ssh" in found["scheme"]:
        return found.group()  # an account's name, not a token
    return f"{found['scheme']}{HIDDEN}@"


def _hide_value(found: re.Match[str]) -> str:
    mark = found["quote"] or ""
    return f"{found['name']}{mark}{HIDDEN}{mark}"


def _environment_secrets() -> Iterator[str]:
    """Values of secret variables, and as they stand in addresses; longer ones first."""
    # PWD is where a shell is, and no password.
    values = {value.strip() for name, value in os.environ.items() if is_secret_name(name) and name != "PWD"}
    found = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
    return iter(sorted(found, key=len, reverse=True))


def _forms(value: str) -> set[str]:
    return {value, quote(value, safe=""), quote_plus(value), unquote(value)}
