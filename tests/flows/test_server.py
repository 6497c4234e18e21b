"""Which Prefect server a flow reports to."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import server
from flows.process import Supervised
from videollava.errors import InputError


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"true" if self.path == "/api/health" else b"{}"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def standing() -> Iterator[str]:
    """Something that answers as a Prefect server does."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/api"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


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


def test_a_dead_configured_server_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.free_port()}/api")
    with pytest.raises(InputError, match="no server answers"), server.prefect_server(tmp_path):
        pass


def test_one_that_runs_locally_is_used(
    standing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(server, "LOCAL", standing)
    with server.prefect_server(tmp_path) as found:
        assert found == server.Server(standing)
        found.wait()


def test_what_is_no_prefect_is_not_up(standing: str) -> None:
    assert server.is_up(standing)
    assert not server.is_up(standing.removesuffix("/api"))
    with pytest.raises(InputError, match="no Prefect server came up in 0 s"):
        server.Server(standing.removesuffix("/api")).wait(seconds=0.0)


def test_a_server_that_ends_at_once_is_not_waited_for(tmp_path: Path) -> None:
    ended = Supervised([sys.executable, "-c", ""], tmp_path)
    gone = server.Server(f"http://127.0.0.1:{server.free_port()}/api", ended)
    with ended, pytest.raises(InputError, match=r"the Prefect server ended.*\.prefect/server\.log"):
        gone.wait()
