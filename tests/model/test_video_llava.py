from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from equality import BIT_EQUAL, FLOAT32
from torch import Tensor

from videollava.errors import InputError
from videollava.model.attention import packed_kwargs
from videollava.model.video_llava import IGNORED, Projector

Row = tuple[list[int], Sequence[int], Sequence[int]]  # ids, which images, which videos


@pytest.fixture
def media() -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {
        "pixel_values_images": torch.randn(4, 3, 16, 16),
        "pixel_values_videos": torch.randn(2, 4, 3, 16, 16),
    }


def _rows(config: Any) -> list[Row]:
    image = [config.image_token_id] * config.image_tokens
    video = [config.video_token_id] * config.video_tokens()
    return [
        ([1, 5, *image, 7, 8, 9], [0], []),
        ([1, *video, 3, 4], [], [0]),
        ([1, 20, 21, 22], [], []),
        ([1, *image, *image, 6, 7], [1, 2], []),
        ([4, *video, *image, 5, 5, 6], [3], [1]),
    ]


def _labels(ids: Sequence[int]) -> list[int]:
    return [IGNORED if place == 0 or token >= 64 else token for place, token in enumerate(ids)]


def _pack(rows: Sequence[Row]) -> dict[str, Any]:
    flat = [token for ids, _, _ in rows for token in ids]
    labels = [label for ids, _, _ in rows for label in _labels(ids)]
    lengths = [len(ids) for ids, _, _ in rows]
    return {"input_ids": torch.tensor([flat]), "labels": torch.tensor([labels]), **packed_kwargs(lengths)}


def _alone(row: Row, media: dict[str, Tensor]) -> dict[str, Any]:
    ids, images, videos = row
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([_labels(ids)])}
    if images:
        inputs["pixel_values_images"] = media["pixel_values_images"][list(images)]
    if videos:
        inputs["pixel_values_videos"] = media["pixel_values_videos"][list(videos)]
    return inputs


def _gradients(model: Any) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def test_a_mixed_pack_equals_its_samples_one_by_one(model: Any, media: dict[str, Tensor]) -> None:
    rows = _rows(model.config)
    outs = [model(**_alone(row, media), num_items_in_batch=7) for row in rows]
    loss = torch.stack([out.loss for out in outs]).sum()
    loss.backward()
    expected = _gradients(model)
    packed = model(**_pack(rows), **media, num_items_in_batch=7)
    packed.loss.backward()
    torch.testing.assert_close(
        packed.logits[0], torch.cat([out.logits[0] for out in outs]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(packed.loss, loss, rtol=1e-6, atol=1e-6)
    found = _gradients(model)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=FLOAT32, atol=1e-6, msg=name)


def test_left_padded_rows_equal_single_ones(model: Any, media: dict[str, Tensor]) -> None:
    rows = _rows(model.config)
    width = max(len(ids) for ids, _, _ in rows)
    ids = torch.tensor([[0] * (width - len(ids)) + ids for ids, _, _ in rows])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids, _, _ in rows])
    places = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(input_ids=ids, attention_mask=mask, position_ids=places, **media).logits
    for number, row in enumerate(rows):
        alone = model(**_alone(row, media)).logits[0]
        torch.testing.assert_close(logits[number, -len(row[0]) :], alone, rtol=0, atol=2e-6)


def test_in_training_the_head_sees_targets_alone_and_the_loss_is_the_same(
    model: Any, media: dict[str, Tensor]
) -> None:
    inputs = {**_pack(_rows(model.config)), **media}
    whole = model(**inputs)
    whole.loss.backward()
    expected = _gradients(model)
    targets = (inputs["labels"][0, 1:] != IGNORED).nonzero()[:, 0]
    for options in ({}, {"logits_to_keep": targets}):
        out = model.train()(**inputs, **options)
        assert out.logits.shape == (1, len(targets), 64)
        torch.testing.assert_close(out.loss, whole.loss)
        out.loss.backward()
        for name, gradient in _gradients(model).items():
            torch.testing.assert_close(gradient, expected[name], rtol=FLOAT32, atol=1e-6, msg=name)


def test_each_encoder_and_the_projector_run_once(model: Any, media: dict[str, Tensor]) -> None:
    calls: list[str] = []
    for name in ("image_tower", "video_tower", "multi_modal_projector"):
        getattr(model.model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    model(**_pack(_rows(model.config)), **media)
    assert calls == ["image_tower", "video_tower", "multi_modal_projector"]


def test_features_of_the_encoders_stand_for_pixels(model: Any, media: dict[str, Tensor]) -> None:
    images = model.encode_images(media["pixel_values_images"])
    videos = model.encode_videos(media["pixel_values_videos"])
    assert images.shape == (4, model.config.image_tokens, 32)
    assert videos.shape == (2, model.config.video_tokens(), 32)
    inputs = _pack(_rows(model.config))
    from_features = model(**inputs, image_features=images, video_features=videos).logits
    torch.testing.assert_close(from_features, model(**inputs, **media).logits, rtol=0, atol=BIT_EQUAL)


def test_frozen_encoders_keep_nothing_for_the_backward_pass(model: Any, media: dict[str, Tensor]) -> None:
    assert model.encode_images(media["pixel_values_images"]).requires_grad
    model.model.image_tower.requires_grad_(False)
    assert not model.encode_images(media["pixel_values_images"]).requires_grad


def test_frozen_encoders_drop_nothing_whatever_the_model_does(model: Any, media: dict[str, Tensor]) -> None:
    """Released encoders carry the dropouts they were trained with."""
    pictures, clips = media["pixel_values_images"], media["pixel_values_videos"]
    expected = model.encode_images(pictures), model.encode_videos(clips)
    towers = (model.model.image_tower, model.model.video_tower)
    for tower in towers:
        tower.config.patch_dropout = 0.5
        for layer in tower.encoder.layers:
            layer.self_attn.dropout = 0.5
        tower.requires_grad_(False)
    model.train()
    assert model.model.language_model.training
    assert model.model.multi_modal_projector.training
    assert not any(module.training for tower in towers for module in tower.modules())
    assert torch.equal(model.encode_images(pictures), expected[0])
    assert torch.equal(model.encode_videos(clips), expected[1])
    towers[0].requires_grad_(True)
    assert model.train().model.image_tower.training
    assert not model.model.video_tower.training


@pytest.mark.parametrize("modules", [("image", "video", "projector"), ("projector",), ("video",)])
def test_every_rank_can_be_made_to_call_the_same_modules(model: Any, modules: tuple[str, ...]) -> None:
    calls: list[str] = []
    names = {"image": "image_tower", "video": "video_tower", "projector": "multi_modal_projector"}
    for name in names.values():
        getattr(model.model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    ids = torch.tensor([[1, 2, 3, 4]])
    plain = model(input_ids=ids, labels=ids).loss
    assert calls == []
    out = model(input_ids=ids, labels=ids, same_calls=modules).loss
    assert calls == [names[module] for module in modules]
    torch.testing.assert_close(out, plain, rtol=0, atol=BIT_EQUAL)
    out.backward()
    for module in modules:
        for parameter in getattr(model.model, names[module]).parameters():
            assert parameter.grad is None or not parameter.grad.any()


def test_a_rank_without_targets_still_has_a_loss(model: Any) -> None:
    ids = torch.tensor([[1, 2, 3]])
    out = model.train()(input_ids=ids, labels=torch.full_like(ids, IGNORED), num_items_in_batch=4)
    out.loss.backward()
    assert out.loss == 0
    assert model.lm_head.weight.grad is not None


def test_placeholders_must_match_what_is_given(model: Any, media: dict[str, Tensor]) -> None:
    (ids, _, _) = _rows(model.config)[0]
    with pytest.raises(InputError, match="4 image placeholders in the ids for 16 visual tokens"):
        model(input_ids=torch.tensor([ids]), pixel_values_images=media["pixel_values_images"])
    with pytest.raises(InputError, match="4 image placeholders in the ids for 0 visual tokens"):
        model(input_ids=torch.tensor([ids]))


def test_placeholders_lie_outside_the_language_models_table(model: Any) -> None:
    assert (model.config.image_token_id, model.config.video_token_id) == (64, 65)
    assert model.get_input_embeddings().num_embeddings == model.lm_head.out_features == 64


@pytest.mark.parametrize(
    ("kind", "layers"), [("mlp2x_gelu", 2), ("linear", 1), ("mlp3x_gelu", 3), ("identity", 0)]
)
def test_projector_types(kind: str, layers: int) -> None:
    projector = Projector(kind, 8, 8)
    assert len(list(projector.parameters())) == 2 * layers
    assert projector(torch.randn(2, 3, 8)).shape == (2, 3, 8)


def test_unfit_projectors_are_refused() -> None:
    with pytest.raises(InputError, match="identity needs equal widths, not 8 and 16"):
        Projector("identity", 8, 16)
    with pytest.raises(InputError, match="projector_type 'qformer' is not known"):
        Projector("qformer", 8, 8)


def test_a_model_may_have_one_encoder(make_model: Callable[..., Any], media: dict[str, Tensor]) -> None:
    model = make_model(towers=["image"])
    assert not hasattr(model.model, "video_tower")
    row = _rows(model.config)[0]
    assert model(**_alone(row, media)).loss.isfinite()
    with pytest.raises(InputError, match="no video encoder"):
        model.encode_videos(media["pixel_values_videos"])


def test_transformers_own_generate_works(model: Any, media: dict[str, Tensor]) -> None:
    row = _rows(model.config)[4]
    inputs = {name: value for name, value in _alone(row, media).items() if name != "labels"}
    mask = torch.ones_like(inputs["input_ids"])
    out = model.generate(**inputs, attention_mask=mask, max_new_tokens=4, do_sample=False, eos_token_id=None)
    ids, expected = inputs["input_ids"], []
    for _ in range(4):
        token = model(**{**inputs, "input_ids": ids}).logits[0, -1].argmax()
        expected.append(int(token))
        ids = torch.cat([ids, token[None, None]], 1)
    assert out[0, -4:].tolist() == expected
