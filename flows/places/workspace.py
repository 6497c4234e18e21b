"""Where a retraining works: this checkout, or a clean clone of it at a commit (on a worker)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.places.clones import drop_old_clones, have_clone
from flows.places.git import ask_git, run_git
from flows.places.lock import hold
from flows.places.scm import settle_scm
from flows.stages.graph import check_params, stage_order
from flows.storage import share
from videollava.data.prepare.listed import join_params
from videollava.errors import InputError
from videollava.params import (
    load_params,
    parse_params,
    profile_names,
    profile_text,
    read_mapping,
    split_overrides,
)

__all__ = ["apply_params", "checkout", "occupy", "repository", "settle_clone"]


def repository() -> Path:
    """The checkout this code is in."""
    return Path(__file__).resolve().parents[2]


def checkout(workspace: str | Path) -> Path:
    """The checkout that was named (this one without a name); InputError where none is there."""
    root = Path(workspace).expanduser().resolve() if str(workspace) else repository()
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    if not (root / "dvc.yaml").is_file():
        raise InputError(f"{root}: holds no dvc.yaml, so it is no checkout of this project")
    return root


def apply_params(root: Path, profile: str = "", overrides: Sequence[str] = ()) -> list[str]:
    """Write a profile and overrides ("finetune.epochs=3") into params.yaml; what changed, in words.

    params.yaml is the one truth that DVC reads, so a change stays there, for git to show. Another profile
    replaces the file: refused (InputError) while it holds edits that neither git nor a profile has. So is one that
    lacks a parameter which a stage of dvc.yaml names.
    """
    import yaml

    file = root / "params.yaml"
    if not profile and not file.is_file():
        load_params(file)  # says how to write one
    if file.is_file():
        read_mapping(file)  # says what is wrong with it as YAML
    before = file.read_text() if file.is_file() else ""
    text, changes = before, []
    if profile and (not before or load_params(file).profile != profile):
        if profile in profile_names() and _edited(root, before):
            raise InputError(
                f"{file}: holds edits of yours that profile {profile} would overwrite; commit them, or "
                "discard them with `git checkout params.yaml`"
            )
        text = profile_text(profile)
        changes.append(f"profile {profile}")
    text = _override(text, overrides, file)
    check_params(root, yaml.safe_load(text) or {})
    if text != before:
        changes += [f"{item}" for item in overrides]
        aside = file.with_name("params.yaml.tmp")
        aside.write_text(text)
        aside.replace(file)
    if "index" in stage_order(root) and join_params(root, load_params(file)):
        changes.append("dvc.yaml: the sources that index reads")
    return changes


@contextmanager
def occupy(
    home: Path, workspace: str = "", commit: str = "", held: tuple[Path, int] | None = None, name: str = ""
) -> Iterator[tuple[Path, int]]:
    """(folder, lock) to retrain in: `workspace` as it is, or a clone of `home` at `commit` (HEAD without
    one).

    A clone is clean but for what an earlier run left in it to resume from. It shares DVC's cache with `home`,
    so what either made is restored in the other, and its journals (runs/). The last few commits' clones stay.
    held: a checkout that this process holds already, and the lock: between who wrote params.yaml there and the
    retraining comes nobody. name: of the clone, where one commit has several.
    InputError on an unknown commit, or where another retraining is at it.
    """
    if workspace and commit:
        raise InputError(
            f"workspace {workspace} and commit {commit}: a workspace is worked in as it is, a commit in a clone; "
            "give one of them"
        )
    if workspace:
        root = checkout(workspace)
        if held and held[0] == root:
            yield held
            return
        with hold(root) as lock:
            settle_scm(root)
            yield root, lock
        return
    home = home.resolve()
    full = _find_commit(home, commit or "HEAD")
    with have_clone(home, full, name) as (root, lock):
        settle_clone(home, root)
        yield root, lock


def settle_clone(home: Path, root: Path) -> None:
    """Give a clone what it shares with its checkout: DVC's cache and remotes, the journals. Old clones go."""
    share(home, root)
    (home / "runs").mkdir(exist_ok=True)
    if not (root / "runs").exists():
        (root / "runs").symlink_to(home / "runs")
    exclude = root / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_text("/runs\n")  # .gitignore's /runs/ is no link
    drop_old_clones(home)


def _find_commit(home: Path, name: str) -> str:
    run_git(home, "rev-parse", "--git-dir")
    full = ask_git(home, "rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}")
    if full is None:
        raise InputError(
            f"{home}: git knows no commit {name!r} here; `git fetch` brings those made elsewhere"
        )
    return full


def _edited(root: Path, text: str) -> bool:
    if not text or text in [profile_text(name) for name in profile_names()]:
        return False
    state = ask_git(root, "status", "--porcelain", "--", "params.yaml", above=True)
    return state is None or bool(state)  # no git here: nothing else has these edits


def _override(text: str, overrides: Sequence[str], file: Path) -> str:
    """`text` with values set and everything else, comments too, as it was; checked as a whole."""
    import io

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    tree = yaml.load(text) or {}
    for (*parents, leaf), value in split_overrides(overrides):
        node = tree
        for parent in parents:
            node = _child(node, parent)
        node[leaf] = value
    parse_params(tree, str(file))
    if not overrides:
        return text
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _child(node: Any, key: str) -> Any:
    if node.get(key) is None:
        node[key] = {}
    if not isinstance(node[key], Mapping):
        raise InputError(f"override: {key} has no keys below it")
    return node[key]
