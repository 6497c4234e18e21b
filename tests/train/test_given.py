"""Going on from a whole Video-LLaVA: one of our own, and the same as others lay it out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file
from torch import Tensor

from videollava.errors import InputError
from videollava.model.convert import convert
from videollava.params import Params
from videollava.train import align, bases, finetune, pretrain

Format = Literal["ours", "original", "transformers"]
LORA = "finetune.lora={r: 4, alpha: 8, dropout: 0.0}"
FORMS: tuple[Format, ...] = ("ours", "original", "transformers")


@pytest.fixture(scope="module")
def parts(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro workspace after both stages from parts; its video encoder without attention over time, so that every
    layout can hold the model.
    """
    folder = tmp_path_factory.mktemp("parts") / "work"
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("raw", "checkpoints", "runs"))
    params = micro("model.temporal_attention=false")
    for stage in (align, pretrain, finetune):
        stage.run(params, folder, MACHINE)
    return folder


@pytest.fixture(scope="module")
def released(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Format], Path]:
    """The trained model in a layout."""
    root = tmp_path_factory.mktemp("released")

    def lay_out(form: Format) -> Path:
        if not (root / form).is_dir():
            convert(parts / "models/videollava", root / form, form, check=False)
        return root / form

    return lay_out


def _going_on(model: Path | str, *changes: str) -> Params:
    stage_1 = () if any("pretrain.epochs" in change for change in changes) else ("pretrain.epochs=0",)
    given = ("model.temporal_attention=false", f"bases.model={model}", "align.train=false")
    return micro(*given, *stage_1, *changes)


def _weights(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_file(folder / f"{name}.safetensors")


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def _begin(folder: Path, params: Params) -> None:
    for stage in (bases, align, pretrain):
        stage.run(params, folder, MACHINE)


@pytest.mark.parametrize("form", FORMS)
def test_every_layout_comes_apart_into_the_weights_that_it_was_made_of(
    form: Format, released: Callable[[Format], Path], parts: Path, workspace: Callable[..., Path]
) -> None:
    folder = workspace(form)
    _begin(folder, _going_on(released(form)))
    whole = _weights(parts / "models/videollava")
    language = {
        name.replace("model.language_model.", "model.", 1): weight
        for name, weight in whole.items()
        if name.startswith(("model.language_model.", "lm_head."))
    }
    _same(_weights(folder / "models/bases/language"), language)
    projector = {
        name.removeprefix("model.multi_modal_projector."): weight
        for name, weight in whole.items()
        if "multi_modal_projector" in name
    }
    _same(_weights(folder / "models/projector", "projector"), projector)
    for kind in ("image", "video"):
        tower = {
            name.removeprefix(f"model.{kind}_tower."): weight
            for name, weight in whole.items()
            if name.startswith(f"model.{kind}_tower.")
        }
        _same(_weights(folder / "models/encoders" / kind), tower)
    origin = json.loads((folder / "models/given/origin.json").read_text())
    assert origin == {"name": str(released(form)), "revision": origin["revision"]}
    assert json.loads((folder / "locks/models/bases.json").read_text()) == {
        origin["name"]: origin["revision"]
    }


@pytest.mark.parametrize("changes", [(), ("finetune.adapter=lora", LORA)], ids=["full", "lora"])
def test_going_on_equals_training_the_same_parts(
    changes: tuple[str, ...],
    released: Callable[[Format], Path],
    parts: Path,
    workspace: Callable[..., Path],
) -> None:
    """Stage 2 from a released layout, and from folders of its parts, end in the same bits."""
    folder, by_hand = workspace("released"), workspace("by-hand")
    params = _going_on(released("original"), *changes)
    _begin(folder, params)
    finetune.run(params, folder, MACHINE)
    _lay_by_hand(parts, by_hand)
    finetune.run(micro("model.temporal_attention=false", *changes), by_hand, MACHINE)
    _same(_weights(folder / "models/videollava"), _weights(by_hand / "models/videollava"))
    before, after = (_weights(one / "models/videollava") for one in (parts, folder))
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name])


def _lay_by_hand(parts: Path, target: Path) -> None:
    """The parts of a trained model where the stages look for them, without `bases.model`."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    from videollava.model import checkpoint
    from videollava.train.assemble import save_projector

    model = checkpoint.load(parts / "models/videollava").model
    language = LlamaForCausalLM(model.config.text_config)
    language.model.load_state_dict(model.model.language_model.state_dict())
    language.lm_head.load_state_dict(model.lm_head.state_dict())
    shutil.rmtree(target / "models")
    language.save_pretrained(target / "models/bases/language")
    AutoTokenizer.from_pretrained(parts / "models/videollava").save_pretrained(
        target / "models/bases/language"
    )
    save_projector(model, target / "models/projector")
    for kind in ("image", "video"):
        checkpoint.save(getattr(model.model, f"{kind}_tower"), None, target / "models/encoders" / kind)


@pytest.mark.slow
def test_qlora_goes_on_from_a_released_layout(
    released: Callable[[Format], Path], workspace: Callable[..., Path]
) -> None:
    pytest.importorskip("bitsandbytes")
    folder = workspace()
    params = _going_on(released("original"), "finetune.adapter=qlora", LORA)
    _begin(folder, params)
    finetune.run(params, folder, MACHINE)
    before, after = (_weights(one) for one in (released("ours"), folder / "models/videollava"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("_proj.weight" in name or "multi_modal_projector" in name for name in changed)


def test_stage_1_starts_from_the_given_projector(
    released: Callable[[Format], Path], workspace: Callable[..., Path]
) -> None:
    """At a rate of nothing what comes out is what went in; with one, it has learned from there."""
    given = _weights(released("ours"))
    for rate, moved in ((1e-12, 1e-9), (1e-3, 1.0)):
        folder = workspace(f"at-{rate}")
        _begin(folder, _going_on(released("ours"), "pretrain.epochs=1", f"pretrain.learning_rate={rate}"))
        after = _weights(folder / "models/projector", "projector")
        for name, weight in after.items():
            far = (weight - given[f"model.multi_modal_projector.{name}"]).abs().max()
            assert far < moved
            assert rate < 1e-6 or far > 1e-5


def test_another_geometry_is_refused_in_one_sentence(
    released: Callable[[Format], Path], workspace: Callable[..., Path]
) -> None:
    folder = workspace()
    changes = ("model.frames=8", "model.temporal_attention=true", "model.feature_layer=-1")
    other = micro(f"bases.model={released('ours')}", "align.train=false", *changes)
    with pytest.raises(
        InputError,
        match=r"another geometry than params\.yaml; set model\.frames=4, model\.temporal_attention=false, "
        r"model\.feature_layer=-2",
    ):
        bases.run(other, folder, MACHINE)


def test_another_vocabulary_is_refused(
    released: Callable[[Format], Path], workspace: Callable[..., Path]
) -> None:
    folder = workspace()
    file = folder / "data/index/tokenizer/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    file.write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="another vocabulary than the data were counted with"):
        bases.run(_going_on(released("ours")), folder, MACHINE)


def test_a_part_alone_is_no_model_to_go_on_from(made: Path, workspace: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="holds no whole Video-LLaVA"):
        bases.run(_going_on(made / "models/encoders/image"), workspace("work"), MACHINE)


def test_a_folder_that_changed_since_it_was_first_seen_is_refused(
    released: Callable[[Format], Path], workspace: Callable[..., Path], tmp_path: Path
) -> None:
    folder, model = workspace("work"), tmp_path / "mine"
    shutil.copytree(released("ours"), model)
    params = _going_on(model)
    bases.run(params, folder, MACHINE)
    bases.run(params, folder, MACHINE)
    (model / "more.txt").write_text("x")
    with pytest.raises(InputError, match=r"locks/models/bases\.json says [0-9a-f]{32}\.dir: bring back"):
        bases.run(params, folder, MACHINE)
    (folder / "locks/models/bases.json").write_text("{}")
    bases.run(params, folder, MACHINE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("bases.model=x", "align.train=true"), "set align.train to false"),
        (("bases.model=x", "bases.language=y", "align.train=false"), "brings its own language"),
        (("align.spaces=separate", "align.language=x"), "train must be true and language learned"),
        (("finetune.epochs=0",), "finetune.epochs must be at least 1, not 0"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(changes: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)):
        micro(*changes)


def test_an_encoders_activation_is_saved_with_the_model(parts: Path, tmp_path: Path) -> None:
    """It stands in no parameter: CLIP's own is another than LanguageBind's."""
    from videollava.model import checkpoint
    from videollava.train import assemble

    models = tmp_path / "models"
    shutil.copytree(parts / "models", models, ignore=shutil.ignore_patterns("videollava"))
    for kind in ("image", "video"):
        file = models / "encoders" / kind / "config.json"
        config: dict[str, Any] = json.loads(file.read_text())
        config["vision_config"]["hidden_act"] = "quick_gelu"
        file.write_text(json.dumps(config))
    params = micro("model.temporal_attention=false")
    model, _ = assemble.assemble(
        params.model, models, params.finetune, "replicated", True, torch.device("cpu")
    )
    saved = checkpoint.load(checkpoint.save(model, None, tmp_path / "saved")).model
    assert saved.config.vision_config.hidden_act == saved.config.video_config.hidden_act == "quick_gelu"
