"""The gate of a team goes by the rules that its main branch has when it judges."""

from __future__ import annotations

import shutil
from pathlib import Path

from flows.places.clones import have_clone
from flows.places.git import run_git
from flows.team.carry import see_branches
from videollava.gate.reading import read_rules

WHO = ("-c", "user.name=t", "-c", "user.email=t@t")


def commit(root: Path, least: float) -> None:
    (root / "gate.yaml").write_text(f"default: {{minimum_over_blind: {least}}}\n")
    run_git(root, "add", "-A")
    run_git(root, *WHO, "commit", "--quiet", "-m", f"{least}")


def test_rules_that_changed_on_main_count_in_a_worker_that_was_there_before(tmp_path: Path) -> None:
    source, origin, home = tmp_path / "source", tmp_path / "origin.git", tmp_path / "worker"
    source.mkdir()
    run_git(source, "init", "--quiet", "-b", "main")
    commit(source, 1.0)
    run_git(tmp_path, "clone", "--quiet", "--bare", str(source), str(origin))
    run_git(tmp_path, "clone", "--quiet", "--depth=1", origin.as_uri(), str(home))
    begun = run_git(home, "rev-parse", "HEAD")
    commit(source, 7.0)
    run_git(source, "push", "--quiet", str(origin), "main")
    warned: list[str] = []
    with have_clone(home, begun) as (root, _):
        assert read_rules(root, "m").gate.minimum_over_blind == 1.0
        see_branches(home, warned.append)
        assert read_rules(root, "m").gate.minimum_over_blind == 7.0
        assert warned == []
        shutil.rmtree(origin)
        see_branches(home, warned.append)
        assert read_rules(root, "m").gate.minimum_over_blind == 7.0
    assert "those of the last look count" in warned[0]
