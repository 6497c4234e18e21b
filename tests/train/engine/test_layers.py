"""Sharded decoder layers with what a long run turns on: bfloat16, recompute, compiled layers, adapters."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from equality import FLOAT32

from videollava.train.engine.ranks import Ranks, end_ranks, join_ranks
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning

# Of torch.compile looking at what runs between layers.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

STEPS, VOCABULARY = 20, 61
RUNS = ("plain", "recompute", "compile", "adapter", "bf16")


def build(run: str) -> Any:
    """A small Llama with a head of its own; of the adapter's run a frozen one in bfloat16 but for its adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, **shape))
    if run == "recompute":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if run == "compile":
        for layer in model.model.layers:
            layer.compile(dynamic=True, backend="aot_eager")
    if run == "adapter":
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], lora_dropout=0.0))
    return model.train()


def learn(engine: TorchEngine, run: str) -> list[float]:
    """Losses of STEPS steps of two micro-steps a rank (four in all)."""
    model = build(run)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    called, _ = engine.prepare(model, Learning([{"params": learned, "lr": 1e-2}]))
    draws, losses = torch.Generator().manual_seed(2), []
    for _ in range(STEPS):
        ids = torch.randint(0, VOCABULARY // 8, (4, 1, 12), generator=draws)
        total, mine = torch.zeros(()), range(engine.rank, 4, engine.ranks)
        for pack in mine:
            with engine.micro_step(last=pack == mine[-1]):
                loss = called(input_ids=ids[pack], labels=ids[pack], use_cache=False).loss
                engine.backward(loss * engine.ranks / 4)
                total += loss.detach() / 4
        assert float(engine.step(1.0)) > 0
        losses.append(float(engine.sum(total)))
    assert all(
        weight.dtype == torch.float32 for group in engine.optimizer.param_groups for weight in group["params"]
    )
    return losses


def one_rank(rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(ranks)}
    torch.set_num_threads(1)
    among = join_ranks(timedelta(minutes=2))
    found = {run: learn(TorchEngine("sharded", run == "bf16", among), run) for run in RUNS}
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    end_ranks()


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    """Float32, 1e-5 over 20 steps; in bfloat16 a few steps near."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (2, port, str(tmp_path)), nprocs=2)
    for run, losses in torch.load(tmp_path / "found.pt").items():
        wanted = learn(TorchEngine("sharded", run == "bf16", Ranks()), run)
        assert losses == pytest.approx(wanted, abs=0.02 if run == "bf16" else FLOAT32), run
        assert losses[-1] < losses[0]
