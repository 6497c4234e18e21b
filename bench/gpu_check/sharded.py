"""A step of sharded layers beside a plain one: `fully_shard` over a mesh of this one device, NCCL on a GPU.

In float32 they learn the same; in bfloat16, with gathered weights in it, nearly. Two plain runs tell what the card's
kernels leave open. What sharding itself costs is in the
seconds; what ranks send is not, with one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh

from bench.gpu_check.told import tell
from videollava.train.engine.ranks import Ranks, end_ranks
from videollava.train.engine.sharding import shard
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning

STEPS, PACKS = 10, 2
NEAR = {False: 1e-5, True: 0.05}  # losses, by whether bfloat16 is computed in
TIMES = 3  # what two plain runs are apart, where the card's kernels leave more open than NEAR
SMALL = {"hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE = {"hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 12, "num_attention_heads": 16}


def main(argv: Sequence[str] | None = None) -> int:
    """1 where the losses of the two are further apart than they may be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    store = distributed.TCPStore("127.0.0.1", 0, 1, is_master=True)  # as torchrun's; any port
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=0, world_size=1
    )
    torch.backends.cuda.matmul.allow_tf32 = False
    failed = False
    for bf16 in (False, True):
        plain, seconds = learn(device, bf16, arguments.small, sharded=False)
        again, _ = learn(device, bf16, arguments.small, sharded=False)
        parts, sharded_seconds = learn(device, bf16, arguments.small, sharded=True)
        off, twice = (max(abs(a - b) for a, b in zip(plain, run, strict=True)) for run in (parts, again))
        failed |= off > max(NEAR[bf16], TIMES * twice)
        tell(
            "bfloat16" if bf16 else "float32",
            losses_off_by=off,
            plain_twice_off_by=twice,
            seconds_a_step=round(sharded_seconds, 4),
            times_the_plain_step=round(sharded_seconds / seconds, 2),
            loss=[parts[0], parts[-1]],
        )
    end_ranks()
    return int(failed)


def learn(device: torch.device, bf16: bool, small: bool, sharded: bool) -> tuple[list[float], float]:
    """Losses of STEPS steps, and the seconds of a step after the first two."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with device:
        config = LlamaConfig(
            vocab_size=512 if small else 32000, tie_word_embeddings=False, **(SMALL if small else LARGE)
        )
        model: Any = LlamaForCausalLM(config).train()
    if sharded:
        shard(model, init_device_mesh(device.type, (1,), mesh_dim_names=("shard",)), bf16)
    engine = TorchEngine("sharded", bf16, Ranks(device=device))
    called, _ = engine.prepare(model, Learning([{"params": list(model.parameters()), "lr": 1e-4}]))
    ids = torch.randint(0, 512, (PACKS, 1, 64 if small else 2048), device=device)
    losses, ends = [], []
    for _ in range(STEPS):
        total = torch.zeros((), device=device)
        for pack in range(PACKS):
            with engine.micro_step(last=pack == PACKS - 1):
                loss = called(input_ids=ids[pack], labels=ids[pack], use_cache=False).loss / PACKS
                total += loss.detach()
                engine.backward(loss)
        engine.step(1.0)
        losses.append(float(total))
        ends.append(time.perf_counter())
    return losses, (ends[-1] - ends[1]) / (STEPS - 2)


if __name__ == "__main__":
    raise SystemExit(main())
