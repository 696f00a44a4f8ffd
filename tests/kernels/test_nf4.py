"""Products with nf4 weights against float64: on a GPU where there is one, else under Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernels.ptx_reader import run_ptx
from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import nf4, nf4_lookup  # noqa: E402  # Triton may not be there
from adapthub.adapters.kernels.few_rows import Plan  # noqa: E402
from tests.kernels.stored import Stored  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# Of the norm: what rounding the result takes, and the code's values. Triton's interpreter cuts bits off instead.
TOLERANCES = {torch.bfloat16: 4e-3 if CUDA else 8e-3, torch.float16: 5e-4 if CUDA else 1e-3}
both = pytest.mark.parametrize("dtype", TOLERANCES)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is not a number."""

    new_empty = torch.Tensor.new_empty

    def poison(x: torch.Tensor, *shape: Any, **options: Any) -> torch.Tensor:
        memory = new_empty(x, *shape, **options)
        return memory.fill_(torch.nan) if memory.is_floating_point() else memory

    monkeypatch.setattr(torch.Tensor, "new_empty", poison)


def agrees(x: torch.Tensor, stored: Stored, bias: torch.Tensor | None, plan: Plan | None = None) -> None:
    outputs = len(stored.weights)
    y = nf4.multiply(x, stored.packed, stored.scales, outputs, bias, plan)
    expected = x.cpu().double() @ stored.weights.T
    if bias is not None:
        expected += bias.cpu().double()
    assert y.shape == (len(x), outputs)
    assert y.dtype == x.dtype
    assert (y.cpu().double() - expected).norm() <= TOLERANCES[x.dtype] * expected.norm()


@both
@pytest.mark.parametrize(
    ("rows", "nested"),
    [
        (1, True),
        (1, False),
        (2, True),
        (3, False),
        (8, True),
        (15, True),
        (16, False),
        (17, True),
        (33, False),
        (64, True),
        (130, True),
    ],
)
def test_any_number_of_rows(rows: int, nested: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(rows)
    stored = Stored(72, 256, nested)  # the last block of outputs is not whole
    bias = torch.randn(72).to(DEVICE, dtype) if rows % 2 else None
    agrees(torch.randn(rows, 256).to(DEVICE, dtype), stored, bias)


@both
@pytest.mark.parametrize(("rows", "size"), [(2, 64), (2, 576), (20, 192), (20, 832)])
def test_slices_and_parts_without_the_same_number_of_blocks(rows: int, size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(size)
    agrees(torch.randn(rows, size).to(DEVICE, dtype), Stored(17, size, True), None)


@both
@pytest.mark.parametrize(
    "plan",
    [
        Plan(8, 16, 4, 2, 2, 2),
        Plan(16, 32, 2, 2, 1, 3),
        Plan(32, 64, 0, 4, 4, 3),
        Plan(64, 128, 0, 8, 1, 2),
    ],
)
def test_any_plan(plan: Plan, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    bias = torch.randn(33).to(DEVICE, dtype)
    agrees(torch.randn(9, 512).to(DEVICE, dtype), Stored(33, 512, False), bias, plan)


@both
def test_a_row_does_not_depend_on_the_others_nor_on_their_number_up_to_16(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    stored = Stored(24, 512, True)
    x = torch.randn(16, 512).to(DEVICE, dtype)
    whole = nf4.multiply(x, stored.packed, stored.scales, 24)
    for rows in (1, 5, 9):
        crowd = torch.cat([x[:rows], 1000 * torch.randn_like(x[rows:])])
        for some in (crowd[:rows], crowd):
            assert torch.equal(nf4.multiply(some, stored.packed, stored.scales, 24)[:rows], whole[:rows])


@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_read_as_bitsandbytes_stores_them(nested: bool) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    torch.manual_seed(4)
    weights = torch.randn(24, 192, dtype=torch.bfloat16, device=DEVICE)
    packed, state = functional.quantize_4bit(weights, quant_type="nf4", compress_statistics=nested)
    inner = (state.state2.absmax, state.state2.code, state.offset) if nested else ()
    x = torch.randn(5, 192).to(DEVICE, torch.bfloat16)
    y = nf4.multiply(x, packed, nf4.Scales(state.absmax, *inner), 24)
    state.dtype = torch.float32
    expected = x.double() @ functional.dequantize_4bit(packed, state).double().T
    assert (y.double() - expected).norm() <= TOLERANCES[torch.bfloat16] * expected.norm()


@both
def test_rows_that_are_not_contiguous(dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    stored = Stored(32, 128, False)
    agrees(torch.randn(4, 140).to(DEVICE, dtype)[:, 5:133], stored, None)


@pytest.mark.skipif(not CUDA, reason="the layer takes the kernel on a GPU alone")
@both
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_multiplies_by_it_on_a_gpu(nested: bool, dtype: torch.dtype) -> None:
    modules = pytest.importorskip("bitsandbytes").nn
    from adapthub.adapters.quantized import steady

    torch.manual_seed(5)
    model = torch.nn.Sequential(
        modules.Linear4bit(512, 96, compute_dtype=dtype, quant_type="nf4", compress_statistics=nested)
    ).to("cuda")
    steady(model)
    layer: Any = model[0]
    dense = pytest.importorskip("bitsandbytes").functional.dequantize_4bit(
        layer.weight, layer.weight.quant_state
    )
    for shape in ((1,), (3, 5), (300,)):  # the last by bitsandbytes
        x = torch.randn(*shape, 512, device="cuda", dtype=dtype)
        with torch.no_grad():
            y = layer(x)
        expected = x.double() @ dense.double().T + layer.bias.double()
        assert y.shape == expected.shape
        assert (y.double() - expected).norm() <= 2 * TOLERANCES[dtype] * expected.norm()
        assert torch.allclose(layer(x.requires_grad_()).double(), y.double(), rtol=0, atol=0.05)


@both
def test_the_assembly_looks_up_every_code_at_every_place(dtype: torch.dtype) -> None:
    """Run by a reader of its PTX, since the interpreter does not."""
    words = torch.randint(1 << 32, (2, 32), generator=torch.Generator().manual_seed(3)).tolist()
    results = run_ptx(nf4_lookup._assembly(dtype), {"$8": words[0], "$9": words[1]}, 8)
    for byte in range(8):
        for first, results_of in ((True, results[:4]), (False, results[4:])):
            for lane in range(32):
                code = words[byte // 4][lane] >> 8 * (byte % 4) + 4 * first & 15
                bits = results_of[byte // 2][lane] >> 16 * (byte % 2) & 0xFFFF
                found = torch.tensor(bits, dtype=torch.int32).to(torch.int16).view(dtype)
                assert found.item() == nf4_lookup.values(dtype)[code].item()
