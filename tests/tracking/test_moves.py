"""Moves of the champion under kills at any request, races with delays, and hands on MLflow's page."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from videollava.errors import InputError
from videollava.gate import Decision
from videollava.params import Params, Tracking, parse_params
from videollava.registry import (
    Move,
    PromotionConflict,
    find_version,
    move_champion,
    open_store,
    promote,
    promotion,
    rollback,
    tell,
)
from videollava.registry.aliases import read_aliases, settle
from videollava.registry.trail import SETTING, read_story, write

LATE = {SETTING + "{}": "another machine"}
COUNT = 4  # versions of each model


class Killed(BaseException):
    """The process ends here: nothing of ours catches it."""


@dataclass
class Faulty:
    """A client that ends the process at its n-th call (before it, or after the store heard it), or dawdles."""

    client: Any
    at: int = 10**9
    heard: bool = False
    dawdle: Callable[[], float] = lambda: 0.0
    calls: int = field(default=0)

    def __getattr__(self, name: str) -> Any:
        original = getattr(self.client, name)

        def call(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            time.sleep(self.dawdle())
            if self.calls == self.at and not self.heard:
                raise Killed
            done = original(*arguments, **more)
            time.sleep(self.dawdle())
            if self.calls == self.at:
                raise Killed
            return done

        return call


@dataclass
class Registry:
    """A model with a few versions in a store, as different processes open it."""

    workspace: Path
    params: Params
    patch: pytest.MonkeyPatch
    store: Any

    @property
    def at(self) -> Tracking:
        return self.params.tracking

    @property
    def model(self) -> str:
        return self.params.tracking.model

    def another(self, name: str) -> Registry:
        """The same store with a model of its own in it."""
        self.store.client.create_registered_model(name)
        for _ in range(COUNT):
            self.store.client.create_model_version(name, source="dummy:/x", await_creation_for=0)
        return replace(self, params=self.params.replace(tracking=self.at.replace(model=name)))

    def through(self, client: Any) -> None:
        """From now on the commands ask by this client."""
        store = replace(self.store, client=client)
        for module in ("promotion", "versions"):
            self.patch.setattr(f"videollava.registry.{module}.open_store", lambda *_: store)

    def check(self) -> list[tuple[str, int, int]]:
        """What the trail tells, after holding it to itself and to the aliases."""
        self.through(self.store.client)
        story = tell(self.workspace, self.at)
        moves = [(move.action, move.came_from, move.to) for move in story.moves]
        assert [came for _, came, _ in moves[1:]] == [to for *_, to in moves[:-1]], moves
        aliases = read_aliases(self.store.client, self.model)
        assert aliases.get("champion", 0) == story.champion == (moves[-1][2] if moves else 0)
        assert aliases.get("previous", 0) == (story.before[-1] if story.before else 0)
        return moves


@pytest.fixture
def registry(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Gate and files have tests of their own: here every version may become champion."""
    monkeypatch.setattr(promotion, "examine", lambda *_: Decision(True, (), ()))
    monkeypatch.setattr(promotion, "_check_usable", lambda *_: None)
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ann")
    return Registry(workspace, parse_params({}), monkeypatch, open_store(workspace, Tracking()))


def promoting(registry: Registry, version: int) -> Move | None:
    return promote(registry.workspace, registry.params, str(version), approval=False).move


COMMANDS = {
    "the first promotion": ([], 2, lambda registry: promoting(registry, 2)),
    "a promotion": ([1], 2, lambda registry: promoting(registry, 2)),
    "a rollback": ([2, 1], 2, lambda registry: rollback(registry.workspace, registry.at)),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_process_killed_at_any_request_leaves_one_story(registry: Registry, command: str) -> None:
    """Before its first request, between any two, and so after each that was heard."""
    history, target, act = COMMANDS[command]
    outcomes = []
    for at in range(1, 100):
        here = registry.another(f"m{at}")
        for version in history:
            promoting(here, version)
        before = here.check()
        client = Faulty(here.store.client, at)
        here.through(client)
        with suppress(Killed):
            act(here)
        if client.calls < at:
            break
        told = here.check()
        outcomes.append(len(told) - len(before))
        assert told[: len(before)] == before
        if outcomes[-1]:
            assert told[-1][2] == target
        again = promoting(here, target)
        assert (again is None) == bool(outcomes[-1])
        after = here.check()
        assert len(after) == len(before) + 1
        if history == [1]:
            assert rollback(here.workspace, here.at).to == after[-1][1]
            here.check()
    assert len(outcomes) >= 12
    assert set(outcomes) == {0, 1}
    assert outcomes == sorted(outcomes)  # one request makes the move


def test_a_killed_writer_is_not_taken_for_a_hand(registry: Registry) -> None:
    """Record written, alias not; others go on; a hand then moves the alias to where that writer would have."""
    here = registry.another("m")
    promoting(here, 1)
    story = tell(here.workspace, here.at)
    assert write(here.store.client, "m", story, Move("promote", 2, 1, "Ben", "now"), LATE)
    assert [to for *_, to in here.check()] == [1, 2]  # it lagged, and was set
    promoting(here, 3)
    here.store.client.set_registered_model_alias("m", "champion", "2")  # the late request
    assert [to for *_, to in here.check()] == [1, 2, 3]
    here.store.client.set_registered_model_alias(
        "m", "champion", "2"
    )  # one was expected of it: this is a hand
    assert here.check()[-1] == ("moved outside", 3, 2)


def test_a_champion_deleted_before_its_alias_was_set(registry: Registry) -> None:
    here = registry.another("m")
    promoting(here, 1)
    story = tell(here.workspace, here.at)
    write(here.store.client, "m", story, Move("promote", 2, 1, "Ben", "now"), LATE)
    here.store.client.delete_model_version("m", "2")
    assert tell(here.workspace, here.at).champion == 1
    assert tell(here.workspace, here.at).moves[-1].reasons == ("version 2 was deleted from the registry",)


def race(here: Registry, rng: random.Random, delay: float, clients: list[Any]) -> None:
    """One round: two who compared with the same champion; exactly one wins, and the other is told."""
    before = here.check()
    live = find_version(here.workspace, here.at, "champion") if before else None
    candidates = rng.sample(
        [number for number in range(1, COUNT + 1) if not live or number != live.number], 2
    )
    versions = [find_version(here.workspace, here.at, str(number)) for number in candidates]
    start, results = threading.Barrier(2), {}

    def run(at: int) -> None:
        client = Faulty(clients[at], dawdle=lambda: rng.random() * delay)
        start.wait()
        try:
            move = move_champion(
                here.workspace,
                here.at,
                versions[at],
                live,
                ["race"],
                store=replace(here.store, client=client),
            )
            results[at] = move.to
        except PromotionConflict:
            results[at] = 0

    runners = [threading.Thread(target=run, args=(at,)) for at in range(2)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert sorted(results) == [0, 1]
    winners = [number for number in results.values() if number]
    assert len(winners) == 1, results
    assert here.check()[len(before) :] == [("promote", live.number if live else 0, winners[0])]


def test_of_two_promoters_one_wins_each_round(registry: Registry) -> None:
    here, rng = registry.another("m"), random.Random(1)
    for _ in range(20):
        race(here, rng, 0.01, [here.store.client] * 2)


@pytest.fixture
def served(registry: Registry, empty_store: Path, tmp_path: Path) -> Iterator[Registry]:
    """The same with a real MLflow server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "mlflow.db").write_bytes(empty_store.read_bytes())
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/server/mlflow.db"]
    running = subprocess.Popen(
        [*command, *places, "--workers", "2"],
        cwd=tmp_path / "server",
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=5).close()
                break
            except OSError:
                assert running.poll() is None
                time.sleep(0.1)
        params = registry.params.replace(tracking=registry.at.replace(uri=uri))
        yield replace(registry, params=params, store=open_store(registry.workspace, params.tracking))
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()


@pytest.mark.slow
def test_two_hundred_rounds_at_a_real_server(served: Registry) -> None:
    here, rng = served.another("m"), random.Random(2)
    others = [open_store(here.workspace, here.at).client for _ in range(2)]
    for _ in range(200):
        race(here, rng, 0.05, others)


@pytest.mark.slow
def test_a_crowd_at_a_real_server_makes_one_chain(served: Registry) -> None:
    crowd(served.another("m"), 8, 20, 0.05)


def test_a_crowd_makes_one_chain(registry: Registry) -> None:
    crowd(registry.another("m"), 3, 8, 0.01)


def crowd(here: Registry, people: int, enough: int, delay: float) -> None:
    """Many at once until `enough` moves succeeded, some killed on the way: every move that succeeded is in the trail
    once, nothing else is, and a late alias is never taken for a hand.
    """
    made: list[tuple[int, int, int]] = []
    wrong: list[BaseException] = []

    def run(who: int) -> None:
        rng = random.Random(who)
        while len(made) < enough and not wrong:
            kill = rng.randrange(1, 30) if rng.random() < 0.3 else 10**9
            client = Faulty(here.store.client, kill, rng.random() < 0.5, lambda: rng.random() * delay)
            store = replace(here.store, client=client)
            try:
                live = promotion.champion(here.workspace, here.at, store)
                others = [n for n in range(1, COUNT + 1) if live is None or n != live.number]
                version = find_version(here.workspace, here.at, str(rng.choice(others)), store)
                move = move_champion(here.workspace, here.at, version, live, ["crowd"], store=store)
                made.append((move.number, move.came_from, move.to))
            except (PromotionConflict, Killed):
                continue
            except BaseException as error:
                wrong.append(error)
                raise

    runners = [threading.Thread(target=run, args=(who,)) for who in range(people)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(300)
        assert not runner.is_alive()
    assert not wrong
    moves = here.check()
    assert {action for action, *_ in moves} == {"promote"}
    story = read_story(here.store.client, here.model)
    told = [(move.number, move.came_from, move.to) for move in story.moves]
    assert set(made) <= set(told)
    assert len(set(told)) == len(told) >= len(made) >= enough


@pytest.mark.parametrize("seed", range(3))
def test_the_trail_is_the_story_of_a_plain_list(registry: Registry, seed: int) -> None:
    """Promotions, ways back, hands on the page, kills: compared with a list that is kept beside."""
    here, rng = registry.another("m"), random.Random(seed)
    client = here.store.client
    story: list[tuple[str, int, int]] = []
    stack: list[int] = []
    live = 0

    def note(action: str, to: int) -> None:
        nonlocal live, stack
        story.append((action, live, to))
        below = stack[:-1] if live else stack
        if action == "rollback":
            kept = len(below)
            while kept and below[kept - 1] != to:
                kept -= 1
            stack = [*(below[: kept - 1] if kept else below), to]
        elif to and stack[-1:] != [to]:
            stack = [*stack, to]
        live = to

    for _ in range(60):
        before = stack[:-1] if live else stack
        other = rng.choice([number for number in range(1, COUNT + 1) if number != live])
        act = rng.choice(["promote", "promote", "rollback", "rollback to", "hand", "hand away"])
        faulty = Faulty(client, rng.randrange(1, 20) if rng.random() < 0.3 else 10**9, rng.random() < 0.5)
        here.through(faulty)
        try:
            if act == "promote":
                wanted = ("promote", other)
                promoting(here, other)
            elif act == "rollback":
                wanted = ("rollback", before[-1] if before else 0)
                rollback(here.workspace, here.at)
            elif act == "rollback to":
                wanted = ("rollback", other)
                rollback(here.workspace, here.at, str(other))
            elif act == "hand":
                wanted = ("moved outside", other)
                here.through(client)
                client.set_registered_model_alias("m", "champion", str(other))
                # Set back once for each writer that was killed here (its process lives) and might have been late.
                while story and len(tell(here.workspace, here.at).moves) == len(story):
                    client.set_registered_model_alias("m", "champion", str(other))
                if not story:  # no trail yet: it begins with what is there, which is no move
                    promoting(here, other % COUNT + 1)
                    live, stack = other, [other]
                    wanted = ("promote", other % COUNT + 1)
            elif live:
                wanted = ("moved outside", 0)
                client.delete_registered_model_alias("m", "champion")
            else:
                continue
        except Killed:
            here.through(client)
            if len(tell(here.workspace, here.at).moves) == len(story):
                continue
        except InputError:
            assert (act, before) == ("rollback", [])  # nothing to roll back to
            continue
        note(*wanted)
        assert here.check() == story
        told = settle(client, "m")
        assert (list(told.stack), told.champion) == (stack, live)
