"""Which Prefect server a flow reports to, and how it is asked."""

from __future__ import annotations

import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.servers import probe, proxies, server
from flows.servers.ports import is_ours, own_address, reserve
from flows.stages.stage import stage_environment
from videollava.errors import InputError
from videollava.process import Supervised

KEY = "pnu_0123456789abcdef"
AUTH = "admin:correct-horse-battery"


class Prefect(http.server.BaseHTTPRequestHandler):
    """Answers as a Prefect server does: health to everybody, the rest to whom `wants` lets in."""

    wants = ""
    version = "3.8.8"
    extra = ("", "")

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer()

    def answer(self) -> None:
        replies = {"/api/health": True, "/api/admin/version": self.version, "/api/flows/filter": []}
        known = self.path in replies
        name, value = self.extra
        allowed = self.headers.get("Authorization", "") == self.wants and (
            not name or self.headers.get(name) == value
        )
        free = not self.wants and not name
        status = 200 if free or allowed or self.path.endswith("/health") else 401 if self.wants else 403
        body = json.dumps(replies.get(self.path, {"detail": "Not Found"})).encode()
        self.send_response(status if known else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Proxy(Prefect):
    """A proxy that lets nothing through, and notes what it was asked for."""

    asked: list[str] = []  # noqa: RUF012

    def answer(self) -> None:
        self.asked.append(self.path)
        self.send_error(403)

    def do_CONNECT(self) -> None:
        self.answer()


@contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> Iterator[str]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context:
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield f"http{'s' if context else ''}://127.0.0.1:{httpd.server_port}/api"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@pytest.fixture
def standing() -> Iterator[str]:
    with serving(Prefect) as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [
        name for name in os.environ if name.startswith("PREFECT_") or name.lower().endswith("_proxy")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_API_URL", "NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")  # put back at the end
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    monkeypatch.setattr(proxies, "_aside", {})
    monkeypatch.chdir(tmp_path)


def nowhere() -> str:
    with reserve() as (host, port):
        return f"{own_address(host, port)}/api"


def test_the_configured_server_is_used(
    standing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", standing)
    with server.prefect_server(tmp_path) as found:
        assert found == server.Server(standing)
        found.wait()
    assert not (tmp_path / ".prefect").exists()


def test_the_active_profile_counts(standing: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "profiles.toml").write_text(
        f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{standing}"\n[profiles.other]\n'
    )
    assert server.configured_url() == standing
    (tmp_path / "home" / "profiles.toml").write_text("active = ")
    with pytest.raises(InputError, match="not valid TOML"):
        server.configured_url()


def test_prefects_own_file_counts(tmp_path: Path) -> None:
    (tmp_path / "prefect.toml").write_text('[api]\nurl = "http://prefect.corp/api"\n')
    assert server.configured_url() == "http://prefect.corp/api"


def test_one_that_runs_locally_is_used(
    standing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "LOCAL", standing)
    with server.prefect_server(tmp_path) as found:
        assert found == server.Server(standing)
        found.wait()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("exceptions", ["", "intra.corp"])
def test_our_own_servers_are_never_asked_through_a_proxy(
    standing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, exceptions: str
) -> None:
    monkeypatch.setattr(Proxy, "asked", [])
    with serving(Proxy) as proxy:
        monkeypatch.setenv(name, proxy.removesuffix("/api"))
        monkeypatch.setenv("NO_PROXY", exceptions)
        assert probe.is_up(standing)
        monkeypatch.setenv("PREFECT_API_URL", standing)
        with server.prefect_server(tmp_path) as found:
            assert found == server.Server(standing)
        child = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + '/health')"
        command = [sys.executable, "-c", child, standing]
        subprocess.run(command, env=stage_environment(tmp_path), check=True)
    assert Proxy.asked == []


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks://127.0.0.1:9", "socks4://x:1"])
def test_a_socks_proxy_does_not_keep_prefect_from_loopback(
    standing: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    proxy: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("PREFECT_API_URL", standing)
    with server.prefect_server(tmp_path) as found:
        assert found == server.Server(standing)
    assert "ALL_PROXY: Prefect's client cannot use a socks" in capsys.readouterr().err
    assert "ALL_PROXY" not in os.environ
    assert stage_environment(tmp_path)["ALL_PROXY"] == proxy
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert "proxy" in probe.why_not("http://prefect.corp/api").lower()


@pytest.mark.parametrize(
    ("name", "value", "left"),
    [
        ("HTTP_PROXY", ":bad", None),
        ("https_proxy", "http://proxy.corp:31 28x", None),
        ("ALL_PROXY", "ftp://proxy.corp", None),
        ("no_proxy", "intra.corp,corp:abc, 10.0.0.0/8", "intra.corp,10.0.0.0/8"),
        ("NO_PROXY", "münchen.corp,*.corp", "*.corp"),
    ],
)
def test_what_httpx_cannot_read_does_not_keep_prefect_from_loopback(
    standing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, left: str | None
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    monkeypatch.setenv("PREFECT_API_URL", standing)
    with server.prefect_server(tmp_path) as found:
        assert found == server.Server(standing)
    if left is None:
        assert name not in os.environ
        assert stage_environment(tmp_path)[name] == value
    else:
        assert os.environ[name].startswith(left)
        assert stage_environment(tmp_path)[name].startswith(value.replace(", ", ","))


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_of_certificates_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    if content:
        (tmp_path / "ca.pem").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(InputError, match=r"SSL_CERT_FILE is .*ca.pem, but no certificates can be read"):
        server.find_configured()


@pytest.mark.parametrize(
    ("settings", "wants", "extra"),
    [
        ({"PREFECT_API_KEY": KEY}, f"Bearer {KEY}", ("", "")),
        ({"PREFECT_API_AUTH_STRING": AUTH}, f"Basic {b64encode(AUTH.encode()).decode()}", ("", "")),
        ({"PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Gate": "opened"}'}, "", ("X-Gate", "opened")),
    ],
)
@pytest.mark.parametrize("place", ["environment", "profile"])
def test_a_server_is_asked_with_what_prefect_itself_would_use(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    settings: dict[str, str],
    wants: str,
    extra: tuple[str, str],
    place: str,
) -> None:
    monkeypatch.setattr(Prefect, "wants", wants)
    monkeypatch.setattr(Prefect, "extra", extra)
    with serving(Prefect) as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        with pytest.raises(
            InputError, match=r"asks for credentials .HTTP 401|refuses the credentials .HTTP 403"
        ):
            server.find_configured()
        if place == "environment":
            for name, value in settings.items():
                monkeypatch.setenv(name, value)
            assert server.find_configured() == url
        else:
            monkeypatch.delenv("PREFECT_API_URL")
            (tmp_path / "home").mkdir()
            lines = [
                f"{name} = {json.dumps(value)}"
                for name, value in {"PREFECT_API_URL": url, **settings}.items()
            ]
            profile = "\n".join(['active = "team"', "[profiles.team]", *lines])
            (tmp_path / "home" / "profiles.toml").write_text(profile)
            ask = "from flows.servers.server import find_configured; print(find_configured())"  # settings are read once
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(
                [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
            )
            assert done.stdout.strip() == url


def test_a_wrong_key_is_said_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prefect, "wants", "Bearer another")
    monkeypatch.setenv("PREFECT_API_KEY", KEY)
    with serving(Prefect) as url:
        address = url.replace("://", "://somebody:s3cret-word@")
        monkeypatch.setenv("PREFECT_API_URL", address)
        with pytest.raises(InputError, match="it asks for credentials") as caught:
            server.find_configured()
    assert KEY not in str(caught.value)
    assert "s3cret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://no-such-host.invalid/api", "host name is not known"),
        ("{nowhere}", "nothing answers"),
        ("{standing}/v2", "is no Prefect API .HTTP 404.; its address usually ends in /api"),
        ("{bare}", "is no Prefect API .HTTP 404.; its address usually ends in /api"),
        ("ftp://prefect.corp/api", "begins with neither http:// nor https://"),
        ("prefect.corp:4200", "begins with neither http:// nor https://"),
    ],
)
def test_a_wrong_address_is_said_within_seconds(
    standing: str, monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    filled = address.format(nowhere=nowhere(), standing=standing, bare=standing.removesuffix("/api"))
    monkeypatch.setenv("PREFECT_API_URL", filled)
    began = time.monotonic()
    with pytest.raises(InputError, match=words):
        server.find_configured()
    assert time.monotonic() - began < 20


def test_a_certificate_of_the_company_is_taken_and_a_strange_one_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    try:
        subprocess.run([*made, *files], cwd=tmp_path, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(Prefect, context) as url:
        assert "certificate is not trusted" in probe.why_not(url)
        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_API_SSL_CERT_FILE", str(tmp_path / "cert.pem"))
            assert probe.why_not(url) == ""
        monkeypatch.setenv("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "true")
        assert probe.why_not(url) == ""


def test_what_is_no_prefect_of_ours_is_not_up(standing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.is_up(standing)
    assert not probe.is_up(standing.removesuffix("/api"))
    assert not probe.is_up(nowhere())
    monkeypatch.setattr(probe, "is_ours", lambda port: False)  # another user's
    assert not probe.is_up(standing)
    monkeypatch.undo()
    monkeypatch.setattr(Prefect, "version", "2.20.1")
    assert not probe.is_up(standing)


def test_who_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert is_ours(listening.getsockname()[1])


def test_a_server_that_asks_for_a_key_is_used_with_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prefect, "wants", f"Basic {b64encode(AUTH.encode()).decode()}")
    with serving(Prefect) as url:
        assert not probe.is_up(url)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", AUTH)
        assert probe.is_up(url)


def test_a_reserved_port_is_nobody_elses_until_the_server_listens() -> None:
    with reserve() as (host, port):
        with reserve(port) as (_, other):
            assert other == port or sys.platform != "linux"
        with socket.create_server((host, port)), reserve(port) as (_, other):
            assert other != port


def test_where_there_is_no_ipv4_loopback_ipv6_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.servers.ports.HOSTS", {"192.0.2.1": socket.AF_INET, "::1": socket.AF_INET6})
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        with reserve() as (host, port):
            assert own_address(host, port) == f"http://[::1]:{port}"
    except InputError:
        pytest.skip("no IPv6 here")


def test_a_server_that_ends_at_once_is_not_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("Port 4321 is already in use.\n\n")
    ended = Supervised([sys.executable, "-c", ""], tmp_path)
    gone = server.Server(nowhere(), ended, log)
    with ended, pytest.raises(InputError, match=r"the Prefect server ended.*already in use.*server\.log"):
        gone.wait()


def test_our_own_server_is_not_a_teams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither its database nor its profile, and nothing on other interfaces: by the environment it starts with."""
    seen: dict[str, object] = {}

    class Started:
        def __init__(self, command: list[str], cwd: Path, environment: dict[str, str], *_: object) -> None:
            seen.update(command=command, environment=environment)

        def __enter__(self) -> Started:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(server, "Supervised", Started)
    monkeypatch.setattr(server, "LOCAL", nowhere())
    monkeypatch.setenv(
        "PREFECT_SERVER_DATABASE_CONNECTION_URL", "postgresql+asyncpg://u:secret-word@db/prefect"
    )
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", AUTH)
    monkeypatch.setenv("PREFECT_SERVER_API_HOST", "0.0.0.0")
    monkeypatch.setenv("PREFECT_PROFILE", "team")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.corp:1")
    with server.prefect_server(tmp_path) as found:
        assert found.url.startswith("http://127.0.0.1:")
        assert os.environ["PREFECT_API_URL"] == found.url
        assert "PREFECT_PROFILE" not in os.environ
    environment, command = seen["environment"], seen["command"]
    assert isinstance(environment, dict)
    assert isinstance(command, list)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert not [name for name in environment if name.startswith(server.THEIRS)]
    assert "127.0.0.1" in environment["NO_PROXY"].split(",")
    assert urllib.request.proxy_bypass("127.0.0.1:4200")


def test_the_pages_verb_takes_no_arguments_and_drops_none() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.ui", "5000"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "unrecognized arguments: 5000" in done.stderr
