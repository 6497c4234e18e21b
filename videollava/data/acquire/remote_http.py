"""Opens an object over http(s): the environment's proxies and certificates, credentials for their own host alone."""

from __future__ import annotations

import io
import ipaddress
import os
import ssl
import urllib.error
import urllib.request
from typing import Any

from videollava.data.acquire.addresses import Address, parse_address
from videollava.data.acquire.credentials import authorization, hint
from videollava.data.acquire.replies import TIMEOUT, TRANSIENT, Answer, Seen, Span, TransientError
from videollava.errors import InputError

__all__ = ["is_loopback", "open_http", "see_http"]

HEADERS = {"User-Agent": "videollava", "Accept-Encoding": "identity"}
BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
MOST_REDIRECTS = 10


def open_http(address: Address, span: Span, version: str, origin: str) -> Answer:
    """Open an address's span; see remote.open_url."""
    headers = {}
    if not span.is_whole:
        headers["Range"] = span.header
        if version:
            headers["If-Range"] = version
    try:
        reply = _send(address, "GET", headers, origin)
    except urllib.error.HTTPError as error:
        with error:
            return _refused(error, address, span.start, version, origin)
    except InputError:
        raise
    except ValueError as error:  # of urllib's own reading of where a server leads
        raise InputError(f"{origin}: {address.shown}: leads on to what is no address") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise InputError(
                f"{origin}: {address.shown}: its certificate is not trusted ({error.reason.verify_message}); set "
                "SSL_CERT_FILE to a file with the certificates to trust, such as your company's"
            ) from error
        raise
    if reply.status == 206:
        first, total = _range_of(reply.headers.get("Content-Range", ""))
    else:
        first, total = 0, _length_of(reply)
    return Answer(reply, first, total, _version_of(reply))


def see_http(address: Address, origin: str) -> Seen:
    """An object's size and version by HEAD, or where a server refuses that, by opening it."""
    try:
        with _send(address, "HEAD", {}, origin) as reply:
            return Seen("", _length_of(reply), _version_of(reply))
    except (urllib.error.HTTPError, ValueError):
        answer = open_http(address, Span(), "", origin)
        answer.body.close()
        return Seen("", answer.total, answer.version)


def _version_of(reply: Any) -> str:
    """If-Range takes strong tags and dates only; a weak tag identifies no bytes."""
    tag: str = reply.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else str(reply.headers.get("Last-Modified", ""))


def _send(address: Address, method: str, headers: dict[str, str], origin: str) -> Any:
    request = urllib.request.Request(address.url, headers={**HEADERS, **headers}, method=method)
    known = authorization(address)
    if known:
        request.add_unredirected_header("Authorization", known)
    opener = urllib.request.OpenerDirector()
    for handler in (
        _Proxies(_proxies_of_environment(address, origin)),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_trusted(origin)),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(address, origin),
    ):
        opener.add_handler(handler)
    return opener.open(request, timeout=TIMEOUT)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to other addresses of the web, with credentials only where they are for the new host."""

    max_redirections = MOST_REDIRECTS

    def __init__(self, address: Address, origin: str) -> None:
        self._address, self._origin = address, origin

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request:
        where = f"{self._origin}: {self._address.shown} leads on"
        target = parse_address(newurl.partition("#")[0], where, variables=False)
        if target.scheme not in ("http", "https"):
            raise InputError(
                f"{self._origin}: {self._address.shown}: leads on to {target.scheme}://; refused"
            )
        kept = {name: value for name, value in req.headers.items() if name.lower() != "host"}
        request = urllib.request.Request(target.url, headers=kept, method=req.get_method())
        known = self._known(target)
        if known:
            request.add_unredirected_header("Authorization", known)
        return request

    def _known(self, target: Address) -> str:
        """Credentials for where it goes: the first address's where that is its host, else the host's own."""
        first = self._address
        upgraded = first.site[:2] == ("http", target.host) and (first.port, *target.site[::2]) == (
            80,
            "https",
            443,
        )
        if target.site == first.site or upgraded:
            return authorization(first)
        return authorization(target) if target.scheme == "https" else ""


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies, save for servers of this machine."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_loopback(req.host):
            return None
        return super().proxy_open(req, proxy, type)


def is_loopback(site: str) -> bool:
    """Whether a host, with or without its port, is this machine."""
    host = site.rpartition("]")[0].lstrip("[") or site.partition(":")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _proxies_of_environment(address: Address, origin: str) -> dict[str, str]:
    given = urllib.request.getproxies()
    proxies = {scheme: given.get(scheme) or given.get("all", "") for scheme in ("http", "https")}
    used = proxies[address.scheme]
    free = is_loopback(address.host) or urllib.request.proxy_bypass(address.host)
    if used.lower().startswith("socks") and not free:
        raise InputError(
            f"{origin}: {address.shown}: the environment names a SOCKS proxy, and only HTTP proxies are spoken to; "
            f"set {address.scheme.upper()}_PROXY to one, or NO_PROXY to {address.host}"
        )
    return {scheme: proxy for scheme, proxy in proxies.items() if proxy}


def _trusted(origin: str) -> ssl.SSLContext:
    """Certificates that the system trusts, and those of the environment."""
    context = ssl.create_default_context()
    for name in BUNDLES:
        place = os.environ.get(name)
        if place:
            try:
                context.load_verify_locations(**{"capath" if os.path.isdir(place) else "cafile": place})
            except (OSError, ssl.SSLError) as error:
                raise InputError(f"{origin}: {name} is {place}: no certificates can be read there") from error
    return context


def _length_of(reply: Any) -> int:
    stated = reply.headers.get("Content-Length", "")
    return int(stated) if stated.isdigit() else -1


def _range_of(header: str) -> tuple[int, int]:
    """Start and total of a Content-Range such as "bytes 5-9/10"."""
    span, _, total = header.removeprefix("bytes ").partition("/")
    start = span.partition("-")[0]
    if not start.isdigit():
        raise TransientError(f"an odd Content-Range: {header!r}")
    return int(start), int(total) if total.isdigit() else -1


def _refused(
    error: urllib.error.HTTPError, address: Address, start: int, version: str, origin: str
) -> Answer:
    if error.code == 416 and start:  # nothing is left to send, or the object has shrunk: then all of it again
        if error.headers.get("Content-Range", "") == f"bytes */{start}":
            return Answer(io.BytesIO(), start, start, version)
        return open_http(address, Span(), "", origin)
    if error.code in TRANSIENT:
        after = error.headers.get("Retry-After", "")
        raise TransientError(f"HTTP {error.code} {error.reason}", float(after) if after.isdigit() else 0.0)
    what = f"{origin}: {address.shown}: HTTP {error.code} {error.reason}; "
    if 300 <= error.code < 400:
        raise InputError(
            f"{what}it leads in circles, or more than {MOST_REDIRECTS} times on; check the address"
        )
    remedy = f"; {hint(address)}" if error.code in (401, 403, 404) else ""
    if error.code == 407:
        remedy = f"; the proxy's user and password belong into {address.scheme.upper()}_PROXY"
    raise InputError(f"{what}check the address and who may read it{remedy}")
