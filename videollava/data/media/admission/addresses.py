"""Files behind addresses that a stranger gives: fetched once, bounded, and from no network but the public one.

A name is looked up once, every address it has is checked, and the connection goes to one of those very addresses; so
it is again at each redirect. Proxies are not used, whatever the environment says: a proxy would look the name up
itself, where nothing is checked. Compressed answers are refused, so that the bytes counted are the bytes kept.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import os
import re
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Thread, Timer
from typing import Any
from urllib.parse import SplitResult, quote, unquote, unquote_to_bytes, urljoin, urlsplit

from videollava.errors import InputError

__all__ = ["PRIVATE", "Limits", "fetch_address", "is_address", "is_allowed", "read_data_address"]

PRIVATE = "VIDEOLLAVA_PRIVATE_ADDRESSES"  # set to 1: addresses of one's own networks are fetched too
REDIRECTS = (301, 302, 303, 307, 308)
BLOCK = 1 << 16
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*(?=:)", re.IGNORECASE)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Limits:
    """size: bytes; seconds: for everything, redirects too; private: whether one's own networks are allowed."""

    size: int = 256 << 20
    seconds: float = 60.0
    redirects: int = 5
    private: bool = False

    @classmethod
    def from_environment(cls) -> Limits:
        """As above, with VIDEOLLAVA_PRIVATE_ADDRESSES."""
        return cls(private=os.environ.get(PRIVATE, "").strip().lower() in ("1", "true", "yes", "on"))


# Where clouds tell a machine its credentials: never, not even where one's own networks are allowed.
_METADATA = [
    ipaddress.ip_network(net)
    for net in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
        "168.63.129.16/32",
        "100.100.100.200/32",
        "192.0.0.192/32",
    )
]
# Not on the internet either, whatever a Python's version thinks of them.
_SPECIAL = [
    ipaddress.ip_network(net)
    for net in (
        "100.64.0.0/10",
        "192.0.0.0/24",
        "198.18.0.0/15",
        "192.88.99.0/24",
        "fec0::/10",
        "64:ff9b:1::/48",
    )
]
_OWN = [
    ipaddress.ip_network(net)
    for net in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "127.0.0.0/8",
        "100.64.0.0/10",
        "198.18.0.0/15",
        "::1/128",
        "fc00::/7",
    )
]


def is_address(text: str) -> bool:
    """Whether text is an address (http:, data:, s3:, ..) and not a path; C:\\x and a:b.png are paths."""
    found = _SCHEME.match(text)
    return found is not None and (
        text[found.end() + 1 :].startswith("//")
        or found.group().lower() in ("data", "http", "https", "javascript")
    )


def fetch_address(url: str, limits: Limits, where: str = "") -> bytes:
    """The bytes behind an http or https address.

    Raises:
        InputError: a forbidden or unreachable address, a refusal, too many bytes, redirects or seconds.
    """
    until = time.monotonic() + limits.seconds
    name = f"{where}: {url}" if where else url
    current, login = url, _login(url, name)
    for _ in range(limits.redirects + 1):
        parts = _split(current, name)
        hosts = _resolve(parts, limits, until, name)
        headers = login if _origin(parts) == _origin(_split(url, name)) else {}
        answer = _get(parts, hosts, headers, limits, until, name)
        if isinstance(answer, bytes):
            return answer
        current = urljoin(current, answer)
    raise InputError(f"{name}: more than {limits.redirects} redirects; give the last address itself")


def read_data_address(url: str, where: str = "") -> bytes:
    """The bytes that a `data:` address holds; InputError where they are not whole."""
    name = where or "data address"
    head, comma, body = url.partition(",")
    if not comma:
        raise InputError(f"{name}: {head[:40]!r} holds no data: write data:image/png;base64,...")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    text = re.sub(r"\s+", "", unquote(body)).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{name}: its base64 is broken ({error}); encode the file again") from error


def _split(url: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError as error:
        raise InputError(f"{name}: no valid address ({error}); check it") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise InputError(
            f"{name}: only http and https addresses are fetched; download the file and give its path"
        )
    if not parts.hostname:
        raise InputError(f"{name}: names no host; write https://host/file")
    return parts


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme.lower(), parts.hostname, parts.port


def _login(url: str, name: str) -> dict[str, str]:
    """The header for a user and password in the address."""
    parts = _split(url, name)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}


def _resolve(parts: SplitResult, limits: Limits, until: float, name: str) -> list[str]:
    """The addresses of the host, all of them checked."""
    port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = Thread(target=look_up, name="look up", daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if not found:
        raise InputError(f"{name}: its host was not looked up within {limits.seconds:g} s; download the file")
    if isinstance(found[0], Exception):
        raise InputError(f"{name}: no such host ({found[0]}); check the address") from found[0]
    addresses = [str(entry[4][0]) for entry in found[0]]
    for address in addresses:
        if not is_allowed(address, limits.private):
            own = f", or allow your own networks ({PRIVATE}=1)" if is_allowed(address, private=True) else ""
            raise InputError(
                f"{name}: leads to {address}, which is not on the public internet; download the file and give its "
                f"path{own}"
            )
    return list(dict.fromkeys(addresses))


def is_allowed(text: str, private: bool) -> bool:
    """Whether a numeric address may be connected to."""
    address = _innermost(ipaddress.ip_address(text.partition("%")[0]))
    if "%" in text or _within(address, _METADATA) or address.is_multicast or address.is_unspecified:
        return False
    if _within(address, _OWN):
        return private
    return address.is_global and not address.is_reserved and not _within(address, _SPECIAL)


def _within(address: Address, networks: list[Any]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 one carries (mapped, compatible, 6to4, Teredo, NAT64), if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    number = int(address)
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    if address.teredo:
        return address.teredo[1]
    if address in ipaddress.ip_network("64:ff9b::/96") or (number >> 32 == 0 and number > 0xFFFF):
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address


def _get(
    parts: SplitResult, hosts: list[str], login: Mapping[str, str], limits: Limits, until: float, name: str
) -> bytes | str:
    """The body, or where a redirect leads."""
    try:
        with _connected(parts, hosts, until) as connection:
            connection.request("GET", _target(parts), headers={**_HEADERS, **login})
            answer = connection.getresponse()
            place = answer.getheader("Location", "")
            if answer.status in REDIRECTS and place:
                return place
            if answer.status != 200:
                raise InputError(
                    f"{name}: the server answers {answer.status} {answer.reason}; check the address"
                )
            return _body(answer, limits, until, name)
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        if time.monotonic() >= until:
            raise InputError(
                f"{name}: did not come within {limits.seconds:g} s; download it first"
            ) from error
        raise InputError(
            f"{name}: cannot be fetched ({error or type(error).__name__}; proxies are not used here); download it "
            "first"
        ) from error


_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "videollava", "Accept": "*/*", "Connection": "close"}


def _target(parts: SplitResult) -> str:
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    return path + (f"?{quote(parts.query, safe='/%:@!$&()*+,;=~-._?')}" if parts.query else "")


@contextmanager
def _connected(parts: SplitResult, hosts: list[str], until: float) -> Iterator[http.client.HTTPConnection]:
    """A connection to an address that was checked, in the name of the address's host; cut when time is up."""
    secure = parts.scheme.lower() == "https"
    port = parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(_host_name(parts), port)
    line = _dial(hosts, port, until)
    if secure:
        context = ssl.create_default_context()
        line = context.wrap_socket(line, server_hostname=_host_name(parts), do_handshake_on_connect=False)
    connection.sock = line
    clock = Timer(max(0.01, until - time.monotonic()), _cut, (line,))
    clock.daemon = True
    clock.start()
    try:
        if isinstance(line, ssl.SSLSocket):
            line.do_handshake()
        yield connection
    finally:
        clock.cancel()
        connection.close()


def _dial(hosts: list[str], port: int, until: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for host in hosts:
        try:
            return socket.create_connection((host, port), timeout=max(0.01, until - time.monotonic()))
        except OSError as error:
            failure = error
    raise failure


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _is_numeric(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True


def _host_name(parts: SplitResult) -> str:
    host = parts.hostname or ""
    return host if _is_numeric(host) else host.encode("idna").decode()


def _body(answer: http.client.HTTPResponse, limits: Limits, until: float, name: str) -> bytes:
    if answer.getheader("Content-Encoding", "identity").lower() not in ("identity", ""):
        raise InputError(f"{name}: the server sends it compressed, though asked not to; download it first")
    promised = answer.length
    if promised is not None and promised > limits.size:
        raise _too_large(name, limits)
    data = bytearray()
    while block := answer.read1(BLOCK):
        data += block
        if len(data) > limits.size:
            raise _too_large(name, limits)
    if time.monotonic() >= until:  # the connection was cut, which looks like an end
        raise TimeoutError
    if promised is not None and len(data) < promised:
        raise InputError(f"{name}: only {len(data)} of {promised} bytes came; try again")
    return bytes(data)


def _too_large(name: str, limits: Limits) -> InputError:
    return InputError(f"{name}: over {limits.size >> 20} MiB; download it and give its path")
