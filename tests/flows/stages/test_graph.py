"""dvc.yaml is the only graph: its order, and that it names the code and parameters its stages really use."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from flows.stages.graph import check_params, stage_inputs, stage_order, stage_outputs
from videollava.data.prepare.listed import listed_sources
from videollava.errors import InputError
from videollava.params import Params, load_params, profile_names, profile_text
from videollava.tracking.lineage import read_graph

REPOSITORY = Path(__file__).resolve().parents[3]
GRAPH = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())
STAGES = [
    *("fetch@easy_vqa", "fetch@toy_clips", "shards@easy_vqa", "shards@toy_clips"),
    *("index", "bases", "align", "pretrain", "finetune", "evaluate"),
]
MODULES = {
    "fetch": "videollava.data.acquire.fetch",
    "shards": "videollava.data.prepare.shards",
    "index": "videollava.data.prepare.index",
    "bases": "videollava.train.bases",
    "align": "videollava.train.align",
    "pretrain": "videollava.train.pretrain",
    "finetune": "videollava.train.finetune",
    "evaluate": "videollava.evaluate.stage",
}
# Imported, but no result depends on it: parameters are tracked by value, the rest only tells what happens.
SILENT = (
    "videollava/__init__.py",
    "videollava/environment.py",
    "videollava/errors.py",
    "videollava/scrub.py",
    "videollava/params/",
    "videollava/machine/",
    "videollava/gate/",
    "videollava/origin.py",  # what it found is in the locks
    "videollava/tracking/",
    "videollava/registry/",
    "videollava/train/__init__.py",
    "videollava/train/launch/",
    "videollava/train/progress.py",
    "videollava/train/spikes.py",
    "videollava/train/cost.py",
    "videollava/data/__init__.py",
)

# What these load is for people: the assistant, the reports of a version. A stage asks the registry which version a
# name means, and keeps the answer in its lock.
LEFT = (REPOSITORY / "videollava/__init__.py", REPOSITORY / "videollava/registry/__init__.py")
# What it brings is verified by its sum: however it comes, training reads the same bytes.
VERIFIED = "videollava/data/load/places.py"


def test_the_order_is_the_graphs_not_the_files(workspace: Path) -> None:
    assert stage_order(workspace) == ["fetch", "finetune", "evaluate"]
    assert stage_order(workspace, "finetune") == ["fetch", "finetune"]
    assert stage_outputs(workspace, "evaluate") == ["evaluation", "metrics.json"]
    assert stage_inputs(workspace, "finetune") == ["data/raw", "stage.py"]


def test_our_own_order() -> None:
    assert stage_order(REPOSITORY) == STAGES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {a: {deps: [y], outs: [x]}, b: {deps: [x], outs: [y]}}", "need each other: "),
        ("stages: {}", "no stages"),
        ("stages: [", "not valid YAML"),
        ("stages: [a, b]", "mapping of names"),
        ("stages: {a: }", "mapping of names"),
        ("a word", "mapping of keys, not str"),
        ("stages:\n<<<<<<< HEAD\n  a: {}\n=======\n>>>>>>> x\n", "a merge left its marks in it"),
    ],
)
def test_a_broken_graph_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        stage_order(tmp_path)


def test_an_unknown_target_is_refused(workspace: Path) -> None:
    with pytest.raises(InputError, match="no stage 'finetun'; there are: evaluate, fetch, finetune"):
        stage_order(workspace, "finetun")


def test_parts_of_an_output_are_dependencies_too(tmp_path: Path) -> None:
    stages = {
        "c": {"deps": ["data/index/splits/x.arrow"], "outs": ["c"]},
        "a": {"outs": ["data/index"]},
        "b": {"deps": ["models"], "outs": ["b"]},
        "m": {"outs": ["models/one"]},
        "d": {"deps": ["data/index-not"], "outs": ["d"]},
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    assert stage_order(tmp_path) == ["a", "c", "m", "b", "d"]
    assert stage_order(tmp_path, "d") == ["d"]


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_decides_a_result_is_a_dependency(stage: str) -> None:
    deps = stage_inputs(REPOSITORY, stage)
    used = {file for file in closure(MODULES[stage.partition("@")[0]]) if not file.startswith(SILENT)}
    missing = {file for file in used if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)}
    assert not missing, f"dvc.yaml: {stage} uses {sorted(missing)}, not among its deps"
    code = [dep for dep in deps if dep.startswith("videollava/")]
    idle = [dep for dep in code if not any(file == dep or file.startswith(f"{dep}/") for file in used)]
    assert not idle, f"dvc.yaml: {stage} depends on {idle}, which it does not use"


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_the_parameters_that_stages_name(name: str) -> None:
    values = yaml.safe_load(profile_text(name))
    for stage, entry in read_graph(REPOSITORY, values).items():
        for key in entry["params"]:
            node = values
            for part in key.split("."):
                assert part in node, f"profile {name} lacks {key}, which dvc.yaml: {stage} names"
                node = node[part]


def test_what_params_yaml_lacks_is_named_with_its_default() -> None:
    values = yaml.safe_load(profile_text("tiny"))
    check_params(REPOSITORY, values)
    del values["finetune"]["max_text_tokens"], values["finetune"]["max_tokens"], values["model"]["frames"]
    with pytest.raises(InputError) as caught:
        check_params(REPOSITORY, values)
    said = str(caught.value)
    assert (
        "add `model.frames: 8`, `finetune.max_text_tokens: 2048`, `finetune.max_tokens: 3072`, each under"
        in said
    )
    for bases in (None, 7):
        with pytest.raises(InputError, match=r"`bases\.language: |`pretrain: \{"):
            check_params(
                REPOSITORY, {key: values[key] for key in values if key != "pretrain"} | {"bases": bases}
            )


def test_every_section_of_a_stage_is_among_its_parameters() -> None:
    for stage, entry in read_graph(REPOSITORY).items():
        section = "sources" if stage.startswith("fetch@") else stage.partition("@")[0]
        assert section in Params.model_fields
        assert any(key.split(".")[0] == section for key in entry["params"])


def test_the_index_reads_the_shards_of_every_source() -> None:
    assert listed_sources(REPOSITORY) == list(load_params(REPOSITORY / "params.yaml").sources)
    assert "sources" in GRAPH["stages"]["index"]["params"]  # a line that is gone is no change to DVC


def closure(module: str) -> set[str]:
    """Files of our package that a module imports, at its top or inside its functions."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        file = source(todo.pop())
        if file is None or str(file.relative_to(REPOSITORY)) in {*seen, VERIFIED}:
            continue
        seen.add(str(file.relative_to(REPOSITORY)))
        if file not in LEFT:
            todo += imports(file)
    return seen


def source(module: str) -> Path | None:
    path = REPOSITORY.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(file: Path) -> list[str]:
    tree = ast.parse(file.read_text())
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
    return [name for name in found if name.startswith("videollava")]
