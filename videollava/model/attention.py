"""The "varlen" attention: several sequences in one row, each attending to itself alone, no padding.

Registered with transformers, so any model of it runs packed rows with `attn_implementation="varlen"` and the
keyword arguments `cu_seq_lens_q` (int32 (segments + 1,)) and `max_length_q`. CUDA in half precision uses
flash-attn where installed, else torch.nn.attention.varlen; everything else one batched SDPA call per group of
segments of about the same length. Rows without `cu_seq_lens_q` (padded batches, generation with a cache) go
to plain sdpa.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

__all__ = [
    "VARLEN",
    "attend_packed",
    "choose_attention",
    "encoder_attention",
    "find_kernel",
    "packed_kwargs",
    "register",
]

VARLEN = "varlen"
SLACK = 1.25  # segments share a call while the longest is at most this much longer than the shortest
SLACK_TOKENS = 16
# In bfloat16 on a CPU, plain matrix products are up to five times the fused kernel at short rows.
SHORT_TOKENS = 2048
BLOCK_TOKENS = 128


def choose_attention(model: Any, device: torch.device) -> None:
    """Packed attention in the language model; in the encoders what is quickest on this device."""
    model.model.language_model.set_attn_implementation(VARLEN)
    for kind in ("image", "video"):
        tower = getattr(model.model, f"{kind}_tower", None)
        if tower is not None:
            tower.set_attn_implementation(encoder_attention(device, tower.dtype == torch.bfloat16))


def encoder_attention(device: torch.device, bf16: bool) -> str:
    """On a CPU in bfloat16, matrix products beat the fused kernel several times at an encoder's short rows; in float32
    the kernel is the quicker one, 1.4 to 3 times.
    """
    return "eager" if device.type == "cpu" and bf16 else "sdpa"


def packed_kwargs(
    lengths: Sequence[int],
    device: torch.device | str = "cpu",
    positions: Tensor | None = None,
    ends: Tensor | None = None,
) -> dict[str, Any]:
    """What a packed row of segments of `lengths` passes to the model: positions and varlen arguments.

    positions (1, T), ends (segments + 1,): the same of a `Batch`, which are pinned, so that copying them waits for
    nothing.
    """
    if positions is None:
        positions = torch.cat([torch.arange(length) for length in lengths])[None]
    if ends is None:
        ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    positions, ends = (given.to(device, non_blocking=True) for given in (positions, ends))
    longest = max(lengths)
    return {
        "position_ids": positions,
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "use_cache": False,
        # A mask that transformers takes for a finished one: else it reads the positions back from the device to
        # see whether the row is packed. The attention itself goes by the segments.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
    }


def attend_varlen(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (B, heads, T, head_dim) in, (B, T, heads, head_dim) out."""
    if cu_seq_lens_q is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if query.shape[0] != 1:
        raise ValueError(
            f"packed rows come one at a time: got a batch of {query.shape[0]} with cu_seq_lens_q"
        )
    # Under autocast, rotary embeddings leave query and key in float32; value has the type of the computation.
    q, k, v = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    return attend_packed(q, k, v, cu_seq_lens_q, max_length_q, scaling, dropout)[None], None


def attend_packed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seq_lens: Tensor,
    longest: int | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Causal attention inside each segment: (T, heads, dim), k and v with kv heads -> (T, heads, dim)."""
    if _suits_kernel(q, dropout):
        kernel = find_kernel()
        return kernel(q, k, v, cu_seq_lens, longest or int(cu_seq_lens.diff().max()), scale)
    return _attend_by_lengths(q, k, v, cu_seq_lens, scale, dropout)


def _suits_kernel(q: Tensor, dropout: float) -> bool:
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16) and dropout == 0.0


def find_kernel() -> Kernel:
    """What attends to packed rows on CUDA: flash-attn where it is installed, else torch's own.

    Found once, and before layers are compiled: a compiler can neither import nor look at signatures.
    """
    global _kernel
    if _kernel is None:
        _kernel = _flash_attn() or _torch_varlen()
    return _kernel


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, int, float | None], Tensor]
_kernel: Kernel | None = None


def _flash_attn() -> Kernel | None:
    try:
        attend = importlib.import_module("flash_attn").flash_attn_varlen_func
    except ImportError:
        return None

    def kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scale: float | None) -> Tensor:
        mixed: Tensor = attend(q, k, v, ends, ends, longest, longest, softmax_scale=scale, causal=True)
        return mixed

    return kernel


def _torch_varlen() -> Kernel:
    """torch 2.13 says causal by window_size=(-1, 0) and repeats heads itself; older releases do not."""
    from torch.nn.attention.varlen import varlen_attn

    attend: Callable[..., Any] = varlen_attn
    known = inspect.signature(attend).parameters
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    grouped, scaled = "enable_gqa" in known, "scale" in known
    if grouped:
        options["enable_gqa"] = True

    def kernel(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scale: float | None) -> Tensor:
        if not grouped and q.shape[1] != k.shape[1]:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        chosen = {**options, "scale": scale} if scaled and scale is not None else options
        rows = (x.contiguous() for x in (q, k, v))
        mixed: Tensor = attend(*rows, ends, ends, longest, longest, **chosen)
        return mixed

    return kernel


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _attend_by_lengths(
    q: Tensor, k: Tensor, v: Tensor, cu_seq_lens: Tensor, scale: float | None, dropout: float
) -> Tensor:
    """Without a kernel of varying lengths: they are read back, so a compiled layer is cut in two here."""
    ends = cu_seq_lens.tolist()
    return _attend_grouped(q, k, v, tuple(b - a for a, b in itertools.pairwise(ends)), scale, dropout)


def _attend_grouped(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], scale: float | None, dropout: float
) -> Tensor:
    """One SDPA call per group of similar lengths, shorter segments padded at the end.

    Exact: under a causal mask no token looks at what comes after it, so padding at the end is never seen.
    """
    groups, index, place = _groups(lengths)
    if len(lengths) > 1:
        index, place = index.to(q.device), place.to(q.device)
        q, k, v = (_Spread.apply(x, index, place) for x in (q, k, v))
    mixed = []
    rows = [count * longest for count, longest in groups]
    for (count, longest), *parts in zip(groups, q.split(rows), k.split(rows), v.split(rows), strict=True):
        heads_first = (part.unflatten(0, (count, longest)).transpose(1, 2) for part in parts)
        out = _attend_causal(*heads_first, scale=scale, dropout=dropout)
        mixed.append(out.transpose(1, 2).flatten(0, 1))
    if len(lengths) == 1:
        return mixed[0]
    return _Gather.apply(torch.cat(mixed), place, index)


def _attend_causal(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None, dropout: float) -> Tensor:
    """Causal attention of equally long rows: (segments, heads, T, dim) each."""
    short = q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.shape[-2] <= SHORT_TOKENS
    if not short or dropout or q.shape != k.shape:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, dropout_p=dropout, enable_gqa=q.shape[1] != k.shape[1]
        )
    rows, columns, values = (x.flatten(0, 1) for x in (q, k, v))
    length = q.shape[-2]
    mixed = []
    for start in range(0, length, BLOCK_TOKENS):
        # A block of queries sees the keys up to its own end: about half of the square is never computed.
        end = min(start + BLOCK_TOKENS, length)
        bias = torch.full((end - start, end), float("-inf"), dtype=q.dtype).triu(start + 1)
        scores = torch.baddbmm(
            bias, rows[:, start:end], columns[:, :end].transpose(1, 2), alpha=scale or q.shape[-1] ** -0.5
        )
        mixed.append(scores.softmax(-1) @ values[:, :end])
    return torch.cat(mixed, dim=1).unflatten(0, q.shape[:2])


@functools.lru_cache(maxsize=64)
def _groups(lengths: tuple[int, ...]) -> tuple[list[tuple[int, int]], Tensor, Tensor]:
    """How to lay segments out in groups of about the same length.

    Returns the groups (segments, longest), for each padded row its token (-1: padding), and for each token
    its row.
    """
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    groups: list[tuple[int, int]] = []
    index: list[Tensor] = []
    members: list[int] = []

    def close() -> None:
        longest = lengths[members[0]]
        groups.append((len(members), longest))
        for member in members:
            row = torch.full((longest,), -1)
            row[: lengths[member]] = torch.arange(starts[member], starts[member + 1])
            index.append(row)
        members.clear()

    for number in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[number] == 0:
            continue
        if members and lengths[members[0]] > max(lengths[number] * SLACK, lengths[number] + SLACK_TOKENS):
            close()
        members.append(number)
    close()
    rows = torch.cat(index)
    place = torch.empty(starts[-1], dtype=torch.long)
    place[rows[rows >= 0]] = (rows >= 0).nonzero()[:, 0]
    return groups, rows, place


class _Spread(torch.autograd.Function):
    """Tokens (T, ...) to padded rows; padding repeats token 0 and takes no part in gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return x.index_select(0, index.clamp(min=0))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Gather(torch.autograd.Function):
    """Padded rows back to tokens (T, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        spread = grad.index_select(0, index.clamp(min=0))
        spread[index < 0] = 0
        return spread, None, None


def mask_varlen(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """None for packed rows (transformers sees them by their position ids), sdpa's mask for padded ones."""
    packed = not kwargs.get("allow_is_causal_skip", True) and kwargs["q_length"] == kwargs["kv_length"] > 1
    if attention_mask is None and packed:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)


def register() -> None:
    """Make "varlen" known to transformers; called where the model is defined."""
    AttentionInterface.register(VARLEN, attend_varlen)
    AttentionMaskInterface.register(VARLEN, mask_varlen)


register()
