"""Sound to the spectrogram that LanguageBind's audio encoder takes.

Files are decoded by PyAV, filter banks are Kaldi's by kaldi-native-fbank (compute-fbank-feats, htk-compat, no energy,
no dither); the rest follows LanguageBind's processing_audio.py. No torchaudio is needed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from videollava.data.media.admission.containers import Container
from videollava.data.media.admission.opening import Source, name_of, open_medium, refuse_others, unreadable
from videollava.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["audio_to_pixels", "check_sound", "fbank", "read_audio", "resample"]

RATE = 16_000
BINS = 112
FRAMES = 1036
MEAN, STD = -4.2677393, 4.5689974

_WINDOW_MS, _SHIFT_MS = 25, 10
_LOUDEST = 1e6
_MOST_TAPS = 4_000_000  # 44.1 kHz to 16 kHz takes 70,560; an odd rate would take gigabytes
MAX_SECONDS = 3600


def read_audio(source: Source, where: str = "") -> tuple[NDArray[np.float32], int]:
    """Decode sound to float32 (channels, samples) in -1..1 and its sample rate.

    Whole numbers of n bits are divided by 2^(n-1). A video gives its sound.

    Raises:
        InputError: no decodable sound, less than it promises, or more than an hour of it.
    """
    file, container = open_medium(source, "audio", where)
    with file:
        try:
            samples, rate = _decode(file, container)
        except ImportError as error:
            raise unreadable(source, where, "audio", error, "install av") from error
        except (OSError, ValueError, RuntimeError) as error:
            raise unreadable(source, where, "audio", error) from error
    if not samples.shape[1]:
        raise InputError(f"{name_of(source, where)}: holds no sound: leave it out")
    if samples.shape[1] > MAX_SECONDS * rate:
        raise InputError(f"{name_of(source, where)}: longer than {MAX_SECONDS} s of sound: cut it")
    if not np.abs(samples).max() < _LOUDEST:  # NaN too
        raise InputError(f"{name_of(source, where)}: holds numbers that are no sound: save it again")
    return samples, rate


def audio_to_pixels(
    samples: NDArray[np.float32], rate: int, bins: int = BINS, frames: int = FRAMES, seed: int | None = None
) -> Tensor:
    """Sound (channels, samples) as float32 (3, bins, frames): normalised log mel spectrogram.

    Shorter sound is repeated to `frames`, three times the same; longer gives a piece of the front, middle
    and back third each. The original draws them at random: so does a `seed`; without one they are the
    middle of each third.
    """
    import torch

    check_sound(samples, rate)
    level = samples - samples.mean(dtype=np.float64).astype(np.float32)
    waveform = resample(level[:1], rate, RATE)[0]
    total = _count_frames(len(waveform), RATE)
    if total <= frames:
        mel = np.tile(fbank(waveform, RATE, bins), (math.ceil(frames / total), 1))[:frames]
        pieces = np.stack([mel] * 3)
    else:
        hop = RATE * _SHIFT_MS // 1000
        cuts = [waveform[start * hop : (start + frames + 2) * hop] for start in _starts(total, frames, seed)]
        pieces = np.stack([fbank(cut, RATE, bins)[:frames] for cut in cuts])
    pixels = (pieces.transpose(0, 2, 1) - MEAN) / (2 * STD)
    return torch.from_numpy(np.ascontiguousarray(pixels, np.float32))


def check_sound(samples: NDArray[np.float32], rate: int) -> None:
    """InputError where `audio_to_pixels` could not take this sound."""
    _ratio(rate, RATE)
    if not _count_frames(math.ceil(samples.shape[1] * RATE / rate), RATE):
        raise InputError(
            f"{samples.shape[1]} samples at {rate} Hz: less sound than a window of {_WINDOW_MS} ms: leave it out"
        )


def fbank(samples: NDArray[np.float32], rate: int, bins: int) -> NDArray[np.float32]:
    """Kaldi's log mel filter banks of one channel: (frames, bins), windows of 25 ms every 10 ms."""
    import kaldi_native_fbank

    computed = kaldi_native_fbank.OnlineFbank(_fbank_options(rate, bins))
    computed.accept_waveform(rate, samples.astype(np.float32, copy=False))
    computed.input_finished()
    mel = np.empty((computed.num_frames_ready, bins), np.float32)
    for index in range(len(mel)):
        mel[index] = computed.get_frame(index)
    return mel


@lru_cache(maxsize=4)
def _fbank_options(rate: int, bins: int) -> Any:
    """The original's call of torchaudio.compliance.kaldi.fbank, and what that leaves as it is."""
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = rate, _WINDOW_MS, _SHIFT_MS
    frame.window_type, frame.dither, frame.snip_edges = "hanning", 0.0, True
    mel.num_bins, mel.high_freq = bins, 0.0  # 0: half the rate
    options.use_energy, options.htk_compat = False, True
    return options


def resample(samples: NDArray[np.float32], rate: int, target: int) -> NDArray[np.float32]:
    """Change the sample rate of (channels, samples): windowed sinc, Hann, 6 zero crossings, roll-off 0.99.

    By hand, because these are torchaudio's numbers, which the published encoder was trained on: soxr is 3e-4 off on a
    tone, and torchaudio needs a build of its own for each torch.
    """
    if rate == target:
        return samples
    old, new = _ratio(rate, target)
    kernels, width = _sinc_kernels(old, new)
    padded = np.pad(samples, ((0, 0), (width, width + old)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernels.shape[1], axis=1)[:, ::old]
    spread = (windows @ kernels.T).reshape(len(samples), -1)
    return spread[:, : math.ceil(new * samples.shape[1] / old)].astype(np.float32)


def _ratio(rate: int, target: int) -> tuple[int, int]:
    """Both rates without their common factor; InputError where the filters between them would be too large."""
    common = math.gcd(rate, target)
    old, new = rate // common, target // common
    if old * new > _MOST_TAPS:
        raise InputError(
            f"sound at {rate} Hz cannot be brought to {target} Hz: convert it to {target} Hz first"
        )
    return old, new


def _count_frames(samples: int, rate: int) -> int:
    width, shift = rate * _WINDOW_MS // 1000, rate * _SHIFT_MS // 1000
    return 1 + (samples - width) // shift if samples >= width else 0


def _starts(length: int, frames: int, seed: int | None) -> tuple[int, int, int]:
    """First frames of the three pieces."""
    split = np.array_split(np.arange(length - frames + 1), 3)
    thirds = [third if len(third) else np.zeros(1, int) for third in split]
    if seed is None:
        front, middle, back = (int(third[len(third) // 2]) for third in thirds)
    else:
        random = np.random.default_rng(seed)
        front, middle, back = (int(random.choice(third)) for third in thirds)
    return (front, middle, back)


@lru_cache(maxsize=8)
def _sinc_kernels(old: int, new: int) -> tuple[NDArray[np.float32], int]:
    """One filter a phase: (new, 2 * width + old)."""
    zeros, rolloff = 6, 0.99
    base = min(old, new) * rolloff
    width = math.ceil(zeros * old / base)
    times = (np.arange(-width, width + old)[None] / old - np.arange(new)[:, None] / new) * base
    times = np.clip(times, -zeros, zeros)
    hann = np.cos(times * math.pi / zeros / 2) ** 2
    return (np.sinc(times) * hann * (base / old)).astype(np.float32), width


def _decode(file: BinaryIO, container: Container) -> tuple[NDArray[np.float32], int]:
    import av

    try:
        with av.open(file, format=container.demuxer, io_open=refuse_others) as demuxer:
            stream = demuxer.streams.best("audio")
            if stream is None or stream.codec_context is None:
                raise ValueError("it has no sound track that can be decoded")
            return _decode_stream(demuxer, stream)
    except (av.FFmpegError, EOFError, LookupError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from error


def _decode_stream(demuxer: Any, stream: Any) -> tuple[NDArray[np.float32], int]:
    import av

    rate, channels = int(stream.rate), len(stream.layout.channels)
    # Interleaved: PyAV 18 reads past the end of what it holds for more than 8 channels in planes of their own.
    resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=rate)
    blocks = [np.zeros((0, channels), np.float32)]
    left = MAX_SECONDS * rate
    for frame in demuxer.decode(stream):
        blocks += [block.to_ndarray().reshape(-1, channels) for block in resampler.resample(frame)]
        left -= frame.samples
        if left < 0:
            break
    return np.ascontiguousarray(np.concatenate(blocks).T, np.float32), rate
