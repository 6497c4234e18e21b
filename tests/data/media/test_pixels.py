"""Pixels as they travel: whole numbers are exact, fine steps within 7e-5 of the floats that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from equality import FLOAT32
from PIL import Image
from torch import Tensor

from videollava.data.media.pixels import CLIP_MEAN, CLIP_STD, finely, normalise, stack
from videollava.data.media.read import frames_to_pixels, image_to_pixels

MEAN, STD = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))


def _exact(stored: Tensor) -> Tensor:
    return (stored.double() / 255 - MEAN) / STD


def test_every_stored_number_is_the_originals_in_float32() -> None:
    stored = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    for pixels in (stored, finely(stored)):
        torch.testing.assert_close(normalise(pixels).double(), _exact(stored), rtol=0, atol=5e-7)
    assert torch.equal(normalise(finely(stored)), normalise(stored))  # bit-equal, either way


def test_resized_numbers_keep_their_fractions_and_their_overshoot() -> None:
    numbers = torch.linspace(-120, 375, 3 * 64 * 64).view(3, 64, 64)
    difference = (normalise(finely(numbers)).double() - _exact(numbers)).abs().max()
    assert difference <= 7e-5


def test_the_wildest_picture_stays_within_the_fine_steps() -> None:
    """Black and white in the pattern that bicubic weights like least."""
    checks = np.kron(np.indices((16, 16)).sum(0) % 2, np.ones((2, 2))).astype(np.uint8) * 255
    image = Image.fromarray(np.stack([checks] * 3, -1))
    for size in (24, 40, 47, 150):
        pixels = image_to_pixels(image, size)
        stored = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        floats = torch.nn.functional.interpolate(stored, size=(size, size), mode="bicubic")[0]
        assert floats.max() > 300
        assert (normalise(pixels).double() - _exact(floats)).abs().max() <= 7e-5


def test_floats_are_normalised_already() -> None:
    pixels = torch.randn(2, 3, 4, 4)
    assert normalise(pixels) is pixels


def test_whole_and_fine_numbers_share_a_batch() -> None:
    whole, resized = (
        image_to_pixels(Image.fromarray(np.full((side, side, 3), 200, np.uint8)), 8) for side in (8, 11)
    )
    assert (whole.dtype, resized.dtype) == (torch.uint8, torch.int16)
    both = stack([whole, resized])
    assert both.dtype == torch.int16
    assert torch.equal(normalise(both)[0], normalise(whole))
    assert stack([whole, whole]).dtype == torch.uint8


def test_a_decoded_clip_is_a_quarter_of_its_floats_and_its_own_memory() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    pixels = frames_to_pixels(frames, 8)
    before = pixels.clone()
    frames[:] = 0
    assert torch.equal(pixels, before)
    assert pixels.untyped_storage().nbytes() == normalise(pixels).untyped_storage().nbytes() / 4


@pytest.mark.parametrize("kind", ["image", "video"])
def test_an_encoder_normalises_what_it_is_given(kind: str) -> None:
    from videollava.model.encoders import LanguageBindVisionConfig, LanguageBindVisionModel

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    video = kind == "video"
    config = LanguageBindVisionConfig(
        **shape, image_size=8, patch_size=4, num_frames=2, temporal_attention=video
    )
    torch.manual_seed(0)
    tower = LanguageBindVisionModel(config).eval()
    pixels = torch.randint(0, 256, (2, 2, 3, 8, 8) if video else (2, 3, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        expected = tower(_exact(pixels).float()).last_hidden_state
        for given in (pixels, finely(pixels)):
            torch.testing.assert_close(tower(given).last_hidden_state, expected, rtol=0, atol=FLOAT32)
