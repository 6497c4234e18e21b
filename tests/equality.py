"""The levels at which two runs are equal, as docs/equality.md tells them. A test names its level by these."""

from __future__ import annotations

__all__ = ["BIT_EQUAL", "FLOAT32", "ORIGINAL"]

BIT_EQUAL = 0.0  # to the last bit; also `==`, torch.equal and equal bytes
FLOAT32 = 1e-5  # losses and weights over 20 steps, logits of one pass; in float32
ORIGINAL = 1e-4  # tensors against those of the published code and weights, in float32
