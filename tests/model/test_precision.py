"""bfloat16 where it is the quicker one, float32 on a CPU that emulates it or gains nothing by it."""

from __future__ import annotations

import pytest

from videollava.model import precision
from videollava.model.precision import pays_on, usable_precision


@pytest.mark.parametrize(
    ("lines", "pays"),
    [
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_bf16 sse", True),
        ("flags\t\t: fpu avx512f avx512_bf16 sse\nvendor_id\t: AuthenticAMD", True),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512f avx512_bf16 sse", False),
        ("vendor_id\t: GenuineIntel\nflags\t\t: fpu avx512_bf16 amx_tile amx_bf16", True),
        ("Features\t: fp asimd i8mm bf16", True),
        ("vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx512f avx512_vnni avx2", False),
        ("model name\t: bf16 in a name", False),
        ("vmx flags\t: amx_bf16", False),
        ("", False),
    ],
)
def test_the_processors_flags_and_vendor_tell(lines: str, pays: bool) -> None:
    assert pays_on(f"processor\t: 0\n{lines}\n") is pays


def test_a_cpu_that_is_slower_in_bfloat16_computes_in_float32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precision._say.cache_clear()
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    assert [usable_precision("bf16"), usable_precision("bf16"), usable_precision("fp32")] == ["fp32"] * 3
    assert capsys.readouterr().out.count("this CPU is slower in bfloat16") == 1
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: True)
    assert (usable_precision("bf16"), usable_precision("fp32")) == ("bf16", "fp32")


def test_a_gpu_is_not_asked_what_the_cpu_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_pays", lambda: False)
    assert usable_precision("bf16", "cuda") == "bf16"
