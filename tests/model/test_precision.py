"""bfloat16 where it is computed, float32 where a CPU would emulate it."""

from __future__ import annotations

import pytest

from videollava.model import precision
from videollava.model.precision import has_flag, usable_precision


@pytest.mark.parametrize(
    ("line", "has"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu amx_tile amx_bf16", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("flags\t\t: fpu avx512f avx512_vnni avx2", False),
        ("model name\t: bf16 in a name", False),
        ("", False),
    ],
)
def test_the_processors_flags_tell(line: str, has: bool) -> None:
    assert has_flag(f"processor\t: 0\n{line}\n") is has


def test_an_emulating_cpu_computes_in_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precision._say.cache_clear()
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    assert [usable_precision("bf16"), usable_precision("bf16"), usable_precision("fp32")] == ["fp32"] * 3
    assert capsys.readouterr().out.count("this CPU emulates bfloat16") == 1
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: True)
    assert (usable_precision("bf16"), usable_precision("fp32")) == ("bf16", "fp32")


def test_a_gpu_is_not_asked_what_the_cpu_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    assert usable_precision("bf16", "cuda") == "bf16"
