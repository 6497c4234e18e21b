"""Servers on this machine are asked directly by every library, a stage ends with its supervisor, and torch is told."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import httpx
import pytest
from requests.utils import get_environ_proxies

from videollava.environment import SUPERVISED, ask_loopback_directly, is_loopback, settle_torch

OURS = ("http://127.0.0.1:4200/api", "http://localhost:5000", "http://0.0.0.0:4200/api")
PROXY = "http://proxy.corp:3128"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def by_urllib(url: str) -> bool:
    asked = urllib.request.Request(url)
    return bool(urllib.request.getproxies().get(asked.type)) and not urllib.request.proxy_bypass(asked.host)


def by_requests(url: str) -> bool:
    return any(get_environ_proxies(url).get(scheme) for scheme in ("all", url.partition(":")[0]))


def by_httpx(url: str) -> bool:
    with httpx.Client() as client:
        transport = client._transport_for_url(httpx.URL(url))
    return transport is not client._transport


ASKED = [by_urllib, by_requests, by_httpx]


@pytest.mark.parametrize("through_proxy", ASKED)
@pytest.mark.parametrize(
    "settings",
    [
        {"HTTP_PROXY": PROXY},
        {"http_proxy": PROXY, "https_proxy": PROXY},
        {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY},
        {"http_proxy": PROXY, "NO_PROXY": "intra.corp"},
        {"http_proxy": PROXY, "no_proxy": " intra.corp , 10.0.0.0/8,"},
        {"HTTP_PROXY": PROXY, "no_proxy": "intra.corp", "NO_PROXY": "other.corp,intra.corp"},
        {"HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.0/8,intra.corp"},
        {"HTTP_PROXY": PROXY, "NO_PROXY": "[::1],intra.corp"},
        {"HTTP_PROXY": PROXY, "NO_PROXY": "::1/128,fe80::/10,intra.corp"},
        {"HTTP_PROXY": PROXY, "no_proxy": "", "NO_PROXY": "intra.corp"},
    ],
)
def test_every_library_asks_loopback_directly_and_others_as_before(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], through_proxy: object
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", settings.get("NO_PROXY", ""))  # put back at the end
    monkeypatch.setenv("no_proxy", settings.get("no_proxy", ""))
    ask_loopback_directly()
    assert callable(through_proxy)
    assert [through_proxy(url) for url in OURS] == [False] * len(OURS)
    assert through_proxy("http://huggingface.co/models")
    if "intra.corp" in "".join(settings.values()):
        assert not through_proxy("http://intra.corp/x")
    before = dict(os.environ)
    ask_loopback_directly()
    assert dict(os.environ) == before


def test_a_star_stays_a_star(monkeypatch: pytest.MonkeyPatch) -> None:
    for listed in ("*", "*, localhost"):
        environment = {"HTTP_PROXY": PROXY, "NO_PROXY": listed}
        ask_loopback_directly(environment)
        assert environment["NO_PROXY"] == environment["no_proxy"] == "*"


@pytest.mark.parametrize("environment", [{}, {"NO_PROXY": "x"}, {"HTTP_PROXY": ""}])
def test_where_no_proxy_is_set_nothing_is(environment: dict[str, str]) -> None:
    before = dict(environment)
    ask_loopback_directly(environment)
    assert environment == before


def test_the_systems_proxies_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("videollava.environment._system_proxies", lambda: {"http": PROXY, "https": PROXY})
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    ask_loopback_directly()
    assert by_httpx("http://huggingface.co")
    assert not by_httpx(OURS[0])


@pytest.mark.parametrize(
    ("url", "ours"),
    [
        ("http://127.0.0.1:4200/api", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:5000", True),
        ("http://prefect.localhost", True),
        ("https://prefect.corp/api", False),
        ("http://10.0.0.1:4200", False),
        ("http://127.0.0.1.evil.org", False),
        ("sqlite:///x.db", False),
    ],
)
def test_what_is_loopback(url: str, ours: bool) -> None:
    assert is_loopback(url) is ours


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_a_stage_ends_when_all_above_it_are_killed_at_once(tmp_path: Path) -> None:
    stage = (
        "import time; from videollava.environment import end_with_supervisor as go; go(); print('up', flush=True);"
        "time.sleep(600)"
    )
    above = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    environment = {**os.environ, SUPERVISED: "x", "PYTHONPATH": os.getcwd()}
    running = subprocess.Popen(
        [sys.executable, "-c", above, stage], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "up\n"
    running.kill()
    running.wait()
    assert running.stdout.read() == ""  # returns when the stage's end of it is closed
    running.stdout.close()


def test_torch_is_told_how_to_wait_and_to_allocate_unless_the_user_has() -> None:
    told: dict[str, str] = {}
    settle_torch(told)
    assert told == {"GOMP_SPINCOUNT": "2000", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        own = {name: "max_split_size_mb:64", "GOMP_SPINCOUNT": "0"}
        settle_torch(own)
        assert own == {name: "max_split_size_mb:64", "GOMP_SPINCOUNT": "0"}


STEPS = """
import resource, sys, torch
from videollava.environment import keep_freed_memory
torch.set_num_threads(1)
print(keep_freed_memory() if sys.argv[1:] else None)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():  # 64 MiB and again: glibc by itself maps what is beyond 32 anew each time
    return (torch.zeros(1 << 24) + 1).sum()
for _ in range(10):
    step()
before = faults()
for _ in range(5):
    step()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_step_finds_the_memory_of_the_one_before() -> None:
    def run(*words: str, **own: str) -> tuple[str, int]:
        clean = {
            name: said
            for name, said in os.environ.items()
            if "MALLOC" not in name and name != "GLIBC_TUNABLES"
        }
        told = subprocess.run(
            [sys.executable, "-c", STEPS, *words],
            env={**clean, "PYTHONPATH": os.getcwd(), **own},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return told[0], int(told[1])

    kept, few = run("keep")
    assert kept == "True"
    assert 2 * few < run()[1]  # a few: the heap grows once more where its pieces do not fit
    assert run("keep", MALLOC_MMAP_THRESHOLD_="131072")[0] == "False"  # what a user has set stays
    assert run("keep", GLIBC_TUNABLES="glibc.malloc.trim_threshold=131072")[0] == "False"


def test_a_stage_tells_torch_before_it_is_there(tmp_path: Path) -> None:
    program = (
        "import os, sys; from videollava.cli import main; main(['bases', '--params', 'none.yaml']);"
        "print('torch' in sys.modules, os.environ['PYTORCH_ALLOC_CONF'])"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTORCH")}
    environment["PYTHONPATH"] = os.getcwd()
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert told.stdout.split() == ["False", "expandable_segments:True"]
