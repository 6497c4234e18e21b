"""Addresses as people write them: any characters, credentials or none; what is opened of them, and what is shown.

`${NAME}` in an address is the environment's variable of that name: a password or a signature stands there, and
params.yaml, which git, DVC and MLflow keep, has only the name. What is shown of an address has neither user nor query.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from videollava.errors import InputError

__all__ = ["Address", "file_name", "is_address", "is_prefix", "key_address", "parse_address", "shown"]

PORTS = {"http": 80, "https": 443}
LONGEST_NAME = 200  # bytes of a file's name, so that endings can be put behind it
# s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/KEY, also of Outposts: what stands for a bucket has slashes in it.
_ACCESS_POINT = re.compile(
    r"arn:[^:/]+:s3[^:/]*:[^:/]*:[^:/]*:(?:outpost[/:][^/:]+[/:])?accesspoint[/:][^/:]+(?=/|$)"
)
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# A percent sign, what would be a variable, and what no address may have or its ends would lose.
_QUOTED_IN_KEY = re.compile(r"[%$\x00-\x1f\x7f]|^\s+|\s+$")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True)
class Address:
    """An address taken apart.

    url: what is asked for over http(s), quoted, without credentials. user: (name, password) in it. host: lower case,
    without brackets; of s3 the bucket. names: keys or paths that may be meant, the likeliest first. file: the name
    that its file gets here. shown: what errors say.
    """

    scheme: str
    host: str
    file: str
    shown: str = ""
    url: str = ""
    user: tuple[str, str] | None = None
    port: int = 0
    names: tuple[str, ...] = ()

    @property
    def site(self) -> tuple[str, str, int]:
        """Whom credentials are for: scheme, host and port."""
        return self.scheme, self.host, self.port


def parse_address(text: str, origin: str, *, variables: bool = True) -> Address:
    """Take an address apart; `origin` names the parameter in errors.

    variables: read `${NAME}`; never in an address that came from a server, which would ask for what it likes.

    Raises InputError where it is none, or where it may mean several things.
    """
    place = f"{origin}: {shown(text)!r}"
    plain = _expand(text.strip(), place) if variables else text.strip()
    if _CONTROL.search(plain):
        raise InputError(f"{place}: a line break or another control character in it; write it in one line")
    scheme, mark, rest = plain.partition(":")
    scheme = scheme.lower()
    takers = {"s3": _take_s3, "file": _take_file, "http": _take_http, "https": _take_http}
    if not mark or scheme not in takers or (scheme != "file" and not rest.startswith("//")):
        raise InputError(f"{place}: addresses start with s3://, https://, http:// or file:///")
    return replace(takers[scheme](scheme, rest.removeprefix("//"), place), shown=shown(text))


def is_address(text: str) -> bool:
    """Whether this names something elsewhere, or a variable that does, rather than a file."""
    return "://" in text or text.strip().startswith("${")


def is_prefix(text: str) -> bool:
    """Whether this means every object below it: an address of s3 that ends in /."""
    return text.strip().lower().startswith("s3://") and text.strip().endswith("/")


def key_address(bucket: str, key: str) -> str:
    """The address of a key as a store lists it: what would be read otherwise is quoted."""
    return f"s3://{bucket}/{_QUOTED_IN_KEY.sub(lambda found: quote(found[0], safe=''), key)}"


def file_name(text: str, origin: str) -> str:
    """The name that the file at an address gets here, "" where it has none.

    The address's variables need not be set where they are no part of the name.
    """
    scheme, mark, rest = text.strip().partition("://")
    path = rest.partition("/")[2]
    if scheme.lower() in PORTS:
        path = re.split(r"[?#]", _split_authority(rest)[1])[0]
    if not mark or "${" in path.rstrip("/").rpartition("/")[2]:
        return parse_address(text, origin).file
    return _last_part(path)


def shown(text: str) -> str:
    """An address without what may be secret in it: user and password, query, fragment; hidden where in doubt."""
    scheme, mark, rest = _CONTROL.sub(" ", text.strip()).partition("://")
    if not mark:
        return f"***@{scheme.rpartition('@')[2]}" if "@" in scheme else scheme
    authority, tail = _split_authority(rest)
    _, at, host = authority.rpartition("@")
    if "@" in tail and (at or not _is_port(re.sub(r"\[.*?\]", "", authority).partition(":")[2])):
        at, (host, tail) = "@", _split_authority(rest.rpartition("@")[2])  # a password with a slash in it
    path = re.split(r"[?#]", tail)[0] if scheme.lower() in PORTS else tail
    return f"{scheme}://{'***@' if at else ''}{host}{path}{'?***' if len(path) < len(tail) else ''}"


def _split_authority(rest: str) -> tuple[str, str]:
    """User, host and port, and what follows them."""
    found = re.search(r"[/?#]", rest)
    return (rest, "") if found is None else (rest[: found.start()], rest[found.start() :])


def _expand(text: str, place: str) -> str:
    """The address with the environment's values; those of a user and a password are quoted."""
    scheme, mark, rest = text.partition("://")
    user_ends = text.rfind("@", 0, len(scheme + mark + _split_authority(rest)[0]))

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise InputError(f"{place}: the environment has no variable {found[1]}; set it")
        given = os.environ[found[1]].strip()
        return quote(given, safe="") if found.start() < user_ends else given

    return _VARIABLE.sub(value, text)


def _take_http(scheme: str, rest: str, place: str) -> Address:
    authority, tail = _split_authority(rest)
    user, at, site = authority.rpartition("@")
    found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", site)
    if found is None or not _is_port(found[2] or ""):
        raise InputError(
            f"{place}: host and port are not clear; an IPv6 host stands in [ ], and in a password / is written %2F, "
            "? %3F, # %23 and @ %40"
        )
    if at and "@" in tail:
        raise InputError(
            f"{place}: two @: in a password write @ as %40, / as %2F and ? as %3F, in a path @ as %40"
        )
    if "#" in tail:
        raise InputError(
            f"{place}: # begins a fragment; write %23 for a # in a name, or leave the fragment out"
        )
    host, port = _host(found[1], place), int(found[2] or PORTS[scheme])
    path, _, query = tail.partition("?")
    name, _, password = user.partition(":")
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}{'' if port == PORTS[scheme] else f':{port}'}"
    return Address(
        scheme,
        host,
        file=_last_part(path),
        url=f"{url}{_quoted(path) or '/'}{f'?{_quoted(query)}' if query else ''}",
        user=(unquote(name), unquote(password)) if user else None,
        port=port,
    )


def _host(text: str, place: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError as error:
            raise InputError(f"{place}: {text} is no IPv6 address") from error
    try:
        host = (text if text.isascii() else text.encode("idna").decode()).lower().removesuffix(".")
    except UnicodeError as error:
        raise InputError(f"{place}: {text!r} is no name of a host") from error
    if not _HOST.fullmatch(host):
        raise InputError(f"{place}: {text!r} is no name of a host")
    return host


def _is_port(text: str) -> bool:
    return not text or (text.isascii() and text.isdigit() and 0 < int(text) < 65536)


def _quoted(text: str) -> str:
    return quote(_STRAY_PERCENT.sub("%25", text), safe="/%:@!$&'()*+,;=~?")


def _take_s3(scheme: str, rest: str, place: str) -> Address:
    point = _ACCESS_POINT.match(rest)
    bucket, _, key = (point[0], "", rest[point.end() + 1 :]) if point else rest.partition("/")
    if "@" in bucket:
        raise InputError(
            f"{place}: credentials of s3 come from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE), not from the address"
        )
    if not bucket or (not key and not rest.endswith("/")):
        raise InputError(f"{place}: an object is written s3://BUCKET/KEY")
    return Address(scheme, bucket, file=_last_part(key), names=_meant(key))


def _take_file(scheme: str, rest: str, place: str) -> Address:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise InputError(f"{place}: a local file is written file:///absolute/path")
    return Address(scheme, "", file=_last_part(path), names=_meant(f"/{path}"))


def _meant(name: str) -> tuple[str, ...]:
    """A name with its percent signs read, and as it stands."""
    return tuple(dict.fromkeys((unquote(name), name)))


def _last_part(path: str) -> str:
    """A file's name out of a path, "" where there is none that a file may have."""
    name = PurePosixPath(unquote(path)).name
    if name in (".", "..") or _CONTROL.search(name) or len(name.encode("utf-8", "replace")) > LONGEST_NAME:
        return ""
    return name
