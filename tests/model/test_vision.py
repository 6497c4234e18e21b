from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from equality import BIT_EQUAL

from videollava.errors import InputError
from videollava.model import vision
from videollava.model.encoders import (
    LanguageBind,
    LanguageBindTextModel,
    LanguageBindVisionConfig,
    LanguageBindVisionModel,
    pair_config,
    resize_positions,
    start_from_image,
    text_config,
    tower_config,
)
from videollava.model.vision import TemporalAttention
from videollava.params import Encoder, Model


@pytest.fixture
def video(shape: Model) -> LanguageBindVisionModel:
    torch.manual_seed(0)
    return LanguageBindVisionModel(tower_config(shape, "video")).eval()


def test_temporal_attention_mixes_frames_of_one_position_only(video: LanguageBindVisionModel) -> None:
    attention = video.encoder.layers[0].temporal_attn
    assert isinstance(attention, TemporalAttention)
    clips = torch.randn(2, 4, 5, 32)
    one_by_one = torch.stack(
        [torch.stack([_attend(attention, clip[:, n]) for n in range(5)], 1) for clip in clips]
    )
    torch.testing.assert_close(attention(clips), one_by_one)


def _attend(attention: TemporalAttention, frames: torch.Tensor) -> torch.Tensor:
    """Plain attention over (t, d), written out."""
    heads = [p(frames).view(len(frames), 2, 16).transpose(0, 1) for p in (attention.q_proj, attention.k_proj)]
    weights = (heads[0] @ heads[1].transpose(1, 2) / 4).softmax(-1)
    values = attention.v_proj(frames).view(len(frames), 2, 16).transpose(0, 1)
    return attention.out_proj((weights @ values).transpose(0, 1).reshape(len(frames), 32))


def test_outputs_have_the_originals_shapes(video: LanguageBindVisionModel) -> None:
    out = video(torch.randn(2, 4, 3, 16, 16), output_hidden_states=True)
    assert out.last_hidden_state.shape == (8, 5, 32)
    assert out.pooler_output.shape == (2, 32)
    assert [tuple(state.shape) for state in out.hidden_states] == [(2, 4, 5, 32)] * 4


@pytest.mark.parametrize("layer", [-1, -2, 0, 2])
def test_feature_layer_is_that_hidden_state_and_runs_nothing_above_it(
    video: LanguageBindVisionModel, layer: int
) -> None:
    pixels = torch.randn(2, 4, 3, 16, 16)
    states = video(pixels, output_hidden_states=True).hidden_states
    ran: list[int] = []
    for number, module in enumerate(video.encoder.layers):
        module.register_forward_hook(lambda *_, number=number: ran.append(number))
    out = video(pixels, feature_layer=layer)
    torch.testing.assert_close(out.last_hidden_state, states[layer].flatten(0, 1), rtol=0, atol=BIT_EQUAL)
    assert out.pooler_output is None
    assert ran == list(range(layer if layer >= 0 else 4 + layer))


def test_feature_layer_beyond_the_encoder_is_refused(video: LanguageBindVisionModel) -> None:
    with pytest.raises(InputError, match="feature_layer -5: this encoder has 3 layers"):
        video(torch.randn(1, 4, 3, 16, 16), feature_layer=-5)


def test_other_frame_counts_interpolate_and_say_so_once(
    video: LanguageBindVisionModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert video(torch.randn(1, 7, 3, 16, 16)).last_hidden_state.shape == (7, 5, 32)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "7 frames given to an encoder trained on 4"
    ]


def test_the_number_of_frames_can_be_changed_for_good(
    make_model: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = make_model()
    before = model.model.video_tower.encoder.layers[0].temporal_embedding.clone()
    with caplog.at_level(logging.WARNING):
        model.set_frames(7)
    assert "interpolated from 4 frames to 7: retune it" in caplog.text
    after = model.model.video_tower.encoder.layers[0].temporal_embedding
    assert after.shape == (1, 7, 32)
    torch.testing.assert_close(after[:, ::2], before)
    assert model.config.video_tokens() == 35
    assert model.encode_videos(torch.randn(1, 7, 3, 16, 16)).shape == (1, 35, 32)


def test_kept_patches_and_the_class_token_alone_are_seen_the_same_in_every_frame(shape: Model) -> None:
    tower = LanguageBindVisionModel(tower_config(shape, "video")).train()
    tokens = torch.arange(5.0).expand(8, 5)[..., None].expand(8, 5, 32)
    kept = vision._keep_patches(tokens, 4, torch.tensor([[0, 3], [1, 2]]))[..., 0].unflatten(0, (2, 4))
    assert kept.tolist() == [[[0, 1, 4]] * 4, [[0, 2, 3]] * 4]
    clips = torch.randn(2, 4, 3, 16, 16)
    every = torch.arange(4).expand(2, 4)
    torch.testing.assert_close(tower(clips, kept=every).pooler_output, tower(clips).pooler_output)
    tower(clips, kept=every[:, :2]).pooler_output.sum().backward()


def test_the_position_grid_need_not_be_square() -> None:
    config = LanguageBindVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=[16, 40],
        patch_size=8,
    )
    tower = LanguageBindVisionModel(config)
    assert tower(torch.randn(1, 3, 16, 40)).last_hidden_state.shape == (1, 11, 32)
    with pytest.raises(InputError, match=r"\(16, 16\) pixels given to an encoder of \(16, 40\)"):
        tower(torch.randn(1, 3, 16, 16))


def test_resize_positions_keeps_the_class_token_and_a_flat_field() -> None:
    weight = torch.cat([torch.full((1, 8), 7.0), torch.ones(16, 8)])
    resized = resize_positions(weight, (4, 4), (2, 9))
    assert resized.shape == (19, 8)
    torch.testing.assert_close(resized[0], weight[0])
    torch.testing.assert_close(resized[1:], torch.ones(18, 8))
    with pytest.raises(InputError, match="17 rows"):
        resize_positions(weight, (3, 3), (2, 2))


def test_a_video_encoder_starts_as_the_image_encoder_frame_by_frame(shape: Model) -> None:
    torch.manual_seed(0)
    image = LanguageBindVisionModel(tower_config(shape, "image")).eval()
    video = LanguageBindVisionModel(tower_config(shape, "video")).eval()
    start_from_image(video, image)
    for layer in video.encoder.layers:
        layer.temporal_embedding.data.zero_()
    pixels = torch.randn(2, 4, 3, 16, 16)
    torch.testing.assert_close(video(pixels).last_hidden_state, image(pixels.flatten(0, 1)).last_hidden_state)


def test_text_is_pooled_at_its_last_token_whatever_the_padding(shape: Model) -> None:
    torch.manual_seed(0)
    text = LanguageBindTextModel(text_config(shape, 50)).eval()
    ids = torch.tensor([[9, 4, 3, 0, 0], [9, 4, 3, 7, 8]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    out = text(ids, mask)
    torch.testing.assert_close(out.pooler_output[0], text(ids[:1, :3]).pooler_output[0])
    torch.testing.assert_close(out.pooler_output[1], out.last_hidden_state[1, 4])


def test_a_pair_scores_normalised_embeddings_and_learns(shape: Model) -> None:
    torch.manual_seed(0)
    pair = LanguageBind(pair_config(shape, "image", 50))
    pixels, ids = torch.randn(3, 3, 16, 16), torch.randint(0, 50, (3, 6))
    out = pair(pixels, ids)
    torch.testing.assert_close(out.image_embeds.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(
        out.logits_per_image, pair.logit_scale.exp() * pair.encode_vision(pixels) @ pair.encode_text(ids).T
    )
    torch.nn.functional.cross_entropy(out.logits_per_image, torch.arange(3)).backward()
    assert all(p.grad is not None for name, p in pair.named_parameters())


@torch.no_grad()
def test_initial_weights_keep_the_size_of_what_they_are_given_and_tell_patches_apart() -> None:
    """Standard deviations 1/sqrt(inputs) in vision; with 0.02, attention of a small encoder is all but even."""
    torch.manual_seed(0)
    small = Encoder(width=128, layers=4, heads=4, mlp=384)
    shape = Model(image_size=64, patch_size=8, frames=4, embed_dim=128, vision=small, text=small)
    tower = LanguageBind(pair_config(shape, "video", vocab_size=100)).vision_model
    assert float(tower.embeddings.patch_embedding.weight.std()) == pytest.approx(
        (3 * 8 * 8) ** -0.5, rel=0.05
    )
    for layer in tower.encoder.layers:
        for attention in (layer.self_attn, layer.temporal_attn):
            for name in ("q_proj", "k_proj", "v_proj"):
                weight = getattr(attention, name).weight
                assert float(weight.std()) == pytest.approx(128**-0.5, rel=0.05), name
    tower.set_attn_implementation("eager")
    _, shares = tower.encoder.layers[0].self_attn(torch.randn(8, 65, 128), attention_mask=None)
    # The most that a patch looks at any other, 1 where it looks at all alike: 0.02 gives 1.13.
    assert float(shares.max(-1).values.mean()) * 65 > 2
