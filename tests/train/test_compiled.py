"""Compiled decoder layers: the values of uncompiled ones in float32 1e-5, in one compilation for all packs.

By a compiler's first half ("aot_eager"), which traces and differentiates as the whole does, and by the whole
("inductor") in `make test-all`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._dynamo
from equality import FLOAT32
from micro import MACHINE, micro
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from videollava.errors import InputError
from videollava.model import attention
from videollava.model.attention import packed_kwargs
from videollava.params import Lora
from videollava.train import adapters, pretrain
from videollava.train.compiled import check_compiling, compile_layers

# torch's tracer asks for gradients of tensors that have none.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
PACKS = [[71], [5, 60, 1], [9, 9, 30, 2, 44, 17], [3], [120, 8], [64, 64, 64, 64], [1, 2, 3, 4, 5, 6, 7]]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def _masked(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, scale: float | None) -> Tensor:
    """What a kernel of varying lengths computes, in operations that a CPU has."""
    places = torch.arange(len(q))
    segment = torch.bucketize(places, ends, right=True)
    seen = (segment[:, None] == segment) & (places[:, None] >= places)
    heads = [x.transpose(0, 1)[None] for x in (q, k, v)]
    mixed = F.scaled_dot_product_attention(*heads, attn_mask=seen, scale=scale, enable_gqa=True)
    return mixed[0].transpose(0, 1)


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention goes by a kernel that takes the segments' ends."""
    monkeypatch.setattr(attention, "_suits_kernel", lambda q, dropout: True)
    monkeypatch.setattr(attention, "_kernel", _masked)


def _model(recompute: bool = False) -> Any:
    """A language model where the whole one has it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM._from_config(config, attn_implementation="varlen").train()
    if recompute:
        model.model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _whole(language: Any) -> Any:
    return SimpleNamespace(model=SimpleNamespace(language_model=language.model))


def _graphs() -> int:
    """How many graphs have been compiled."""
    return int(counters["stats"]["unique_graphs"])


def _check_equal(plain: Any, compiled: Any, packs: list[list[int]] = PACKS) -> None:
    draw = torch.Generator().manual_seed(1)
    for lengths in packs:
        ids = torch.randint(0, 50, (1, sum(lengths)), generator=draw)
        found = []
        for model in (plain, compiled):
            logits = model(ids, **packed_kwargs(lengths)).logits
            F.cross_entropy(logits[0], ids[0]).backward()
            found.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
            model.zero_grad()
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=FLOAT32)


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize(
    ("backend", "recompute"),
    [
        ("aot_eager", True),
        pytest.param("aot_eager", False, marks=pytest.mark.slow),
        pytest.param("inductor", True, marks=pytest.mark.slow),
        pytest.param("inductor", False, marks=pytest.mark.slow),
    ],
)
def test_layers_are_compiled_whole_and_once_for_packs_of_all_lengths_in_float32(
    backend: str, recompute: bool
) -> None:
    plain, compiled = _model(recompute), _model(recompute)
    compile_layers(_whole(compiled), backend=backend, fullgraph=True)
    _check_equal(plain, compiled)
    assert _graphs() == 1
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("recompute", [False, True])
def test_where_lengths_are_read_back_the_compiler_goes_round_the_attention_in_float32(
    recompute: bool,
) -> None:
    plain, compiled = _model(recompute), _model(recompute)
    compile_layers(_whole(compiled), backend="eager")
    _check_equal(plain, compiled)
    made = _graphs()
    _check_equal(plain, compiled, [[length, 200 - length] for length in range(1, 199, 20)])
    assert _graphs() == made  # nothing is compiled anew


@pytest.mark.usefixtures("as_on_cuda")
def test_adapted_layers_are_compiled_whole_in_float32() -> None:
    def adapt(model: Any) -> Any:
        inner = torch.nn.Module()
        inner.language_model, inner.multi_modal_projector = model.model, torch.nn.Linear(2, 2)
        holder = torch.nn.Module()
        holder.model, holder.config, holder.prepare_inputs_for_generation = inner, model.config, None
        adapters.add_adapter(holder, Lora(r=4, alpha=8, dropout=0.0))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        return model

    plain = adapt(_model())
    compiled = copy.deepcopy(plain)
    compile_layers(_whole(compiled), backend="eager", fullgraph=True)
    _check_equal(plain, compiled)
    assert (
        _graphs() == 2
    )  # what enters the first layer has no gradient here; in a stage it comes by the projector


def test_torchs_own_kernel_is_traced_whole_with_lengths_as_symbols(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph alone: a CPU has no such kernel to run it with."""
    monkeypatch.setattr(attention, "_suits_kernel", lambda q, dropout: True)
    monkeypatch.setattr(attention, "_kernel", None)
    monkeypatch.setattr(attention, "_flash_attn", lambda: None)
    attention.find_kernel()
    layer, graphs = _model().model.layers[0], []

    def look(graph: Any, inputs: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return lambda *given: (torch.zeros(1, given_tokens, 32),)

    layer.compile(dynamic=True, fullgraph=True, backend=look)
    for lengths in PACKS[1:3]:
        given_tokens = sum(lengths)
        turns = torch.zeros(1, given_tokens, 8)
        layer(torch.zeros(1, given_tokens, 32), position_embeddings=(turns, turns), **packed_kwargs(lengths))
    (graph,) = graphs
    (call,) = [node for node in graph.graph.nodes if "varlen_attn" in str(node.target)]
    assert not any(isinstance(length, int) for length in call.args[5:7])


def test_a_stage_learns_the_same_compiled_in_float32(
    workspace: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_with = "videollava.train.instruct.compile_layers"
    monkeypatch.setattr(compile_with, lambda model: compile_layers(model, backend="eager"))
    found = []
    for compiled in (False, True):
        folder = workspace(f"compiled-{compiled}")
        pretrain.run(micro(), folder, MACHINE.replace(compile=compiled))
        found.append(load_file(folder / "models/projector/projector.safetensors"))
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=0, atol=FLOAT32)


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="compile is true and strategy zero3-offload, which gathers"):
        check_compiling("zero3-offload")
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="there is no C compiler"):
        check_compiling("replicated")
