"""What ranks send each other, by strategy: bytes of a micro-step (a pack) and of an optimizer step, and seconds.

- sharded: every layer's weights are gathered for the forward and for the backward pass of each micro-step in the type
  they are computed in, one layer ahead (the table of embeddings once, in float32), its gradients reduced in float32.
- sharded-node: the same within a host; between hosts the shards' gradients are summed once a step.
- replicated: gradients are summed once a step, in float32.
- zero2: gradients are reduced in each micro-step and weights gathered once a step, in the type that is computed in;
  zero3: weights are gathered twice a micro-step too. Offload: gradients go to main memory and weights come back; AdamW
  runs on the host, at the speed of its memory.

A ring moves (n - 1) / n of what is gathered or reduced over a GPU's link, and as much of it as there are other hosts
over a host's network, whichever takes longer. A hop's latency is NCCL's own figure (src/graph/tuning.cc, ring, simple).
"""

from __future__ import annotations

from dataclasses import dataclass

from videollava.machine import Strategy
from videollava.train.memory import Weights
from videollava.train.planning.hardware import Hardware

__all__ = ["OVERLAP", "Traffic", "traffic_of"]

OVERLAP = 0.8  # of a micro-step's computing time: so much of it has something beside it that is sent
HOP, HOP_NETWORK = 3.4e-6, 14e-6  # seconds
ADAM_BYTES = 28  # that AdamW reads and writes a weight: gradient, master, two moments, and these three again
HOST_MEMORY = 150e9  # bytes/s that DeepSpeed's AdamW reaches on a host (0.6 to 1.5 s a step for 7B)


@dataclass(frozen=True)
class Traffic:
    """Seconds and bytes, of one GPU. micro, step: what goes on beside computing, in a micro-step and at a step's last
    one; after: what nothing goes on beside, once a step.
    """

    micro: float
    micro_bytes: float
    step: float
    step_bytes: float
    after: float
    layers: int

    def waited(self, computing: float, micro_steps: float) -> float:
        """Seconds of a step that are not hidden; computing: seconds of one micro-step.

        The first layer's weights and the last one's gradients have nothing to hide behind.
        """
        each = self.micro / self.layers + max(0.0, self.micro - OVERLAP * computing)
        # Sums once a step go on beside the last backward pass, two thirds of a micro-step.
        room = max(0.0, OVERLAP * computing * 2 / 3 - self.micro)
        once = self.step / self.layers + max(0.0, self.step - room) if self.step else 0.0
        return each * micro_steps + once + self.after


def traffic_of(
    strategy: Strategy, weights: Weights, layers: int, compute: int, hardware: Hardware
) -> Traffic:
    """What a strategy sends. compute: bytes of a number in the type that is computed in."""
    gathered = compute * (
        weights.learned + weights.frozen - weights.whole - weights.quantized - weights.table
    )
    table = 4 * weights.table
    gradients = 4 * weights.learned
    calls = layers + 2
    stage, _, offload = strategy.partition("-")
    if strategy == "replicated":
        return _traffic(hardware, layers, sums=(2 * gradients, calls), over=hardware.gpus)
    if strategy in ("sharded", "sharded-node"):
        over = hardware.gpus if strategy == "sharded" else hardware.here
        moved = (2 * gathered + table + gradients, 3 * calls)
        between = 2 * gradients if strategy == "sharded-node" else 0
        return _traffic(hardware, layers, moved=moved, over=over, between=between)
    low = compute * weights.learned
    if stage == "zero2":
        made = _traffic(hardware, layers, moved=(low, calls), over=hardware.gpus, last=low)
    else:
        everything = compute * (weights.learned + weights.frozen - weights.quantized)
        made = _traffic(hardware, layers, moved=(2 * everything + low, 3 * calls), over=hardware.gpus)
    return _offloaded(made, stage, compute, weights, hardware) if offload else made


def _traffic(
    hardware: Hardware,
    layers: int,
    over: int,
    moved: tuple[float, int] = (0.0, 0),
    sums: tuple[float, int] = (0.0, 0),
    between: float = 0.0,
    last: float = 0.0,
) -> Traffic:
    """moved, sums: bytes and calls, of a micro-step and of a step, over so many ranks; between: bytes of a step that
    hosts alone send each other; last: bytes that are gathered when a step is done.
    """
    step = _seconds(*sums, over, hardware)
    if hardware.nodes > 1 and between:
        share = (hardware.nodes - 1) / hardware.nodes
        step += between * share / hardware.network + layers * hardware.nodes * HOP_NETWORK
    sent = (over - 1) / over
    return Traffic(
        micro=_seconds(*moved, over, hardware),
        micro_bytes=moved[0] * sent,
        step=step,
        step_bytes=(sums[0] + last) * sent + (between / hardware.here if hardware.nodes > 1 else 0.0),
        after=_seconds(last, 1, over, hardware),
        layers=layers,
    )


def _seconds(size: float, calls: int, over: int, hardware: Hardware) -> float:
    """Of rings over so many ranks that together move `size` bytes to each."""
    if over == 1 or not size:
        return 0.0
    nodes = -(-over // hardware.per_node)
    inside = size * (over - 1) / over / hardware.link
    outside = size * (nodes - 1) / nodes / hardware.network
    hops = (over - nodes) * HOP + (nodes * HOP_NETWORK if nodes > 1 else 0.0)
    return max(inside, outside) + calls * hops


def _offloaded(made: Traffic, stage: str, compute: int, weights: Weights, hardware: Hardware) -> Traffic:
    """Main memory holds the state, and for ZeRO-3 the weights."""
    there_and_back = (4 + compute) * weights.learned / hardware.gpus / hardware.host
    adam = ADAM_BYTES * weights.learned / hardware.nodes / HOST_MEMORY
    fetched = 0.0
    if stage == "zero3":
        fetched = 2 * compute * (weights.learned + weights.frozen) / hardware.gpus / hardware.host
    return Traffic(
        micro=made.micro + fetched,
        micro_bytes=made.micro_bytes,
        step=made.step,
        step_bytes=made.step_bytes,
        after=made.after + there_and_back + adam,
        layers=made.layers,
    )
