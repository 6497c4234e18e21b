"""A base whose head is its embedding table, put together, trained, adapted and saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import ORIGINAL
from micro import micro
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from videollava.errors import InputError
from videollava.model import checkpoint
from videollava.model.attention import choose_attention
from videollava.model.convert import probe
from videollava.model.encoders import LanguageBind, pair_config
from videollava.train import adapters
from videollava.train.assemble import assemble
from videollava.train.instruct import choose_learners

ROWS = 40
TABLE = "model.language_model.embed_tokens.weight"


def _language(folder: Path, tied: bool) -> None:
    """A small Llama and a tokenizer of words, as transformers saves them."""
    from tokenizers import Tokenizer, models

    shape = micro().model.language
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ROWS,
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2}, "<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>").save_pretrained(
        folder
    )


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """models/ with a tied base and two encoders, without a projector."""
    _language(tmp_path / "bases/language", tied=True)
    for kind in ("image", "video"):
        pair = LanguageBind(pair_config(micro().model, kind, 50))
        checkpoint.save(pair, None, tmp_path / "encoders" / kind)
    return tmp_path


def _assemble(models: Path, *overrides: str) -> tuple[Any, Any]:
    params = micro(*overrides)
    torch.manual_seed(1)
    model, _ = assemble(params.model, models, params.finetune, "replicated", True, torch.device("cpu"))
    return model, params.finetune


def _loss(model: Any) -> Tensor:
    """Ids of the first ten rows alone, so that the other rows learn through the head only."""
    ids = torch.arange(10)[None] % 7 + 3
    loss: Tensor = model(input_ids=ids, labels=ids.clone()).loss
    return loss


def test_a_tied_base_stays_one_weight_through_training_and_saving(models: Path, tmp_path: Path) -> None:
    model, settings = _assemble(models)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.config.tie_word_embeddings
    assert model.config.text_config.tie_word_embeddings
    groups = choose_learners(model, settings, language_learns=True)
    table = model.get_input_embeddings().weight
    assert sum(p is table for group in groups for p in group["params"]) == 1
    names = [name for name, _ in model.named_parameters()]
    assert TABLE in names
    assert "lm_head.weight" not in names
    before = table.detach().clone()
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    for _ in range(3):
        _loss(model.train()).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert (table.detach() != before).any(dim=1).all()  # every row, through the head
    model.eval()
    folder = checkpoint.save(model, None, tmp_path / "trained")
    loaded = checkpoint.load(folder).model
    choose_attention(loaded, torch.device("cpu"))
    assert torch.equal(probe(loaded), probe(model))
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")


def test_the_gradient_is_the_sum_of_both_uses(models: Path) -> None:
    tied, _ = _assemble(models)
    parted, _ = _assemble(models)
    parted.lm_head.weight = torch.nn.Parameter(parted.lm_head.weight.detach().clone())
    for model in (tied, parted):
        model.train()
        _loss(model).backward()
    table = parted.get_input_embeddings().weight.grad
    assert not torch.equal(table, torch.zeros_like(table))
    torch.testing.assert_close(tied.get_input_embeddings().weight.grad, table + parted.lm_head.weight.grad)


def test_a_loaded_model_learns_as_the_one_that_was_saved(models: Path, tmp_path: Path) -> None:
    model, _ = _assemble(models)
    again = checkpoint.load(checkpoint.save(model, None, tmp_path / "m")).model
    found = []
    for one in (model, again):
        one.requires_grad_(True)
        optimizer = torch.optim.AdamW(one.parameters(), lr=1e-2)
        _loss(one.train()).backward()
        optimizer.step()
        found.append(one.get_input_embeddings().weight.detach().clone())
    assert torch.equal(*found)


def test_lora_on_a_tied_base_comes_out_merged_and_tied(models: Path, tmp_path: Path) -> None:
    model, settings = _assemble(
        models, "finetune.adapter=lora", "finetune.lora={r: 4, alpha: 8, dropout: 0.0}"
    )
    adapted = adapters.add_adapter(model, settings.lora)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1 * torch.randn_like(weight)
    adapted.save_pretrained(tmp_path / "adapter")
    expected = probe(adapted.eval().get_base_model())
    base, _ = _assemble(models)
    base_folder = checkpoint.save(base, None, tmp_path / "base")
    merged = checkpoint.save(adapters.merge_adapter(base, tmp_path / "adapter"), None, tmp_path / "merged")
    for loaded in (
        checkpoint.load(merged).model,
        checkpoint.load(tmp_path / "adapter", base=base_folder).model,
    ):
        torch.testing.assert_close(probe(loaded), expected, rtol=0, atol=ORIGINAL)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_parts_with_gaps_are_refused(models: Path) -> None:
    (models / "projector").mkdir()
    (models / "projector/projector.json").write_text("{}")
    with pytest.raises(InputError, match=r"no projector\.safetensors in it; run `videollava pretrain`"):
        _assemble(models)
    (models / "projector/projector.json").unlink()
    file = models / "bases/language/model.safetensors"
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if n != "model.norm.weight"}, file)
    with pytest.raises(InputError, match=r"missing: model\.norm\.weight"):
        _assemble(models)


def test_the_ends_of_an_answer_come_from_the_base(models: Path, tmp_path: Path) -> None:
    (models / "bases/language/generation_config.json").write_text(json.dumps({"eos_token_id": [1, 5]}))
    model, _ = _assemble(models)
    folder = checkpoint.save(model, None, tmp_path / "m")
    assert checkpoint.load(folder).model.generation_config.eos_token_id == [1, 5]
