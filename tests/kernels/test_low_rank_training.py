"""A frozen layer with LoRAs over runs of rows: outputs and every gradient against float64, on a GPU or interpreted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.autograd import gradcheck
from torch.utils.checkpoint import checkpoint

from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels.low_rank_training import Dense, Frozen, Lora, Nf4, linear, linears  # noqa: E402
from adapthub.adapters.kernels.nf4_pairs import Matrix  # noqa: E402
from tests.kernels.stored import Stored  # noqa: E402

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
# Of the norm. Triton's interpreter cuts bits off where a GPU rounds.
TOLERANCES = {
    torch.float32: 1e-5,
    torch.float16: 2e-3 if CUDA else 4e-3,
    torch.bfloat16: 1e-2 if CUDA else 2e-2,
}
# Rows of each adapter, and ranks.
BATCHES: dict[str, tuple[Sequence[int] | None, int, Sequence[int]]] = {
    "one": (None, 7, [4]),
    "one of some rows": ([5], 9, [4]),
    "several of unlike ranks": ([3, 19, 1], 25, [3, 16, 20]),
    "one without rows": ([2, 0, 4], 6, [4, 2, 1]),
}


def made(
    ranks: Sequence[int], size: int, outputs: int, dtype: torch.dtype, kind: torch.dtype
) -> tuple[list[Lora], Dense]:
    adapters = [
        Lora(
            torch.randn(rank, size).to(DEVICE, kind).requires_grad_(),
            torch.randn(outputs, rank).to(DEVICE, kind).requires_grad_(),
            0.5 + place,
        )
        for place, rank in enumerate(ranks)
    ]
    return adapters, Dense(
        torch.randn(outputs, size).to(DEVICE, dtype), torch.randn(outputs).to(DEVICE, dtype)
    )


def expected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, adapters: Sequence[Lora], counts: Sequence[int]
) -> torch.Tensor:
    """By autograd, in the tensors' own dtype."""
    parts = []
    for adapter, rows in zip([*adapters, None], x.split([*counts, len(x) - sum(counts)]), strict=True):
        y = rows @ weight.T + bias
        parts.append(y if adapter is None else y + adapter.scale * (rows @ adapter.a.T) @ adapter.b.T)
    return torch.cat(parts)


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().double().requires_grad_()


def assert_near(found: torch.Tensor | None, wanted: torch.Tensor | None, tolerance: float) -> None:
    assert found is not None
    assert wanted is not None
    assert (found.detach().cpu().double() - wanted.detach()).norm() <= tolerance * wanted.norm()


# The first product of a process in the thread that goes backwards.
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning")
@pytest.mark.parametrize("kept", [torch.float32, None], ids=["float32 adapters", "adapters of x's dtype"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("batch", BATCHES)
def test_outputs_and_all_gradients(batch: str, dtype: torch.dtype, kept: torch.dtype | None) -> None:
    counts, rows, ranks = BATCHES[batch]
    torch.manual_seed(rows)
    adapters, frozen = made(ranks, 72, 136, dtype, kept or dtype)
    x = torch.randn(rows, 72).to(DEVICE, dtype).requires_grad_()
    gradient = torch.randn(rows, 136).to(DEVICE, dtype)
    y = linear(x, frozen, adapters, counts)
    y.backward(gradient)
    told = [Lora(double(a.to(dtype)), double(b.to(dtype)), scale) for a, b, scale in adapters]
    same = double(x)
    assert frozen.bias is not None
    wanted = expected(same, double(frozen.weight), double(frozen.bias), told, counts or [rows])
    wanted.backward(gradient.cpu().double())
    tolerance = TOLERANCES[dtype]
    assert y.dtype == dtype
    assert_near(y, wanted, tolerance)
    assert_near(x.grad, same.grad, tolerance)
    for ours, theirs in zip(adapters, told, strict=True):
        for found, reference in ((ours.a, theirs.a), (ours.b, theirs.b)):
            assert found.grad is not None
            assert found.grad.dtype == found.dtype
            assert_near(found.grad, reference.grad, tolerance)


@pytest.mark.filterwarnings("ignore:Input #:UserWarning")  # kernels sum in float32
@pytest.mark.parametrize("counts", [None, pytest.param([2, 1], marks=slow_when_interpreted)])
def test_gradients_are_those_of_differences(counts: Sequence[int] | None) -> None:
    torch.manual_seed(1)
    adapters, frozen = made([2] if counts is None else [1, 2], 3, 4, torch.float32, torch.float32)
    x = torch.randn(4, 3, device=DEVICE, requires_grad=True)
    matrices = [matrix for adapter in adapters for matrix in adapter[:2]]

    def run(x: torch.Tensor, *matrices: torch.Tensor) -> torch.Tensor:
        pairs = zip(matrices[::2], matrices[1::2], adapters, strict=True)
        return linear(x, frozen, [Lora(a, b, adapter.scale) for a, b, adapter in pairs], counts)

    # Linear in each of them: differences are exact however large.
    assert gradcheck(run, (x, *matrices), eps=0.25, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("counts", [None, [30, 9]])
@pytest.mark.parametrize("rows", [5, 40])
def test_over_nf4_weights(rows: int, counts: Sequence[int] | None) -> None:
    torch.manual_seed(2)
    stored = Stored(72, 128, nested=True)
    counts = counts if counts is None or rows == 40 else [3, 1]
    adapters, _ = made([4] if counts is None else [4, 8], 128, 72, torch.float16, torch.float32)
    x = torch.randn(rows, 128).to(DEVICE, torch.float16).requires_grad_()
    gradient = torch.randn(rows, 72).to(DEVICE, torch.float16)
    y = linear(x, Nf4(Matrix(stored.packed, stored.scales, 72)), adapters, counts)
    y.backward(gradient)
    told = [Lora(double(a), double(b), scale) for a, b, scale in adapters]
    same = double(x)
    none = torch.zeros(72, dtype=torch.float64)
    wanted = expected(same, stored.weights, none, told, counts or [rows])
    wanted.backward(gradient.cpu().double())
    assert_near(y, wanted, 5e-3)
    assert_near(x.grad, same.grad, 5e-3)
    assert_near(adapters[0].b.grad, told[0].b.grad, 5e-3)


@pytest.mark.parametrize("rows", [5, 40])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_layers_of_one_input(dtype: torch.dtype, rows: int) -> None:
    torch.manual_seed(3)
    stored = Stored(72, 128, nested=True)
    whole = [
        made([rank], 128, outputs, dtype, torch.float32) for rank, outputs in ((4, 72), (16, 24), (3, 72))
    ]
    layers: list[Frozen] = [layer for _, layer in whole]
    if dtype == torch.float16:
        layers[2] = Nf4(Matrix(stored.packed, stored.scales, 72))
    x = torch.randn(rows, 128).to(DEVICE, dtype).requires_grad_()
    outputs = linears(x, [(layer, adapters[0]) for layer, (adapters, _) in zip(layers, whole, strict=True)])
    upper = [torch.randn(y.shape).to(y) for y in outputs]
    torch.autograd.backward(outputs, upper)
    same, tolerance = double(x), 5e-3 if dtype == torch.float16 else TOLERANCES[dtype]
    for place, (y, gradient, (adapters, layer)) in enumerate(zip(outputs, upper, whole, strict=True)):
        told = [Lora(double(a.to(dtype)), double(b.to(dtype)), scale) for a, b, scale in adapters]
        weight, bias = double(layer.weight), layer.bias
        assert bias is not None
        if dtype == torch.float16 and place == 2:
            weight, bias = stored.weights, torch.zeros(72)
        wanted = expected(same, weight, double(bias), told, [rows])
        wanted.backward(gradient.cpu().double())
        assert_near(y, wanted, tolerance)
        assert_near(adapters[0].a.grad, told[0].a.grad, tolerance)
        assert_near(adapters[0].b.grad, told[0].b.grad, tolerance)
    assert_near(x.grad, same.grad, tolerance)


class Once(Dense):
    """A layer whose input's gradient must not be asked for."""

    def of_input(self, gradient: torch.Tensor) -> torch.Tensor:
        raise AssertionError("nobody wants it")


@pytest.mark.parametrize("counts", [None, [2, 1]])
def test_an_input_without_a_gradient_gets_none(counts: Sequence[int] | None) -> None:
    adapters, frozen = made([2] if counts is None else [2, 3], 16, 16, torch.float32, torch.float32)
    layer: Frozen = Once(*frozen)
    x = torch.randn(3, 16, device=DEVICE)
    linear(x, layer, adapters, counts).sum().backward()
    assert x.grad is None
    assert all(adapter.a.grad is not None for adapter in adapters)


def test_recomputed_activations_and_expanded_gradients_change_nothing() -> None:
    torch.manual_seed(3)
    adapters, frozen = made([2, 3], 16, 24, torch.float32, torch.float32)
    x = torch.randn(6, 16, device=DEVICE, requires_grad=True)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return linear(x, frozen, adapters, [2, 3])

    leaves = [x, *[matrix for adapter in adapters for matrix in adapter[:2]]]
    plain = torch.autograd.grad(layer(x).sum(), leaves)
    recomputed: torch.Tensor = checkpoint(layer, x, use_reentrant=False)
    again = torch.autograd.grad(recomputed.sum(), leaves)
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))
