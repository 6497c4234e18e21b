"""Steps of LoRA and of QLoRA at the paper's geometry, in packs of 8 k tokens."""

from __future__ import annotations

import argparse
import gc
import traceback
from collections.abc import Sequence

import torch

from bench.gpu_check.four_bits import quantize_layers
from bench.gpu_check.seven_b import build, device_here, geometry, samples_of
from bench.gpu_check.timed import time_steps
from bench.gpu_check.told import tell
from videollava.machine import Work
from videollava.params import Lora, Train
from videollava.train.adapters import add_adapter
from videollava.train.recompute import recompute_layers

STEPS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """1 where one of the two did not run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args(argv)
    ran = 0
    for kind in ("lora", "qlora"):
        try:
            ran += run(kind, arguments.small)
        except Exception:
            traceback.print_exc()
            tell(kind, error=traceback.format_exc().strip().splitlines()[-1][:300])
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return int(ran < 2)


def run(kind: str, small: bool) -> bool:
    """One adapter, with and without recompute; whether a step ran."""
    shape, device = geometry(small), device_here()
    stage, samples = samples_of("finetune", shape, STEPS)
    model = build(shape, device, shape.language["layers"])
    model.requires_grad_(False)
    model.model.multi_modal_projector.float().requires_grad_(True)
    if kind == "qlora":
        quantize_layers(model)
    lora = Lora(r=8, alpha=16) if small else Lora()
    adapted = add_adapter(model, lora)
    settings = Train(
        learning_rate=stage.rate,
        precision="bf16" if shape.precision == "bf16" else "fp32",
        adapter="lora" if kind == "lora" else "qlora",
        lora=lora,
    )
    work = Work(tokens_per_pack=shape.tokens_per_pack // 2, workers=0)
    ran = time_steps(f"{kind}, recompute off", adapted, stage, samples, settings, work)
    again = work.replace(recompute=True)
    recompute_layers(model.model.language_model, again)
    return time_steps(f"{kind}, recompute on", adapted, stage, samples, settings, again) or ran


if __name__ == "__main__":
    raise SystemExit(main())
