"""The code of a checkout as a git tree: what is tracked as it lies there, and new files that stages read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flows.history.current import Graph, read_paths
from flows.history.plumbing import Index, open_index, read_head, scratch
from videollava.tracking.accepted import ACCEPTED

__all__ = ["LARGEST_MIB", "LOCKS", "Snapshot", "take_snapshot"]

LOCKS = "locks"  # files of sums and revisions, which the first run of a stage writes itself
LARGEST_MIB = 10  # a new file above this is data, and DVC's


@dataclass(frozen=True)
class Snapshot:
    """tree: git's. head: the commit that was checked out. graph: the paths that stages name. notes: what was left out,
    and why, in words.
    """

    head: str
    tree: str
    graph: Graph
    notes: tuple[str, ...] = ()


def take_snapshot(root: Path) -> Snapshot:
    """The tree of what lies in `root` now, in git's store, and named by nothing.

    InputError where git or DVC cannot tell: no repository, no commit yet, a dvc.yaml that cannot be read.
    """
    head = read_head(root)
    graph = read_paths(root)
    with scratch(root) as folder:
        index = open_index(root, folder)
        index.git("add", "--update", "--", ":/")
        chosen, notes = _choose(root, index, graph)
        index.add(chosen)
        index.drop(graph.cached)
        return Snapshot(head, index.write(), graph, tuple(notes))


def _choose(root: Path, index: Index, graph: Graph) -> tuple[list[str], list[str]]:
    """New files that belong to a retraining, and words about those that do not."""
    rows = index.git("ls-files", "-z", "--others", "--exclude-standard").split("\0")
    chosen = {path for path in (*graph.files, *graph.plain, ACCEPTED) if (root / path).is_file()}
    left, notes = [], []
    for path in filter(None, rows):
        if path in chosen or _is_output(path, graph):
            continue
        if path.endswith("/"):
            notes.append(f"{path} is a repository of its own and is not saved")
        elif not _is_code(path, graph.code):
            left.append(path)
        elif (root / path).lstat().st_size > LARGEST_MIB << 20:
            notes.append(f"{path} is above {LARGEST_MIB} MiB and is not saved: `git add` or `dvc add` it")
        else:
            chosen.add(path)
    # A file that git ignores and a stage reads: its result could not be had again without it.
    chosen |= {path for path in graph.code if _fits(root / path) and _in_here(root, path)}
    if left:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        notes.append(f"new files that no stage names are not saved: {', '.join(left[:5])}{more}")
    return sorted(chosen), notes


def _fits(file: Path) -> bool:
    return file.is_file() and file.lstat().st_size <= LARGEST_MIB << 20


def _in_here(root: Path, path: str) -> bool:
    """Not in a submodule and not behind a link: git keeps those elsewhere."""
    folders = [root / folder for folder in PurePosixPath(path).parents if str(folder) != "."]
    return not any(folder.is_symlink() or (folder / ".git").exists() for folder in folders)


def _is_output(path: str, graph: Graph) -> bool:
    return any(path == out or path.startswith(f"{out}/") for out in (*graph.cached, *graph.plain))


def _is_code(path: str, code: Sequence[str]) -> bool:
    """At or below a path that a stage names, beside a module that it names, or a lock."""
    one = PurePosixPath(path)
    for name in (LOCKS, *code):
        other = PurePosixPath(name)
        if one == other or other in one.parents:
            return True
        if other.suffix and one.suffix == other.suffix and one.parent == other.parent != PurePosixPath("."):
            return True
    return False
