"""nf4 products and their input's gradient against float64: on a GPU, else under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import nf4_training  # noqa: E402  # Triton may not be there
from adapthub.adapters.kernels.nf4 import Scales  # noqa: E402
from adapthub.adapters.kernels.nf4_pairs import Matrix  # noqa: E402
from tests.kernels.stored import Stored  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# Of the norm: what rounding scaled gradients, weights and results takes. Triton's interpreter cuts bits off instead.
TOLERANCES = {torch.bfloat16: 6e-3 if CUDA else 1e-2, torch.float16: 1e-3 if CUDA else 2e-3}
both = pytest.mark.parametrize("dtype", TOLERANCES)


@both
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("rows", "outputs", "size"), [(1, 72, 128), (5, 200, 64), (32, 17, 192), (40, 24, 128)]
)
def test_the_product_and_its_inputs_gradient(
    rows: int, outputs: int, size: int, nested: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(rows)
    stored = Stored(outputs, size, nested)
    bias = torch.randn(outputs).to(DEVICE, dtype)
    x = torch.randn(rows, size).to(DEVICE, dtype).requires_grad_()
    y = nf4_training.linear(x, Matrix(stored.packed, stored.scales, outputs, bias))
    expected = x.detach().cpu().double() @ stored.weights.T + bias.cpu().double()
    assert (y.detach().cpu().double() - expected).norm() <= TOLERANCES[dtype] * expected.norm()
    gradient = torch.randn(rows, outputs).to(DEVICE, dtype)
    y.backward(gradient)
    wanted = gradient.cpu().double() @ stored.weights
    assert x.grad is not None
    assert x.grad.dtype == dtype
    assert (x.grad.cpu().double() - wanted).norm() <= TOLERANCES[dtype] * wanted.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("nested", [False, True])
def test_weights_are_dequantised_to_bitsandbytes_bits(nested: bool, dtype: torch.dtype) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    torch.manual_seed(4)
    packed, state = functional.quantize_4bit(
        torch.randn(24, 320, dtype=dtype, device=DEVICE), quant_type="nf4", compress_statistics=nested
    )
    inner = (state.state2.absmax, state.state2.code, state.offset) if nested else (None,) * 3
    ours = nf4_training.dequantised(Matrix(packed, Scales(state.absmax, *inner), 24), 320, dtype)
    theirs = functional.dequantize_4bit(packed, state)
    if CUDA and not nested:
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-3 if dtype == torch.float16 else 1e-6, atol=0)
