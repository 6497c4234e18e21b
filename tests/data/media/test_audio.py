"""Sound: formats, rates and lengths (the reference clip is in test_media)."""

from __future__ import annotations

import io
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from videollava.data.media.audio import FRAMES, MEAN, STD, audio_to_pixels, fbank, read_audio, resample
from videollava.errors import InputError

Samples = np.ndarray[Any, np.dtype[np.float32]]


def tone(hertz: float = 440.0, rate: int = 16_000, seconds: float = 1.0, channels: int = 1) -> Samples:
    times = np.arange(int(rate * seconds)) / rate
    return np.tile((0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), (channels, 1))


def wav(samples: Samples, rate: int = 16_000, width: int = 2) -> bytes:
    values = np.round(samples.T * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    raw = (values + 128).astype(np.uint8).tobytes() if width == 1 else values.astype("<i8").tobytes()
    if width > 1:
        raw = np.frombuffer(raw, np.uint8).reshape(-1, 8)[:, :width].tobytes()
    file = io.BytesIO()
    with wave.open(file, "wb") as target:
        target.setnchannels(samples.shape[0])
        target.setsampwidth(width)
        target.setframerate(rate)
        target.writeframes(raw)
    return file.getvalue()


def encoded(kind: str, codec: str, samples: Samples, rate: int) -> bytes:
    av = pytest.importorskip("av")

    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        size = stream.codec_context.frame_size or None
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=size)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode())
    return file.getvalue()


def saved_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 6, 20])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_pcm_is_its_numbers_over_the_largest(width: int, channels: int) -> None:
    most = 2 ** (8 * width - 1)
    stored = np.random.default_rng(0).integers(-most, most, (channels, 500))
    stored[:, :2] = -most, most - 1
    samples, rate = read_audio(wav(stored / (most - 1), 22_050, width))
    assert (samples.dtype, rate) == (np.float32, 22_050)
    np.testing.assert_array_equal(samples, stored.astype(np.float32) / most)


def test_floats_are_as_they_are() -> None:
    stored = np.random.default_rng(0).normal(size=(1, 500)).astype(np.float32)
    np.testing.assert_array_equal(read_audio(encoded("wav", "pcm_f32le", stored, 8_000))[0], stored)


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("wav", "pcm_f32le"),
        ("flac", "flac"),
        ("mp4", "aac"),
        ("mp3", "libmp3lame"),
        ("adts", "aac"),
        ("matroska", "aac"),
        ("aiff", "pcm_s16be"),
    ],
)
def test_other_formats_by_av(kind: str, codec: str) -> None:
    samples, rate = read_audio(encoded(kind, codec, tone(), 16_000))
    assert rate == 16_000
    middle = samples[0, 4000:12_000]
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)
    assert np.abs(np.fft.rfft(middle)).argmax() == 220  # 440 Hz over half a second


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"hello" * 50, "it is text"),
        (b"\x12\x00\x99" * 50, "of no container that is read here"),
        (wav(tone())[:30], "cut short"),
        (wav(tone())[:9000], "cut short: 23044 bytes are missing"),
        (saved_picture(), "it is a PNG picture"),
        (b"RIFF\x00\x00\x00\x00WAVE" + b"\x01" * 40, ""),
    ],
)
def test_broken_sound_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"s\.wav: cannot be read as sound \(.*{reason}.*\): \w+"):
        read_audio(data, "s.wav")


def test_other_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="gone: not found"):
        read_audio(tmp_path / "gone")
    with pytest.raises(InputError, match="holds no sound"):
        read_audio(wav(tone(seconds=0)))
    with pytest.raises(InputError, match="less sound than a window of 25 ms"):
        audio_to_pixels(tone(seconds=0.02), 16_000)
    with pytest.raises(InputError, match="cannot be brought to 16000 Hz"):
        audio_to_pixels(tone(seconds=0.1), 44_101)
    broken = encoded("wav", "pcm_f32le", np.full((1, 2000), np.nan, np.float32), 16_000)
    with pytest.raises(InputError, match="numbers that are no sound"):
        read_audio(broken)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match="install av"):
        read_audio(b"ID3" + bytes(50), "s.mp3")


def test_filter_banks_are_kaldis() -> None:
    """Its formula once more in float64: less the window's mean, pre-emphasis, Hann, power, mel triangles from 20 Hz."""
    samples = np.random.default_rng(0).normal(scale=0.1, size=8000).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), 400)[::160]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = (frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)) * np.hanning(400)
    power = np.abs(np.fft.rfft(frames, n=512, axis=1)[:, :256]) ** 2
    mels = 1127 * np.log(1 + np.arange(256) * 16_000 / 512 / 700)
    low, high = 1127 * np.log(1 + np.array([20, 8000]) / 700)
    step = (high - low) / 113
    place = (mels[:, None] - low) / step - np.arange(112)
    triangles = np.maximum(0, np.minimum(place, 2 - place))
    # The lowest are narrower than a bin of the spectrum, and may hold nothing.
    expected = np.log(np.maximum(power @ triangles, np.finfo(np.float32).eps))
    found = fbank(samples, 16_000, 112)
    assert found.shape == (48, 112)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert fbank(samples[:399], 16_000, 112).shape == (0, 112)


def test_short_sound_is_repeated() -> None:
    samples = tone(hertz=700, seconds=1.0)
    pixels = audio_to_pixels(samples, 16_000)
    assert pixels.shape == (3, 112, FRAMES)
    assert pixels.is_contiguous()
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])
    assert torch.equal(pixels[0, :, 98 : 2 * 98], pixels[0, :, :98])
    mel = fbank((samples - samples.mean())[0], 16_000, 112)
    torch.testing.assert_close(pixels[0, :, :98].T * 2 * STD + MEAN, torch.from_numpy(mel), rtol=0, atol=1e-3)


def test_long_sound_gives_front_middle_and_back() -> None:
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 4000, 16_000 * 40)) / 16_000)
    samples = sweep.astype(np.float32)[None]
    pixels = audio_to_pixels(samples, 16_000)
    peaks = [int(piece.mean(1).argmax()) for piece in pixels]
    assert peaks[0] < peaks[1] < peaks[2]
    mel = (fbank((samples - samples.mean(dtype=np.float64).astype(np.float32))[0], 16_000, 112) - MEAN) / (
        2 * STD
    )
    middle = pixels[1].T.numpy()
    starts = [s for s in range(len(mel) - FRAMES + 1) if np.allclose(mel[s], middle[0], atol=1e-4)]
    assert any(np.allclose(mel[start : start + FRAMES], middle, atol=1e-4) for start in starts)
    drawn = audio_to_pixels(samples, 16_000, seed=1)
    assert torch.equal(drawn, audio_to_pixels(samples, 16_000, seed=1))
    assert not torch.equal(drawn, audio_to_pixels(samples, 16_000, seed=2))


def test_just_past_the_length() -> None:
    for extra in (0, 1, 2):
        samples = tone(seconds=(400 + 160 * (FRAMES - 1 + extra)) / 16_000)
        assert audio_to_pixels(samples, 16_000).shape == (3, 112, FRAMES)


def test_first_channel_less_the_mean_of_all() -> None:
    both = np.concatenate([tone(440) + 0.25, tone(1000)]).astype(np.float32)
    expected = fbank((both - both.mean(dtype=np.float64).astype(np.float32))[0], 16_000, 112)
    pixels = audio_to_pixels(both, 16_000)
    torch.testing.assert_close(
        pixels[0, :, :98].T * 2 * STD + MEAN, torch.from_numpy(expected), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_tone(rate: int) -> None:
    changed = resample(tone(1000, rate), rate, 16_000)
    assert changed.shape == (1, 16_000)
    inside = slice(500, -500)
    np.testing.assert_allclose(changed[0, inside], tone(1000)[0, inside], atol=5e-3)


def test_resampling_removes_what_would_fold_over() -> None:
    assert np.abs(resample(tone(15_000, 48_000), 48_000, 16_000)[0, 500:-500]).max() < 5e-3


@pytest.mark.parametrize(
    ("rate", "theirs"),
    [
        (8_000, [0.995, 1.12621, 1.00413, 0.94358, 0.99358, 1.01735, 0.98568, 0.96081]),
        (22_050, [0.85922, 1.04279, 0.9677, 0.95141, 0.81715, 0.58255, 0.20248, -0.28577]),
        (44_100, [0.68009, 1.06429, 0.78461, 0.21714, -0.75311, -0.81999, 0.74294, 0.3059]),
    ],
)
def test_resampling_gives_torchaudios_numbers(rate: int, theirs: list[float]) -> None:
    """What torchaudio 2.11.1's functional.resample made of it. soxr 1.1 has another filter: its HQ is 0.03 to 0.1 away
    here, 0.1 on noise, 2e-4 within a tone: up to 0.6 in the pixels of a spectrogram.
    """
    sweep = np.cos(np.arange(40, dtype=np.float64) ** 2 / 50).astype(np.float32)
    np.testing.assert_allclose(resample(sweep[None], rate, 16_000)[0, :8], theirs, rtol=0, atol=2e-5)
