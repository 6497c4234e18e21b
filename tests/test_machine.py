"""machine.yaml: found where it should be, checked, and no part of what is learned."""

from __future__ import annotations

from pathlib import Path

import pytest

from videollava import cli
from videollava.errors import InputError
from videollava.machine import Machine, find_machine, load_machine, preset_names, preset_text
from videollava.machine.devices import count_gpus
from videollava.machine.reading import read_machine
from videollava.machine.sections import Cost
from videollava.params import load_params


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "machine.yaml"
    file.write_text(text)
    return file


def test_the_first_file_that_is_there_counts(tmp_path: Path) -> None:
    """$VIDEOLLAVA_MACHINE, the checkout's, the user's, the system's: in this order, and never merged."""
    places = [tmp_path / name for name in ("named", "work", "home/videollava", "system/videollava")]
    for number, folder in enumerate(places, start=2):
        write(folder, f"processes: {number}\ngpus: 0\n")
    environment = {
        "VIDEOLLAVA_MACHINE": str(places[0] / "machine.yaml"),
        "XDG_CONFIG_HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "system"),
    }
    for number, folder in enumerate(places, start=2):
        found = find_machine(tmp_path / "work", environment)
        assert found.file == folder / "machine.yaml"
        assert load_machine(tmp_path / "work", environment).work("finetune").ranks == number
        environment.pop("VIDEOLLAVA_MACHINE", None)
        (folder / "machine.yaml").unlink()
    assert find_machine(tmp_path / "work", environment).file is None
    assert load_machine(tmp_path / "work", environment) == Machine()
    with pytest.raises(InputError, match="VIDEOLLAVA_MACHINE is 'nowhere', and there is no such file"):
        load_machine(tmp_path, {"VIDEOLLAVA_MACHINE": "nowhere"})


def test_of_a_mapping_a_stage_names_what_is_other(tmp_path: Path) -> None:
    file = tmp_path / "machine.yaml"
    file.write_text("cost: {per_gpu_hour: 2.5, currency: EUR}\nstages: {finetune: {cost: {ceiling: 40}}}\n")
    machine = read_machine(file)
    assert machine.work("finetune").cost == Cost(per_gpu_hour=2.5, currency="EUR", ceiling=40.0)
    assert machine.work("align").cost == Cost(per_gpu_hour=2.5, currency="EUR")
    file.write_text("stages: {finetune: {cost: {ceiling: 40}}}\n")
    with pytest.raises(InputError, match="no price to go by"):
        read_machine(file)


def test_a_stage_has_its_own_values_over_those_for_all() -> None:
    machine = Machine(
        gpus=4, strategy="zero2", workers=3, stages={"finetune": {"strategy": "zero3", "recompute": True}}
    )
    assert (machine.work("pretrain").strategy, machine.work("pretrain").recompute) == ("zero2", False)
    assert (machine.work("finetune").strategy, machine.work("finetune").recompute) == ("zero3", True)
    assert machine.work("finetune").ranks == 4
    assert machine.work("index").ranks == 1  # stages that are one process stay it
    slurm = Machine(launcher="slurm", nodes=2, gpus=0, processes=3)
    assert (slurm.work("evaluate").ranks, slurm.work("fetch").launcher) == (6, "local")


def test_without_a_word_all_gpus_and_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from videollava.machine import sections

    monkeypatch.setattr(sections, "count_gpus", lambda: 4)
    monkeypatch.setattr(sections, "count_cores", lambda: 24)
    work = Machine().work("finetune")
    assert (work.ranks, work.loaders) == (4, 6)
    assert Machine(gpus=0).work("finetune").loaders == 8  # at most
    assert Machine(gpus=2, workers=0).work("finetune").loaders == 0
    # A host without a driver is not asked through torch.
    assert count_gpus({}, tmp_path) == 0
    assert count_gpus({"CUDA_VISIBLE_DEVICES": ""}, Path("/dev")) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("checkpoint_place: gs://bucket/x", "checkpoint_place must be a folder or s3://bucket/prefix"),
        ("checkpoint_place: 's3:///x'", "checkpoint_place must be a folder or s3://bucket/prefix"),
        ("checkpoint_place: s3://key:secret@bucket/x", "checkpoint_place holds a key: credentials come from"),
        ("checkpoint_steps: 200", "checkpoint_steps became checkpoint_minutes, .* `checkpoint_minutes: 15`"),
        ("stages: {finetune: {checkpoint_steps: 9}}", "checkpoint_steps became checkpoint_minutes"),
        ("strategi: zero2", "unknown key 'strategi' .did you mean 'strategy'"),
        ("gpus: some", "gpus must be all or a whole number up to 1024, not 'some'"),
        ("workers: -1", "workers must be auto or a whole number up to 1024, not -1"),
        ("workers: true", "workers must be auto or a whole number"),
        ("recompute: some", "recompute must be true, false or a number of layers up to 1024, not 'some'"),
        ("recompute: -2", "recompute must be true, false or a number of layers"),
        ("tokens_per_pack: 0", "tokens_per_pack must be at least 1, not 0"),
        (
            "nodes: 2",
            "launcher local starts ranks on this host alone: set launcher: slurm or kubernetes, or nodes: 1",
        ),
        ("launcher: slurm", "gpus is all, and this host cannot see those of Slurm's nodes"),
        ("launcher: kubernetes", "gpus is all, and this host cannot see those of Kubernetes's nodes"),
        ("kubernetes: {manifest: x}", "unknown key 'kubernetes.manifest' .did you mean 'manifests'"),
        ("stages: {finetun: {}}", "stages.finetun: no stage; there are fetch, shards"),
        (
            "stages: {finetune: {strategy: zero4}}",
            r"stages.finetune: strategy is 'zero4' .did you mean 'zero3'",
        ),
        ("slurm: {partiton: x}", "unknown key 'slurm.partiton' .did you mean 'partition'"),
        ("[a]", "must be a mapping"),
    ],
)
def test_a_mistake_names_file_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(InputError, match=message) as caught:
        load_machine(tmp_path, {})
    assert str(file) in str(caught.value)


def test_keys_of_older_params_say_where_they_went(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(
        "pretrain: {deepspeed: none, gradient_checkpointing: true}\nevaluate: {batch_tokens: 512}\n"
    )
    with pytest.raises(InputError) as caught:
        load_params(file)
    told = str(caught.value)
    assert "pretrain.deepspeed, pretrain.gradient_checkpointing, evaluate.batch_tokens say how fast" in told
    written = told[told.index("`") + 1 : told.rindex("`")]
    work = load_machine(tmp_path, {"VIDEOLLAVA_MACHINE": str(write(tmp_path, written))})
    assert (work.work("pretrain").strategy, work.work("pretrain").recompute) == ("sharded", True)
    assert work.work("evaluate").tokens_per_batch == 512


def test_presets_are_valid_written_and_kept_from_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDEOLLAVA_MACHINE", raising=False)
    assert {"laptop", "gpu-24g", "gpu-80g", "8x80g", "slurm"} <= set(preset_names())
    for name in preset_names():
        assert cli.main(["machine", name]) == 0
        assert (tmp_path / "machine.yaml").read_text() == preset_text(name)
        load_machine(tmp_path)
    assert cli.main(["machine"]) == 0
    assert "it is the checkout's" in capsys.readouterr().out
    write(tmp_path, "gpus: 3\n")
    assert cli.main(["machine", "laptop"]) == 2
    assert "holds edits" in capsys.readouterr().err
    assert cli.main(["machine", "laptop", "--force"]) == 0


def test_no_stage_depends_on_the_machine() -> None:
    from videollava.tracking.lineage import flatten

    recipe = {
        name.rpartition(".")[2] for name in flatten(load_params(Path(__file__).parents[1] / "params.yaml"))
    }
    assert not recipe & (set(Machine.model_fields) - {"stages"})
