"""Alignment from published parts: a language encoder that is taken, LoRA, rates by layer, retrieval while it learns."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from micro import MACHINE, micro
from safetensors.torch import load_file
from torch import Tensor

from videollava.errors import InputError
from videollava.machine import Work
from videollava.model import checkpoint
from videollava.model.encoders import LanguageBind, pair_config
from videollava.params import Align, Encoder, Model, Train
from videollava.tracking import track, write_curves
from videollava.train import align
from videollava.train.contrast.gallery import plan_gallery
from videollava.train.contrast.learners import add_lora, choose_groups, merge_lora
from videollava.train.contrast.retrieval import MOST, retrieval_figures
from videollava.train.recompute import recompute_layers

SMALL = Encoder(width=16, layers=2, heads=2, mlp=32)
SHAPE = Model(image_size=16, patch_size=8, frames=2, embed_dim=16, vision=SMALL, text=SMALL)
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def begin() -> LanguageBind:
    torch.manual_seed(0)
    return LanguageBind(pair_config(SHAPE, "video", 20, 8)).train()


def clips() -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 2, 3, 16, 16), dtype=torch.uint8, generator=draw)


def weights(folder: Path, kind: str) -> dict[str, Tensor]:
    return load_file(folder / f"models/encoders/{kind}/model.safetensors")


def events(folder: Path) -> list[dict[str, Any]]:
    (journal,) = (folder / "runs/align").glob("*.jsonl")
    found = [json.loads(line) for line in journal.read_text().splitlines()]
    return [event for event in found if event["event"] == "metric"]


def test_a_taken_language_encoder_stays_as_it_is_and_lora_moves_attention_by_rank_2(
    workspace: Callable[[str], Path],
) -> None:
    folder = workspace("work")
    given = folder / "given"
    (folder / "models/encoders/image").rename(given)
    named = (f"align.language={given}", f"bases.image_encoder={given}")
    params = micro(*named, "align.lora_r=2", "align.validations=2", "align.micro_batch=2")
    before = load_file(given / "model.safetensors")
    with track("align", params, folder):
        align.run(params, folder, MACHINE)
        write_curves(folder / "plots", "align")
    image, video = weights(folder, "image"), weights(folder, "video")
    assert image.keys() == before.keys()
    for name, weight in before.items():
        if name.startswith("text_"):
            assert torch.equal(image[name], weight), name
            assert torch.equal(video[name], weight), name
        elif name.startswith("vision_model"):
            adapted = ".self_attn." in name and name.endswith(tuple(f"{part}.weight" for part in ATTENTION))
            assert adapted != torch.equal(image[name], weight), name
            if adapted:
                assert int(torch.linalg.matrix_rank(image[name] - weight, rtol=1e-3)) <= 2
    for kind in ("image", "video"):  # each has a curve of its own
        told = [event for event in events(folder) if f"text_to_{kind}_r1" in event["values"]]
        assert len(told) == 2
        assert all(0 <= event["values"][f"text_to_{kind}_r1"] <= 1 for event in told)
        head, *rows = (folder / f"plots/align/{kind}.csv").read_text().splitlines()
        assert head == f"step,text_to_{kind}_r1,{kind}_to_text_r1,{kind}_chance_r1"
        assert [int(row.split(",")[0]) for row in rows] == [event["step"] for event in told]
    assert len((folder / "plots/align/depth.csv").read_text().splitlines()) == 1  # nothing of it was learned


def test_asking_for_retrieval_changes_nothing_that_is_learned(workspace: Callable[[str], Path]) -> None:
    found = []
    for asked in (0, 3):
        folder = workspace(f"asked-{asked}")
        align.run(micro(f"align.validations={asked}"), folder, MACHINE)
        found.append(
            [(folder / f"models/encoders/{k}/model.safetensors").read_bytes() for k in ("image", "video")]
        )
    assert found[0] == found[1]


def test_lora_without_an_encoder_that_has_learned_is_refused(workspace: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"align.lora_r is 2.*bases.image_encoder, or set align.lora_r: 0"):
        align.run(micro("align.lora_r=2"), workspace("work"), MACHINE)


def test_merged_pairs_compute_what_they_did_beside_the_weights() -> None:
    pair = begin()
    names = set(pair.state_dict())
    add_lora(pair, Align(lora_r=2))
    for name, weight in pair.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    beside = pair(clips()).image_embeds
    merge_lora(pair)
    assert set(pair.state_dict()) == names
    torch.testing.assert_close(pair(clips()).image_embeds, beside, rtol=1e-5, atol=1e-5)


def test_each_layer_has_the_rate_of_the_one_above_times_the_decay() -> None:
    pair, settings = begin(), Train(learning_rate=1.0)
    groups = choose_groups(pair, settings, 0.5)
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    vision: Any = pair.vision_model
    assert len(rates) == len(list(pair.parameters()))
    assert rates[id(pair.visual_projection.weight)] == 1.0
    assert rates[id(pair.text_model.embeddings.token_embedding.weight)] == 1.0
    assert rates[id(vision.encoder.layers[1].mlp.fc1.weight)] == 0.5
    assert rates[id(vision.encoder.layers[0].mlp.fc1.bias)] == 0.25
    assert rates[id(vision.embeddings.class_embedding)] == 0.125
    assert all(("weight_decay" in group) == all(p.ndim < 2 for p in group["params"]) for group in groups)
    assert [len(group["params"]) for group in choose_groups(pair, settings)] == [
        sum(p.ndim > 1 for p in pair.parameters()),
        sum(p.ndim <= 1 for p in pair.parameters()),
    ]


def test_recomputed_layers_learn_the_same_bit_by_bit() -> None:
    gradients = []
    for count in (0, 1, True):
        pair = begin()
        recompute_layers(pair.vision_model, Work(recompute=count), pair.vision_model.encoder.layers)
        layers: Any = pair.vision_model.encoder.layers
        assert [layer.gradient_checkpointing for layer in layers] == [count >= 1, count is True]
        pair(clips()).image_embeds[:, 0].sum().backward()
        gradients.append({n: p.grad for n, p in pair.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 20
    for others in gradients[1:]:
        assert all(torch.equal(others[name], value) for name, value in gradients[0].items())


def test_retrieval_by_hand() -> None:
    """Three captions of four media: the second caption's medium is taken for the third's."""
    text = torch.eye(3)[[0, 1, 0, 2]]
    media = torch.tensor([[0.2, 0.0, 0.0], [0.0, 0.5, 0.9], [1.0, 0.0, 0.0], [0.0, 0.6, 0.8]])
    found = retrieval_figures(media, text, torch.tensor([7, 8, 7, 9]), "sound")
    # caption 7 -> medium 2 (right); 8 -> medium 3 (wrong); 9 -> medium 1 (wrong)
    assert found["text_to_sound_r1"] == pytest.approx(1 / 3)
    # media 0, 2 -> 7 (right); 1 -> 9 (wrong); 3 -> 9 (right)
    assert found["sound_to_text_r1"] == pytest.approx(3 / 4)
    assert (found["sound_captions"], found["sound_chance_r1"]) == (3, pytest.approx(1 / 3))


@pytest.mark.parametrize(("pairs", "ranks", "batch"), [(1, 2, 8), (7, 2, 3), (64, 1, 32), (5000, 4, 64)])
def test_a_gallery_holds_each_pair_once_and_ranks_have_as_many(pairs: int, ranks: int, batch: int) -> None:
    plan = plan_gallery(pairs, ranks, batch, MOST)
    sizes = {len(plan.pack(number)) for number in range(len(plan.packs) - 1)}
    assert len(sizes) == 1
    assert max(sizes) <= batch
    once = min(pairs, MOST)
    assert len(np.unique(plan.samples[:once])) == once == len(np.unique(plan.samples))
    assert all(len(plan.packs_of(step, rank)) == 1 for step in range(len(plan)) for rank in range(ranks))


def test_clips_own_text_encoder_and_space_are_taken(workspace: Callable[[str], Path], tmp_path: Path) -> None:
    """A folder as transformers writes CLIP: another width, fewer positions, letters for a tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": len(words) - 1}
    shape = CLIPConfig(text_config=text, vision_config=sizes | {"image_size": 32}, projection_dim=24)
    clip = CLIPModel(shape)
    clip.save_pretrained(tmp_path / "clip")
    CLIPTokenizer(vocab={word: number for number, word in enumerate(words)}, merges=[]).save_pretrained(
        tmp_path / "clip"
    )
    folder = workspace("work")
    align.run(micro(f"align.language={tmp_path / 'clip'}"), folder, MACHINE)
    video = weights(folder, "video")
    assert torch.equal(video["text_projection.weight"], clip.text_projection.weight)
    assert video["visual_projection.weight"].shape == (24, 32)


def test_a_pair_that_learned_by_the_sigmoid_loss_is_read_back_with_its_bias(
    workspace: Callable[[str], Path],
) -> None:
    folder = workspace("work")
    align.run(micro("align.loss=sigmoid"), folder, MACHINE)
    read = checkpoint.load(folder / "models/encoders/video").model
    learned = weights(folder, "video")["logit_bias"]
    assert float(learned) != -10.0
    assert isinstance(read, LanguageBind)
    assert read.logit_bias is not None
    assert torch.equal(read.logit_bias, learned)
