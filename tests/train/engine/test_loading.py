"""A model is read once a host, straight into shards: what a rank's memory grows by, and that every number arrives."""

from __future__ import annotations

import os
import re
import socket
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from videollava.errors import InputError
from videollava.model.formats.language import outline_language_model
from videollava.train.engine.loading import Unread, leave_unread
from videollava.train.engine.ranks import end_ranks, join_ranks
from videollava.train.engine.torch_engine import TorchEngine
from videollava.train.engine.types import Learning

# What grows besides a shard and the largest tensor: gloo's buffers, modules and autograd's own.
CONSTANT = 48 * 2**20
SMALL = {
    "vocab_size": 4001,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
}  # 61 MB in bf16
LARGE = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 18,
}  # 2.1 GB


def write_language_model(folder: Path, shape: dict[str, int]) -> int:
    """A Llama of random numbers in bfloat16, in files as transformers writes them; its bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    config = LlamaConfig(num_attention_heads=8, dtype="bfloat16", architectures=["LlamaForCausalLM"], **shape)
    folder.mkdir()
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = {name: weight.shape for name, weight in LlamaForCausalLM(config).named_parameters()}
    draws = torch.Generator().manual_seed(0)
    drawn = {
        name: torch.empty(size, dtype=torch.bfloat16).uniform_(-1, 1, generator=draws)
        for name, size in names.items()
    }
    save_file(drawn, folder / "model.safetensors", {"format": "pt"})
    return sum(weight.nbytes for weight in drawn.values())


def memory(what: str) -> int:
    """This process's VmRSS or VmHWM (the most since `clear_refs`), in bytes."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def one_rank(rank: int, ranks: int, port: int, folder: str, per_node: int, dtype: torch.dtype) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(per_node)}
    torch.set_num_threads(1)
    engine = TorchEngine("sharded", False, join_ranks(timedelta(minutes=5)))
    place = Path(folder) / "language"
    model, _ = outline_language_model(place, dtype)
    leave_unread(model, place)
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert all(isinstance(weight, Unread) for weight in model.parameters())
    engine.gather(torch.zeros(1))  # what a first exchange takes is no part of it
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    engine.prepare(model, Learning([{"params": [model.lm_head.weight], "lr": 1e-3}]))
    grown = memory("VmHWM") - before
    shard = sum(weight.to_local().nbytes for weight in model.parameters() if isinstance(weight, DTensor))
    _check_numbers(model, place / "model.safetensors", rank, ranks)
    torch.save((grown, shard), Path(folder) / f"{rank}.pt")
    end_ranks()


def _check_numbers(model: nn.Module, file: Path, rank: int, ranks: int) -> None:
    for name, weight in model.named_parameters():
        assert isinstance(weight, DTensor)
        with safe_open(file, framework="pt") as weights:
            rows = weights.get_tensor(name).chunk(ranks)
        mine = weight.to_local().detach()
        wanted = rows[rank].to(mine.dtype) if rank < len(rows) else mine[:0]
        assert torch.equal(mine, wanted), name


@pytest.mark.parametrize(
    ("shape", "ranks", "per_node", "dtype"),
    [
        (SMALL, 2, 2, torch.float32),
        pytest.param(SMALL, 3, 1, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(LARGE, 2, 2, torch.bfloat16, marks=pytest.mark.slow),
        pytest.param(LARGE, 4, 2, torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_a_rank_grows_by_its_shard_and_one_tensor(
    shape: dict[str, int], ranks: int, per_node: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    size = write_language_model(tmp_path / "language", shape)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_rank, (ranks, port, str(tmp_path), per_node, dtype), nprocs=ranks)
    largest = 2 * shape["vocab_size"] * shape["hidden_size"]
    shards = 0
    for rank in range(ranks):
        grown, shard = torch.load(tmp_path / f"{rank}.pt")
        print(
            f"rank {rank} of {ranks}: {size:,} in the file, shard {shard:,}, largest {largest:,}, grown {grown:,}"
        )
        assert grown <= shard + largest + CONSTANT
        shards += shard
    assert shards == size * dtype.itemsize // 2


def test_a_weight_that_is_in_no_file_is_named(tmp_path: Path) -> None:
    write_language_model(tmp_path / "language", SMALL | {"num_hidden_layers": 1})
    model, _ = outline_language_model(tmp_path / "language", torch.float32)
    model.model.layers.append(model.model.layers[0].__class__(model.config, 1).to("meta"))
    with pytest.raises(InputError, match=r"model.layers.1.self_attn.q_proj.weight of shape .* is in none"):
        leave_unread(model, tmp_path / "language")
