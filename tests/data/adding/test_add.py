from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from made import lines, llava, png

from videollava.cli import main
from videollava.data.acquire.lock import read_lock
from videollava.data.adding.add import add_source, entry_of, lock_again, remove_source
from videollava.data.adding.entries import put_entry, take_entry
from videollava.data.prepare.listed import listed_sources
from videollava.errors import InputError
from videollava.params import load_params

ROOT = Path(__file__).parents[3]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    mine = tmp_path / "own"
    mine.mkdir()
    (mine / "1.png").write_bytes(png())
    lines(mine / "notes.jsonl", [llava("a", image="1.png")])
    return tmp_path


def test_a_source_is_added_looked_at_and_taken_out(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    before = {name: (workspace / name).read_text() for name in ("params.yaml", "dvc.yaml")}
    assert main(["data", "add", "mine", "own"]) == 0
    said = capsys.readouterr().out
    assert "2 files" in said
    assert "1 annotations, 1 image files" in said
    assert "format llava, as 1 of its first 1 records say" in said
    source = load_params(workspace / "params.yaml").sources["mine"]
    assert (source.kind, source.format, source.path, source.use) == ("folder", "llava", "own", "finetune")
    assert listed_sources(workspace) == ["easy_vqa", "toy_clips", "mine"]
    lock = read_lock(workspace, "mine")
    assert lock is not None
    assert [file.name for file in lock.files] == ["1.png", "notes.jsonl"]
    assert main(["data", "remove", "mine"]) == 0
    assert {name: (workspace / name).read_text() for name in before} == before
    assert not (workspace / "locks/mine.json").exists()


@pytest.mark.parametrize(
    ("name", "target", "said"),
    [
        ("easy_vqa", "own", "easy_vqa is there"),
        ("a b", "own", "letters, digits"),
        ("far", "s3://", "an object is written s3://BUCKET/KEY"),
        ("gone", "file:///no/such/file.tar", "no such file"),
        ("word", "https://me:secret@host/x.tar", "holds a password"),
    ],
)
def test_what_cannot_be_added_leaves_all_as_it_was(
    workspace: Path, name: str, target: str, said: str
) -> None:
    before = {path: path.read_bytes() for path in workspace.glob("*.yaml")}
    with pytest.raises(InputError, match=said):
        add_source(
            workspace, name, entry_of(str(workspace / target) if target == "own" else target, workspace)
        )
    assert {path: path.read_bytes() for path in before} == before
    assert not (workspace / f"locks/{name}.json").exists()


def test_another_look_says_what_came_and_went(workspace: Path) -> None:
    add_source(workspace, "mine", {"kind": "folder", "format": "llava", "path": "own"})
    (workspace / "own/0.png").write_bytes(png(2))
    (workspace / "own/1.png").write_bytes(png() + b"more")
    found = lock_again(workspace, "mine")
    assert (found.added, found.changed, found.removed) == (("0.png",), ("1.png",), ())
    assert [(file.name, file.seen) for file in found.lock.files] == [
        ("1.png", 1),
        ("notes.jsonl", 1),
        ("0.png", 2),
    ]
    (workspace / "own/0.png").unlink()
    assert lock_again(workspace, "mine").removed == ("0.png",)
    with pytest.raises(InputError, match="no 'other'; there are: easy_vqa"):
        lock_again(workspace, "other")


@pytest.mark.parametrize(
    ("target", "entry"),
    [
        ("s3://b/p/", {"kind": "archive", "format": "auto", "urls": ["s3://b/p/"]}),
        ("hf://datasets/o/n", {"kind": "hub", "format": "auto", "repo": "o/n"}),
        (
            "https://huggingface.co/datasets/o/n@v1",
            {"kind": "hub", "format": "auto", "repo": "o/n", "revision": "v1"},
        ),
        ("hf://o/n", {"kind": "hub", "format": "auto", "repo": "o/n", "repo_type": "model"}),
    ],
)
def test_what_is_typed_becomes_an_entry(tmp_path: Path, target: str, entry: dict[str, object]) -> None:
    assert entry_of(target, tmp_path, format="", unsigned=False) == entry


def test_comments_and_what_follows_stay(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    text = (
        "seed: 3  # mine\n\nsources: # from where\n  # the first\n"
        "  one: {kind: package, format: easy-vqa, package: p}\n"
        "  two:\n    kind: package\n    # inside\n    format: easy-vqa\n    package: q\n\n"
        "# what is learned\nindex: {held_out: 5}\n"
    )
    file.write_text(text)
    params = put_entry(file, "three", {"kind": "package", "format": "easy-vqa", "package": "r" * 100})
    assert list(params.sources) == ["one", "two", "three"]
    assert all(part in file.read_text() for part in ("# mine", "# from where", "# the first", "# inside"))
    take_entry(file, "three")
    assert file.read_text() == text.replace("sources: # from", "sources:  # from")
    assert list(take_entry(file, "two").sources) == ["one"]
    assert "# what is learned\nindex: {held_out: 5}\n" in file.read_text()
    assert not take_entry(file, "one").sources
    assert list(
        put_entry(file, "new", {"kind": "package", "format": "easy-vqa", "package": "r"}).sources
    ) == ["new"]
    with pytest.raises(InputError, match="no entry 'one'"):
        take_entry(file, "one")


PORTIONS = {
    "index: {near: 0, sources: {mine: {test: 0.1}, toy_clips: {weight: 2.0}}}": (
        "index: {near: 0, sources: {toy_clips: {weight: 2.0}}}"
    ),
    "index: {near: 0, sources: {toy_clips: {weight: 2.0}, mine: {test: 0.1}}}": (
        "index: {near: 0, sources: {toy_clips: {weight: 2.0}}}"
    ),
    "index:\n  sources: {mine: {test: 0.1}}  # mine\n  # how near\n  near: 0": "index:\n  # how near\n  near: 0",
    "index:\n  sources:\n    mine:\n      test: 0.1  # a tenth\n\n    # of clips\n    toy_clips: {weight: 2.0}": (
        "index:\n  sources:\n\n    # of clips\n    toy_clips: {weight: 2.0}"
    ),
    "index: {sources: {mine: {test: 0.1}}}\n# the end": "# the end",
}


@pytest.mark.parametrize("written", PORTIONS)
def test_what_is_drawn_of_a_source_goes_with_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], written: str
) -> None:
    monkeypatch.chdir(workspace)
    file = workspace / "params.yaml"
    assert main(["data", "add", "mine", "own"]) == 0
    before = re.sub(r"^index:.*\n(?:[ \t]+.*\n)*", "", file.read_text(), flags=re.MULTILINE)
    file.write_text(f"{before}\n{written}\n")
    assert main(["data", "remove", "mine"]) == 0
    assert "taken out of params.yaml (index.sources.mine, what of it" in capsys.readouterr().out
    assert file.read_text().endswith(f"\n{PORTIONS[written]}\n")
    assert "mine" not in file.read_text()
    assert set(load_params(file).index.sources) <= {"toy_clips"}


def test_an_entry_that_is_not_valid_is_not_written(workspace: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    with pytest.raises(InputError, match="kind"):
        put_entry(workspace / "params.yaml", "bad", {"kind": "nonsense", "format": "llava"})
    assert (workspace / "params.yaml").read_text() == before
    remove_source(workspace, "toy_clips")
    assert listed_sources(workspace) == ["easy_vqa"]
