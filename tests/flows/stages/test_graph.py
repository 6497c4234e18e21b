"""dvc.yaml is the only graph: its order, and that it names the code and parameters its stages really use."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from flows.stages.graph import check_params, stage_inputs, stage_order, stage_outputs
from videollava.data.prepare.listed import listed_sources
from videollava.errors import InputError
from videollava.params import Params, load_params, profile_names, profile_text
from videollava.tracking.lineage import parameter_names, read_graph
from videollava.tracking.packages import COMPUTE, LOCK, compute_lock

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
    "videollava/ends.py",
    "videollava/environment.py",
    "videollava/alarms.py",
    "videollava/errors.py",
    "videollava/scrub.py",
    "videollava/params/",
    "videollava/machine/",
    "videollava/gate/",
    "videollava/origin.py",  # what it found is in the locks
    "videollava/tracking/",
    "videollava/registry/",
    "videollava/train/__init__.py",
    "videollava/train/ending.py",
    "videollava/train/going_on.py",
    "videollava/train/late.py",
    "videollava/train/launch/",
    "videollava/train/saving/",
    "videollava/train/progress.py",
    "videollava/train/spending.py",
    "videollava/train/spikes.py",
    "videollava/train/wishes.py",
    "videollava/train/cost.py",
    "videollava/train/gpus.py",
    "videollava/train/planning/",
    "videollava/data/__init__.py",
)

# Of packages that modules of many stages import: the only stages where they are used. Shards resize stored frames by
# torch, GGUF files are read into models/bases, and QLoRA alone computes in few bits.
ALONE = {
    "bitsandbytes": {"finetune"},
    "gguf": {"index", "bases"},
    "torch": {"shards", "bases", "align", "pretrain", "finetune", "evaluate"},
}

# What a stage only asks with, and a result of others: zero-shot sets, while encoders learn, change no encoder. A layout
# that is read otherwise must not train them anew. Nor does what is planned of a step's memory and hours.
ASKING = {
    "align": "videollava/embedding/",
    "pretrain": "videollava/train/planning/",
    "finetune": "videollava/train/planning/",
}

# What these load is for people: the assistant, the reports of a version. A stage asks the registry which version a
# name means, and keeps the answer in its lock.
LEFT = (REPOSITORY / "videollava/__init__.py", REPOSITORY / "videollava/registry/__init__.py")
# What it brings is verified by its sum: however it comes, training reads the same bytes.
VERIFIED = (
    "videollava/data/load/places.py",
    "videollava/train/saving/objects.py",
    "videollava/train/saving/opening.py",
    "videollava/train/saving/s3.py",
)


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
def test_code_dependencies_are_exactly_what_decides_a_result(stage: str) -> None:
    deps = [dep for dep in stage_inputs(REPOSITORY, stage) if dep.startswith("videollava/")]
    used = decides(stage)
    missing = {file for file in used if not any(within(file, dep) for dep in deps)}
    assert not missing, f"dvc.yaml: {stage} uses {sorted(missing)}, not among its deps"
    idle = {dep: sorted(files_of(dep) - used) for dep in deps if not files_of(dep) or files_of(dep) - used}
    assert not idle, f"dvc.yaml: {stage} depends on what it does not use: {idle}"
    twice = {dep for dep in deps if any(within(dep, other) for other in deps if other != dep)}
    assert not twice, f"dvc.yaml: {stage} names {twice} twice"


def test_a_file_that_is_not_used_is_noticed() -> None:
    assert "videollava/evaluate/report.py" in files_of("videollava/evaluate") & decides("evaluate")
    assert "videollava/evaluate/others.py" in files_of("videollava/evaluate") - decides("evaluate")
    assert "videollava/data/acquire/remote.py" in decides("fetch@easy_vqa")
    reports = {file for file in files_of("videollava/evaluate") if "/report" in file or "/page" in file}
    for stage in STAGES:
        names = set(stage_inputs(REPOSITORY, stage))
        assert stage.startswith("fetch@") or "videollava/data/acquire/remote.py" not in names
        assert stage == "evaluate" or not reports & names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_packages_that_it_computes_with(stage: str) -> None:
    named = parameter_names(read_graph(REPOSITORY)[stage]).get(LOCK, [])
    spared = {name for name, by in ALONE.items() if stage.partition("@")[0] not in by}
    wanted = with_needs(packages_of(decides(stage))) - spared
    assert sorted(wanted) == named, f"dvc.yaml: {stage}: params: - {LOCK}: [{', '.join(sorted(wanted))}]"


def test_the_compute_lock_is_a_part_of_the_pins() -> None:
    (torch,) = re.findall(r"^TORCH *:= *(\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    pins = (REPOSITORY / "requirements.lock").read_text()
    assert (REPOSITORY / LOCK).read_text() == compute_lock(f"{pins}\n{torch}\n"), "run `make lock`"


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_has_the_parameters_that_stages_name(name: str) -> None:
    values = yaml.safe_load(profile_text(name))
    for stage, entry in read_graph(REPOSITORY, values).items():
        for key in parameter_names(entry)["params.yaml"]:
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
        assert any(key.split(".")[0] == section for key in parameter_names(entry)["params.yaml"])


def test_the_index_reads_the_shards_of_every_source() -> None:
    assert listed_sources(REPOSITORY) == list(load_params(REPOSITORY / "params.yaml").sources)
    assert "sources" in GRAPH["stages"]["index"]["params"]  # a line that is gone is no change to DVC


def decides(stage: str) -> set[str]:
    """Files of our package that decide the stage's result."""
    name = stage.partition("@")[0]
    return {file for file in closure(MODULES[name], ASKING.get(name)) if not file.startswith(SILENT)}


def within(file: str, dep: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def files_of(dep: str) -> set[str]:
    """The files with code that a dependency stands for."""
    path = REPOSITORY / dep
    return {
        str(file.relative_to(REPOSITORY))
        for file in ([path] if path.is_file() else path.rglob("*.py"))
        if acts(file)
    }


def acts(file: Path) -> bool:
    """Whether there is more in it than words."""
    body = ast.parse(file.read_text()).body
    return not all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def packages_of(files: set[str]) -> set[str]:
    """Distributions that these files import, or look for before a library imports them."""
    names: set[str] = set()
    for file in files:
        text = (REPOSITORY / file).read_text()
        names |= {name.partition(".")[0] for name in imported(ast.parse(text))}
        names |= set(re.findall(r'find_spec\("(\w+)"\)', text))
        names |= {"gguf"} if "gguf_file" in text else set()
    made = metadata.packages_distributions()
    return {one.lower().replace("_", "-") for name in names for one in made.get(name, ())}


def with_needs(names: set[str]) -> set[str]:
    """These distributions and those they need, extras left out."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found and name in COMPUTE:
            found.add(name)
            needs = [line for line in metadata.requires(name) or () if "extra ==" not in line]
            todo += [re.split(r"[^\w.-]", line)[0].lower() for line in needs]
    return found


def closure(module: str, spared: str | None = None) -> set[str]:
    """Files of our package with code that a module imports, at its top or inside its functions; packages too. spared:
    a folder that is left out with all that it alone imports.
    """
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        todo += [name.rpartition(".")[0]] if "." in name else []
        file = source(name)
        if file is None or str(file.relative_to(REPOSITORY)) in {*seen, *VERIFIED} or not acts(file):
            continue
        if spared and str(file.relative_to(REPOSITORY)).startswith(spared):
            continue
        seen.add(str(file.relative_to(REPOSITORY)))
        if file not in LEFT:
            todo += imports(file)
    return seen


def source(module: str) -> Path | None:
    path = REPOSITORY.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imports(file: Path) -> list[str]:
    return [name for name in imported(ast.parse(file.read_text())) if name.startswith("videollava")]


def imported(tree: ast.Module) -> list[str]:
    """Modules that a file imports, and names taken out of them, which may be modules."""
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
    return found
