"""Versions by reference, promotion, rollback and the race for the champion, in a real MLflow store."""

from __future__ import annotations

import multiprocessing
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from videollava.errors import InputError
from videollava.params import Params, Tracking
from videollava.registry import (
    PromotionConflict,
    Store,
    champion,
    find_version,
    list_versions,
    move_champion,
    open_store,
    promote,
    register,
    registered,
    resolve,
    rollback,
    sentence,
    trail,
)
from videollava.registry.manifest import Manifest, cache_of, folder_key, materialise, read_manifest


def test_the_same_outputs_make_one_version(workspace: Path, params: Params, trained) -> None:
    trained("first", 90.0)
    first, new = register(workspace, params)
    assert new
    again, new = register(workspace, params)
    assert (again.number, new) == (first.number, False)
    assert registered(workspace, params.tracking).number == first.number
    trained("second", 91.0)
    assert registered(workspace, params.tracking) is None
    second, new = register(workspace, params)
    assert new
    assert [v.number for v in list_versions(workspace, params.tracking)] == [second.number, first.number]


def test_a_version_carries_scores_and_lineage(workspace: Path, params: Params, trained) -> None:
    trained("first", 90.0)
    version, _ = register(workspace, params)
    assert version.metrics == {"easy_vqa": {"accuracy": 90.0, "blind_accuracy": 20.0}}
    assert version.lineage.data == "d.dir"
    assert len(version.lineage.params) == len(version.lineage.lock) == 64
    run = open_store(workspace, params.tracking).client.get_run(version.run_id)
    assert run.data.metrics["easy_vqa.accuracy"] == 90.0


def test_no_weights_are_copied_and_old_versions_stay_loadable(
    workspace: Path, params: Params, trained
) -> None:
    trained("first weights", 90.0)
    first, _ = register(workspace, params)
    trained("second weights", 91.0)
    register(workspace, params)
    kept = [f for f in (workspace / ".mlflow").rglob("*") if f.is_file() and b"weights" in f.read_bytes()]
    assert not [f for f in kept if f.name == "model.safetensors"]
    folder = resolve(first.reference, workspace, params.tracking)
    assert (folder / "model.safetensors").read_text() == "first weights"
    assert (folder / "model.safetensors").stat().st_nlink > 1
    assert resolve(str(folder)) == folder
    assert resolve(first.reference, workspace, params.tracking) == folder


def test_damage_and_loss_are_named(workspace: Path, params: Params, trained) -> None:
    trained("first", 90.0)
    version, _ = register(workspace, params)
    cache = workspace / ".dvc" / "cache"
    (file,) = (f for f in read_manifest(cache, version.key).files if f.path == "model.safetensors")
    cached = workspace / ".dvc" / "cache" / "files" / "md5" / file.md5[:2] / file.md5[2:]
    cached.chmod(0o644)
    cached.write_text("worse")
    with pytest.raises(InputError, match=r"model\.safetensors.*damaged.*dvc push"):
        resolve(version.reference, workspace, params.tracking)
    cached.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors.*not there"):
        resolve(version.reference, workspace, params.tracking)
    remote = workspace.parent / "remote"
    (remote / "files" / "md5" / file.md5[:2]).mkdir(parents=True)
    (remote / "files" / "md5" / file.md5[:2] / file.md5[2:]).write_text("first")
    folder = resolve(version.reference, workspace, params.tracking, [Store(str(remote))])
    assert (folder / "model.safetensors").read_text() == "first"


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_a_path_out_of_the_folder_is_refused(workspace: Path, trained, path: str, tmp_path: Path) -> None:
    trained("first", 90.0)
    from dataclasses import replace

    good = read_manifest(workspace / ".dvc/cache", folder_key(workspace))
    bad = replace(good, files=(replace(good.files[0], path=path),))
    with pytest.raises(InputError, match="outside"):
        Manifest.from_config(bad.config([]))
    with pytest.raises(InputError, match="hash"):
        Manifest.from_config({**good.config([]), "manifest_sha256": "0"})
    assert materialise(Manifest.from_config(good.config([])), [cache_of(workspace)], tmp_path / "c").is_dir()


def test_pyfunc_loads_by_alias_and_answers(workspace: Path, params: Params, trained, monkeypatch) -> None:
    monkeypatch.setenv("VIDEOLLAVA_WORKSPACE", str(workspace))
    trained("first", 90.0)
    register(workspace, params)
    promote(workspace, params, "1")

    class Assistant:
        def __init__(self, folder: Path, media_roots: list[str]) -> None:
            assert media_roots == []  # no file of the server
            self.weights = (folder / "model.safetensors").read_text()

        def answer_batch(self, samples: list[dict]) -> list[str]:
            return [f"{self.weights}: {s['question']} {len(s['images'])} {len(s['videos'])}" for s in samples]

    monkeypatch.setattr("videollava.registry.whole.answering.load", Assistant)
    import mlflow
    import pandas

    model = mlflow.pyfunc.load_model("models:/videollava@champion")
    assert model.predict([{"question": "what?", "images": ["a.png"]}]) == ["first: what? 1 0"]
    frame = pandas.DataFrame(
        {"question": ["q", "r"], "images": [["a", "b"], None], "videos": [None, "c.mp4"]}
    )
    assert model.predict(frame) == ["first: q 2 0", "first: r 0 1"]


def test_promotion_gates_moves_and_rolls_back(workspace: Path, params: Params, trained) -> None:
    for weights, accuracy in (("a", 80.0), ("b", 90.0), ("c", 50.0), ("d", 91.0)):
        trained(weights, accuracy)
        register(workspace, params)
    at = params.tracking
    assert champion(workspace, at) is None
    assert promote(workspace, params, "1")[1].to == 1
    assert promote(workspace, params, "1")[1] is None
    assert promote(workspace, params, "2")[1].came_from == 1
    refused, move, *_ = promote(workspace, params, "3")
    assert move is None
    assert any("below the minimum" in reason for reason in refused.reasons)
    assert any("-40.00 against the champion" in reason for reason in refused.reasons)
    assert champion(workspace, at).number == 2
    promote(workspace, params, "models:/videollava/4")
    assert find_version(workspace, at, "previous").number == 2
    assert rollback(workspace, at, because="it stutters").to == 2
    assert find_version(workspace, at, "models:/videollava@previous").number == 1
    assert rollback(workspace, at).to == 1
    with pytest.raises(InputError, match="nothing to roll back"):
        rollback(workspace, at)
    assert [(m.action, m.came_from, m.to) for m in trail(workspace, at)] == [
        ("promote", 0, 1),
        ("promote", 1, 2),
        ("promote", 2, 4),
        ("rollback", 4, 2),
        ("rollback", 2, 1),
    ]
    assert trail(workspace, at)[3].because == "it stutters"
    assert len((workspace / "runs" / "audit.jsonl").read_text().splitlines()) == 5
    with pytest.raises(InputError, match="--because"):
        promote(workspace, params, "3", force=True)
    forced, move, *_ = promote(workspace, params, "3", force=True, because="a demonstration")
    assert not forced.passed
    assert move.forced
    assert trail(workspace, at)[-1].because == "a demonstration"
    with pytest.raises(InputError, match="not in the registry"):
        promote(workspace, params, "9")
    with pytest.raises(InputError, match="write models"):
        find_version(workspace, at, "models:/a/b/c")


def test_what_people_say_is_one_line_of_the_trail(
    workspace: Path, params: Params, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained("a", 80.0)
    register(workspace, params)
    monkeypatch.setenv("VIDEOLLAVA_USER", "Ann\x1b[31m")
    with pytest.raises(InputError, match="1,001 letters"):
        promote(workspace, params, "1", because="x" * 1001)
    assert champion(workspace, params.tracking) is None
    said = "urgent \x07\n2030-01-01T00:00:00+00:00  champion none -> version 7\udcff"
    move = promote(workspace, params, "1", because=said).move
    assert move is not None
    told = trail(workspace, params.tracking)[-1]
    assert told.because == "urgent \ufffd 2030-01-01T00:00:00+00:00 champion none -> version 7\ufffd"
    assert told.who == "Ann\ufffd[31m"
    assert sentence(told).isprintable()
    assert sentence(replace(move, because=said, reasons=("a\nb",))).isprintable()  # however it came there


def test_another_models_version_is_no_champion_here(workspace: Path, params: Params, trained) -> None:
    at = params.tracking
    for weights, accuracy in (("a", 80.0), ("b", 90.0)):
        trained(weights, accuracy)
        register(workspace, params)
    trained("c", 95.0)
    register(workspace, params.replace(tracking=at.replace(model="other")))
    promote(workspace, params, "2")
    for move in (
        lambda: promote(workspace, params, "models:/other/1", force=True, because="it is better"),
        lambda: rollback(workspace, at, "models:/other/1"),
    ):
        with pytest.raises(InputError, match="models:/other/1 is no version of videollava"):
            move()
    assert champion(workspace, at).number == 2


def test_the_champion_must_be_the_one_compared_with(workspace: Path, params: Params, trained) -> None:
    for weights, accuracy in (("a", 80.0), ("b", 90.0), ("c", 95.0)):
        trained(weights, accuracy)
        register(workspace, params)
    at = params.tracking
    promote(workspace, params, "1")
    compared_with = champion(workspace, at)
    promote(workspace, params, "2")
    with pytest.raises(PromotionConflict, match="gate again"):
        move_champion(workspace, at, find_version(workspace, at, "3"), compared_with, ["late"])
    assert champion(workspace, at).number == 2


def _race(workspace: str, number: int, start, results) -> None:
    folder, at = Path(workspace), Tracking()
    store = open_store(folder, at)
    version = find_version(folder, at, str(number), store)
    live = champion(folder, at, store)
    start.wait()
    try:
        move_champion(folder, at, version, live, ["race"], store=store)
        results.put((number, "won"))
    except PromotionConflict:
        results.put((number, "lost"))


def test_two_promotions_at_once_cannot_both_win(workspace: Path, params: Params, trained) -> None:
    for weights, accuracy in (("a", 80.0), ("b", 90.0)):
        trained(weights, accuracy)
        register(workspace, params)
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    racers = [context.Process(target=_race, args=(str(workspace), n, start, results)) for n in (1, 2)]
    for racer in racers:
        racer.start()
    outcome = dict(results.get(timeout=300) for _ in racers)
    for racer in racers:
        racer.join(300)
    assert sorted(outcome.values()) == ["lost", "won"]
    winner = next(number for number, result in outcome.items() if result == "won")
    assert champion(workspace, params.tracking).number == winner
    assert len(trail(workspace, params.tracking)) == 1


def test_an_unpushed_remote_store_is_asked_over_s3_only_where_named(
    workspace: Path, trained, tmp_path: Path
) -> None:
    trained("first", 90.0)
    manifest = read_manifest(workspace / ".dvc/cache", folder_key(workspace))
    shutil.rmtree(workspace / ".dvc" / "cache")
    with pytest.raises(InputError, match="read by DVC alone"):
        materialise(manifest, [Store("gs://bucket/x")], tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_registry_that_is_gone_is_named(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        gone = Tracking(uri=f"http://me:secret@127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(
            InputError, match=r"the model registry at http://\*\*\*@127.0.0.1:\d+ does not answer"
        ):
            champion(workspace, gone)


def test_the_newest_version_is_the_default(workspace: Path, params: Params, trained) -> None:
    with pytest.raises(InputError, match="no version of videollava"):
        find_version(workspace, params.tracking, "")
    for weights in ("a", "b"):
        trained(weights, 80.0)
        register(workspace, params)
    assert find_version(workspace, params.tracking, "").number == 2


def test_gate_is_taken_from_gate_yaml(workspace: Path, params: Params, trained) -> None:

    trained("a", 80.0, blind=75.0)
    register(workspace, params)
    assert promote(workspace, params, "1")[1] is None
    (workspace / "gate.yaml").write_text("videollava: {minimum_over_blind: 5.0}\n")
    assert promote(workspace, params, "1")[1] is not None
