"""Downloads over http: credentials for one host, redirects, proxies, certificates, and nothing of them written down."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from made import params, png, tar

from videollava.data.acquire import attempts
from videollava.data.acquire.download import Download, fetch_url
from videollava.data.acquire.fetch import run
from videollava.data.acquire.remote import see_url
from videollava.data.acquire.remote_http import is_loopback
from videollava.errors import InputError
from videollava.params import Source

DATA = bytes(range(256)) * 40
BASIC = "Basic dXNlcjpzZWNyZXQ="


@dataclass
class Site:
    """A server: what it asks for, where it leads, and what it was asked."""

    port: int = 0
    wanted: str = ""
    leads: dict[str, str] = field(default_factory=dict)
    data: bytes = DATA
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        site.asked.append((self.path, dict(self.headers)))
        if self.path in site.leads:
            self.send_response(302)
            self.send_header("Location", site.leads[self.path])
            self.end_headers()
        elif site.wanted and self.headers.get("Authorization") != site.wanted:
            self.send_response(401)
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(site.data)))
            self.end_headers()
            self.wfile.write(site.data if self.command == "GET" else b"")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site})) as server:
        site.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield site
        server.shutdown()
        thread.join()


@pytest.fixture
def sites(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Site, Site]]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.0)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield stack.enter_context(serving()), stack.enter_context(serving())


def fetch(url: str, folder: Path, retries: int = 0) -> bytes:
    item = Download(url, folder / "a.tar", hashlib.sha256(DATA).hexdigest(), "params.yaml: mine")
    fetch_url(item, retries, lambda count: None, threading.Event())
    return item.target.read_bytes()


def test_credentials_in_the_address_are_sent_to_its_host(sites: tuple[Site, Site], tmp_path: Path) -> None:
    site, _ = sites
    site.wanted = BASIC
    assert fetch(f"http://user:secret@127.0.0.1:{site.port}/a b.tar?x=ü", tmp_path) == DATA
    assert site.asked[0][0] == "/a%20b.tar?x=%C3%BC"
    assert see_url(f"http://user:secret@127.0.0.1:{site.port}/a.tar", "").size == len(DATA)
    with pytest.raises(InputError, match=r"http://\*\*\*@127.*HTTP 401.*~/\.netrc") as caught:
        fetch(f"http://user:wrong-word@127.0.0.1:{site.port}/a.tar", tmp_path / "other")
    assert "wrong-word" not in str(caught.value)


def test_netrc_is_read(sites: tuple[Site, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, _ = sites
    site.wanted = BASIC
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert fetch(f"http://127.0.0.1:{site.port}/a.tar", tmp_path) == DATA


def test_a_redirect_to_another_host_gets_no_credentials(sites: tuple[Site, Site], tmp_path: Path) -> None:
    site, other = sites
    site.leads = {"/a.tar": f"http://127.0.0.1:{other.port}/b.tar", "/c.tar": "/d.tar"}
    assert fetch(f"http://user:secret@127.0.0.1:{site.port}/a.tar", tmp_path) == DATA
    assert site.asked[0][1]["Authorization"] == BASIC
    assert "Authorization" not in other.asked[0][1]
    site.wanted = BASIC
    assert fetch(f"http://user:secret@127.0.0.1:{site.port}/c.tar", tmp_path / "2") == DATA
    assert [path for path, _ in site.asked] == ["/a.tar", "/c.tar", "/d.tar"]


def test_a_server_cannot_ask_for_our_variables(
    sites: tuple[Site, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, other = sites
    monkeypatch.setenv("MY_SECRET", "hush-hush")
    site.leads = {"/a.tar": f"http://127.0.0.1:{other.port}/${{MY_SECRET}}"}
    assert fetch(f"http://127.0.0.1:{site.port}/a.tar", tmp_path) == DATA
    assert "hush" not in other.asked[0][0]


@pytest.mark.parametrize(
    ("target", "said"),
    [("/a.tar", "leads in circles"), ("file:///etc/passwd", "HTTP 302"), ("https://[/x", "no address")],
)
def test_redirects_that_lead_nowhere(
    sites: tuple[Site, Site], tmp_path: Path, target: str, said: str
) -> None:
    site, _ = sites
    site.leads = {"/a.tar": target}
    with pytest.raises(InputError) as caught:
        fetch(f"http://127.0.0.1:{site.port}/a.tar", tmp_path)
    assert said in str(caught.value)


def test_proxies_of_the_environment_but_not_for_this_machine(
    sites: tuple[Site, Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, proxy = sites
    monkeypatch.setenv("HTTP_PROXY", f"http://me:word@127.0.0.1:{proxy.port}")
    assert fetch("http://far.example/a.tar", tmp_path) == DATA
    assert proxy.asked[0][0] == "http://far.example/a.tar"
    assert proxy.asked[0][1]["Proxy-Authorization"].startswith("Basic ")
    assert fetch(f"http://127.0.0.1:{site.port}/a.tar", tmp_path / "2") == DATA
    assert fetch(f"http://localhost:{site.port}/a.tar", tmp_path / "3") == DATA
    assert len(proxy.asked) == 1
    monkeypatch.setenv("NO_PROXY", "far.example")
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:1")
    with pytest.raises(InputError, match=r"SOCKS proxy.*HTTP_PROXY to one, or NO_PROXY to near\.example"):
        fetch("http://near.example/a.tar", tmp_path / "4")
    assert [
        is_loopback(host) for host in ("[::1]:80", "127.9.9.9", "localhost:1", "10.0.0.1", "localhost.evil")
    ] == [*(True, True, True, False, False)]


def test_certificates_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    with pytest.raises(InputError, match=r"REQUESTS_CA_BUNDLE is .*missing.pem: no certificates can be read"):
        fetch("https://127.0.0.1:9/a.tar", tmp_path)


def test_a_presigned_address_leaves_its_signature_nowhere(
    sites: tuple[Site, Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    site, _ = sites
    archive = tar(tmp_path / "from/a.tar", {"1.png": png()})
    site.data = archive.read_bytes()
    digest = hashlib.sha256(site.data).hexdigest()
    monkeypatch.setenv("QUERY", "X-Amz-Signature=hidden-one")
    address = f"http://127.0.0.1:{site.port}/a.tar"
    for number, query in enumerate(("X-Amz-Signature=hidden-one&Expires=5", "${QUERY}")):
        workspace = tmp_path / str(number)
        source = Source(
            name="far", kind="archive", format="llava", urls=(f"{address}?{query}",), sha256=(digest,)
        )
        run(params(source), workspace)
        assert "X-Amz-Signature=hidden-one" in site.asked[-1][0]
        kept = [file for file in workspace.rglob("*") if file.is_file()]
        assert {file.name for file in kept} == {"a.tar", "source.json", "far.json"}
        assert not [file for file in kept if "hidden-one" in file.name or b"hidden-one" in file.read_bytes()]
    said = capsys.readouterr().out
    assert said.count("a signature or token stands in params.yaml") == 1
    assert "hidden-one" not in said
    count = len(site.asked)
    renewed = Source(
        name="far", kind="archive", format="llava", urls=(f"{address}?sig=new",), sha256=(digest,)
    )
    run(params(renewed), tmp_path / "0")
    assert len(site.asked) == count, "another signature is no other archive"
