"""Approval: the first promote asks, another person's agrees; what changed meanwhile lets the request lapse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from videollava.cli import main
from videollava.errors import InputError
from videollava.params import Params
from videollava.registry import champion, find_version, promote, register, tell, trail

ANN, BEN = "Ann <ann@example.org>", "Ben <ben@example.org>"


@pytest.fixture
def versions(workspace: Path, params: Params, trained: Any) -> None:
    for weights, accuracy in (("a", 80.0), ("b", 90.0), ("c", 50.0)):
        trained(weights, accuracy)
        register(workspace, params)


@pytest.mark.usefixtures("versions")
def test_another_person_agrees(workspace: Path, params: Params) -> None:
    def ask(version: str, who: str, **more: Any) -> Any:
        return promote(workspace, params, version, who=who, approval=True, **more)

    first = ask("1", ANN)
    assert (first.move, first.request.to, first.request.who, first.lapsed) == (None, 1, ANN, None)
    assert champion(workspace, params.tracking) is None
    for again in (ANN, "ANN O. <Ann@Example.org>"):
        with pytest.raises(
            InputError, match=r"waits for another person's approval: Ann .* cannot agree to it too"
        ):
            ask("1", again)
    with pytest.raises(
        InputError, match="waits for a person's approval, and worker account ci on host is none"
    ):
        ask("1", "worker account ci on host")
    assert ask("1", BEN, approve=False).request == first.request  # a retraining never agrees
    done = ask("1", BEN)
    assert (done.move.to, done.move.who, done.move.asked_by) == (1, BEN, ANN)
    assert champion(workspace, params.tracking).number == 1
    assert ask("1", BEN)[1:] == (None, None, None)
    assert [move.action for move in trail(workspace, params.tracking)] == ["promote"]
    assert tell(workspace, params.tracking).asks == ()


@pytest.mark.usefixtures("versions")
def test_a_request_lapses_where_champion_or_decision_changed(workspace: Path, params: Params) -> None:
    def ask(version: str, who: str, **more: Any) -> Any:
        return promote(workspace, params, version, who=who, approval=True, **more)

    ask("2", ANN)
    promote(workspace, params, "1", approval=False)
    second = ask("2", BEN)
    assert second.move is None
    assert (second.lapsed.who, second.request.who) == (ANN, BEN)
    (workspace / "gate.yaml").write_text("default: {minimum_over_blind: 95.0}\n")
    third = ask("2", ANN, force=True, because="they have to")  # refused now: another decision
    assert (third.move, third.lapsed.who, third.request.forced) == (None, BEN, True)
    assert ask("2", BEN)[1:] == (None, None, None)  # the gate refuses those who do not force
    assert ask("2", BEN, force=True, because="so be it").move.because == "so be it"
    assert champion(workspace, params.tracking).number == 2


@pytest.mark.usefixtures("versions")
def test_a_request_shows_and_survives_another(
    workspace: Path, params: Params, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "gate.yaml").write_text(
        "videollava: {approval: true, benchmarks: {easy_vqa: {minimum: 60.0}}}\n"
    )
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ann")
    assert main(["promote", "1"]) == 0
    assert "version 1 waits for approval, asked for by Ann: another person runs" in capsys.readouterr().out
    assert main(["promote", "1"]) == 2
    assert "cannot agree to it too" in capsys.readouterr().err
    assert main(["promote", "2"]) == 0
    capsys.readouterr()
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert "version 1 waits for another person's approval, asked for by Ann: passed the gate" in shown
    assert "version 2 waits" in shown
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ben")
    assert main(["promote", "1"]) == 0
    assert "champion: version 1 (was none)" in capsys.readouterr().out
    assert main(["promote", "3", "--force"]) == 2
    assert "--because" in capsys.readouterr().err
    assert main(["models", "--trail"]) == 0
    assert "champion none -> version 1, promote by Ben, asked for by Ann: passed" in capsys.readouterr().out
    assert find_version(workspace, params.tracking, "champion").number == 1


@pytest.mark.usefixtures("versions")
def test_people_are_told_and_nothing_ends_for_it(
    workspace: Path, params: Params, monkeypatch: Any, capsys: pytest.CaptureFixture[str], server: Any
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        "videollava.registry.news.send", lambda notice, targets: sent.append((notice, targets)) or []
    )
    monkeypatch.setenv("TEAM_HOOK", "https://chat.example.org/hooks/abc123")
    (workspace / "gate.yaml").write_text("videollava: {approval: true, notify: [TEAM_HOOK]}\n")
    monkeypatch.chdir(workspace)
    for who, version in (("Ann", "1"), ("Ben", "1")):
        monkeypatch.setenv("VIDEOLLAVA_USER", who)
        assert main(["promote", version]) == 0
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ann")
    assert main(["promote", "2"]) == 0
    assert [(notice.event, notice.who, notice.version) for notice, _ in sent] == [
        ("approval", "Ann", 1),
        ("moved", "Ben", 1),
        ("approval", "Ann", 2),
    ]
    asked, targets = sent[0]
    assert targets == ["https://chat.example.org/hooks/abc123"]
    assert asked.text.startswith(
        "videollava: version 1 waits for another person's approval, asked for by Ann: passed"
    )
    assert asked.scores == {"easy_vqa": 80.0}
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ben")
    monkeypatch.setenv("TEAM_HOOK", server((404, "text/plain", "no")))
    capsys.readouterr()
    assert main(["promote", "2"]) == 0
    said = capsys.readouterr()
    assert "champion: version 2 (was 1)" in said.out
    assert said.err.splitlines() == ["no notice to 127.0.0.1: it answered 404"]
