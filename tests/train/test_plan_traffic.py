"""What ranks send each other, by hand: bytes, seconds, and what hides behind computing."""

from __future__ import annotations

import pytest

from videollava.train.memory import Weights
from videollava.train.planning.hardware import Hardware
from videollava.train.planning.traffic import HOP, HOP_NETWORK, OVERLAP, Traffic, traffic_of

LAYERS = 10
# 1,000 learn (100 of them a table of embeddings), 200 do not: 50 of these are an encoder's.
WEIGHTS = Weights(1_000_000_000, 200_000_000, whole=50_000_000, table=100_000_000)
GATHERED = 2 * (1_000_000_000 + 200_000_000 - 50_000_000 - 100_000_000)


def hosts(gpus: int) -> Hardware:
    return Hardware("x", gpus, 0, 0, link=100e9, network=10e9, host=20e9, per_node=4)


def sent(strategy: str, gpus: int) -> Traffic:
    return traffic_of(strategy, WEIGHTS, LAYERS, 2, hosts(gpus))  # type: ignore[arg-type]


def test_sharded_gathers_twice_and_reduces_in_float32() -> None:
    size, calls = 2 * GATHERED + 4 * 100_000_000 + 4 * 1_000_000_000, 3 * (LAYERS + 2)
    one = sent("sharded", 4)
    assert one.micro_bytes == size * 3 / 4
    assert one.micro == pytest.approx(size * 3 / 4 / 100e9 + calls * 3 * HOP)
    assert (one.step, one.after) == (0, 0)
    two = sent("sharded", 8)
    # Each host gets the other's half over its network, which is slower than the links inside.
    assert two.micro == pytest.approx(size / 2 / 10e9 + calls * (6 * HOP + 2 * HOP_NETWORK))


def test_sharded_within_hosts_sends_between_them_once_a_step() -> None:
    inside, both = sent("sharded", 4), sent("sharded-node", 8)
    assert both.micro == inside.micro
    assert both.step == pytest.approx(2 * 4e9 / 2 / 10e9 + LAYERS * 2 * HOP_NETWORK)
    assert both.step_bytes == 2 * 4e9 / 4  # a GPU's share of what its host sends
    assert sent("sharded-node", 4).step == 0


def test_replicated_sums_gradients_once_a_step() -> None:
    found = sent("replicated", 4)
    assert (found.micro, found.micro_bytes) == (0, 0)
    assert found.step_bytes == 2 * 4e9 * 3 / 4
    assert found.step == pytest.approx(2 * 4e9 * 3 / 4 / 100e9 + (LAYERS + 2) * 3 * HOP)
    assert sent("replicated", 1).step == 0


def test_deepspeed_sends_in_the_type_it_computes_in_and_offloads_over_the_bus() -> None:
    zero2 = sent("zero2", 4)
    assert zero2.micro_bytes == 2e9 * 3 / 4
    assert zero2.after == pytest.approx(2e9 * 3 / 4 / 100e9 + 3 * HOP)
    assert sent("zero3", 4).micro_bytes == (2 * 2 * 1.2e9 + 2e9) * 3 / 4
    offloaded = sent("zero2-offload", 4)
    assert offloaded.after - zero2.after == pytest.approx(6e9 / 4 / 20e9 + 28e9 / 150e9)
    alone = sent("zero3-offload", 1)
    assert alone.micro == pytest.approx(2 * 2 * 1.2e9 / 20e9)  # weights come from main memory


def test_what_is_hidden_and_what_is_waited_for() -> None:
    moved = Traffic(micro=1.0, micro_bytes=0, step=0.0, step_bytes=0, after=0.0, layers=10)
    # All of it hides but the first layer's weights or the last one's gradients.
    assert moved.waited(computing=2.0, micro_steps=3) == pytest.approx(3 * 0.1)
    assert moved.waited(computing=1.0, micro_steps=3) == pytest.approx(3 * (0.1 + 1 - OVERLAP))
    once = Traffic(micro=0.0, micro_bytes=0, step=1.0, step_bytes=0, after=0.5, layers=10)
    assert once.waited(computing=3.0, micro_steps=3) == pytest.approx(0.1 + 0.5)
    assert once.waited(computing=0.75, micro_steps=3) == pytest.approx(0.1 + (1 - 0.4) + 0.5)
