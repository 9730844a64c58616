"""The Triton kernels through the compiler that a GPU's would go through, which needs none."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tvlars.optim.triton import launcher

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("Triton interprets here and does not compile", allow_module_level=True)

ARRAYS = {("lars", 0): (2, 0), ("lars", 1): (3, 2), ("lamb", 0): (4, 2), ("lamb", 1): (3, 1)}
"""(rule, launch) -> how many values of a parameter are read and written."""
SCALARS = ("scale", "found_inf")
TYPES = {
    **{"chunks": "*i32", "sizes": "*i64", "addresses": "*i64", "tensors": "i32", "programs": "i32"},
    **{"sums": "*fp64", "told": "*fp64"},
}


def compiled(kernel: Any, dtype: Any, *, amp: bool, architecture: int) -> str:
    """The kernel's PTX, after ptxas has made machine code of it too."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = {"DTYPE": dtype, "BLOCK": launcher.BLOCK, "PARTS": launcher.PARTS}
    if not amp:
        constants.update(dict.fromkeys(SCALARS))
    signature = {a: "constexpr" if a in constants else TYPES.get(a, "*fp32") for a in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    result = compile(source, target=target, options={"num_warps": launcher.WARPS})
    assert len(result.asm["cubin"]) > 0
    return str(result.asm["ptx"])


@pytest.mark.parametrize(
    ("dtype", "architecture"),
    [(torch.float32, 80), (torch.float32, 90), (torch.bfloat16, 90), (torch.float16, 90)],
    ids=lambda x: str(x).removeprefix("torch."),
)
@pytest.mark.parametrize(("rule", "launch"), ARRAYS)
def test_kernels_compile_and_move_16_bytes_at_a_time(
    rule: str, launch: int, dtype: torch.dtype, architecture: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = launcher._kernels(rule, dtype)
    ptx = compiled(kernels[launch], kernels[2], amp=launch == 0, architecture=architecture)
    reads, writes = ARRAYS[rule, launch]
    # a thread's elements of a block, in words of 16 bytes; what is under a mask comes apart
    words = launcher.BLOCK // (32 * launcher.WARPS) * dtype.itemsize // 16
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == reads * words
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) == writes * words
    if dtype is torch.bfloat16 and writes:
        assert "cvt.rn.bf16" in ptx  # rounded, not cut off
    assert not re.search(r"\.local\b", ptx)  # no array that has gone to memory
    assert not re.search(r"\b(atom|red)\.", ptx)  # whose order would be another one in each run
