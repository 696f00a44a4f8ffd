"""Products by oneDNN: the same numbers as torch's own, and torch's own wherever a gradient or another format is wanted."""

from __future__ import annotations

import copy
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adapthub.adapters import products
from adapthub.adapters.products import linear, pack, packed_bytes, quicken, rounded, unpack

_SHAPES = [(1, 2048, 576), (2, 1024, 1024), (7, 640, 515), (33, 576, 1536), (300, 96, 48)]


@pytest.fixture(params=[True, False], ids=["onednn", "torch"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways on every machine: oneDNN multiplies anywhere, it is only not always faster."""
    monkeypatch.setattr(products, "by_onednn", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), _SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_float64(rows: int, outputs: int, inputs: int, bias: bool) -> None:
    torch.manual_seed(rows)
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    b = torch.randn(outputs) if bias else None
    with torch.inference_mode():
        ours = linear(x[None], weight, b)
    exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
    assert ours.shape == (1, rows, outputs)
    assert (ours[0].double() - exact).norm() <= 1e-6 * exact.norm()


def test_inputs_that_are_views_are_read_as_they_lie() -> None:
    x, weight = torch.randn(768, 64).T, torch.randn(1024, 1024)[:, ::2][:, :256]
    with torch.inference_mode():
        torch.testing.assert_close(
            linear(x[:, :256], weight), F.linear(x[:, :256], weight), atol=1e-4, rtol=1e-5
        )


@pytest.mark.parametrize(
    "bias", [torch.randn(2048)[::2], torch.randn(1).expand(1024)], ids=["strided", "expanded"]
)
def test_a_bias_that_is_a_view_is_read_as_it_lies(bias: torch.Tensor) -> None:
    x, weight = torch.randn(64, 256), torch.randn(1024, 256)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), atol=1e-4, rtol=1e-5)


def test_rows_are_rounded_up_to_few_numbers() -> None:
    numbers = {rows: rounded(rows) for rows in range(1, 4097)}
    assert all(rows <= number <= rows * 9 / 8 for rows, number in numbers.items())
    assert all(rounded(number) == number for number in numbers.values())
    assert [rounded(rows) for rows in (0, 1, 16, 17, 33, 65, 512, 513)] == [0, 1, 16, 18, 36, 72, 512, 576]
    assert len(set(numbers.values())) == 16 + 8 * 8


def test_memory_does_not_grow_with_the_numbers_of_rows_that_were_multiplied() -> None:
    """A server computes other numbers of tokens at every step. For all of these oneDNN would keep 150 MiB and more."""
    weight = torch.randn(104, 88)  # of no other test
    inputs = torch.randn(512, 88)
    memory = psutil.Process().memory_info
    with torch.inference_mode():
        linear(inputs, weight)
        before = memory().rss
        for rows in range(1, 513):
            linear(inputs[:rows], weight)
        assert memory().rss - before < 64 << 20


def test_onednn_is_left_alone_where_torch_was_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    x, weight = torch.randn(64, 256), torch.randn(1024, 256)
    with torch.inference_mode():
        assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_a_gradient_passes() -> None:
    x = torch.randn(64, 256, requires_grad=True)
    weight = torch.randn(256, 256)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(64, -1), atol=1e-4, rtol=1e-5)


def test_autocast_and_half_precision_keep_their_format() -> None:
    x, weight = torch.randn(64, 256), torch.randn(256, 256)
    with torch.inference_mode():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
        assert linear(x.bfloat16(), weight.bfloat16()).dtype == torch.bfloat16


def test_quicken_changes_what_multiplies_and_nothing_else(way: bool) -> None:
    class Other(nn.Linear):
        pass

    plain, other = nn.Linear(256, 256), Other(256, 256)
    model = nn.Sequential(plain, nn.Sequential(other, nn.LayerNorm(256)))
    before = dict(model.state_dict())
    x = torch.randn(64, 256)
    with torch.inference_mode():
        expected = model(x)
        quicken(model)
        torch.testing.assert_close(model(x), expected)
    assert type(plain) is (products.Linear if way else nn.Linear)
    assert type(other) is Other
    assert all(tensor.data_ptr() == before[name].data_ptr() for name, tensor in model.state_dict().items())


@pytest.fixture
def layer(way: bool) -> nn.Linear:
    """Quickened where `way` says so, and packed."""
    torch.manual_seed(0)
    layer = nn.Linear(384, 256).requires_grad_(False)
    quicken(layer)
    pack(layer, room=1 << 30)
    return layer


def _exact(layer: nn.Linear, x: torch.Tensor) -> None:
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 33, 300])
def test_a_packed_layer_computes_the_same(layer: nn.Linear, rows: int, way: bool) -> None:
    assert (getattr(layer, "packed", None) is not None) == way
    with torch.inference_mode():
        _exact(layer, torch.randn(1, rows, 384))
        _exact(layer, torch.randn(384, rows).T)


def test_the_copy_is_what_multiplies(layer: nn.Linear, way: bool) -> None:
    x = torch.randn(4, 384)
    with torch.inference_mode():
        before = layer(x)
        if isinstance(layer, products.Linear) and layer.packed:
            zeros = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(256, 384))
            layer.packed = layer.packed._replace(copy=zeros)
        assert torch.equal(layer(x), before) != way


def test_a_copy_that_is_no_longer_the_weights_is_not_used(layer: nn.Linear) -> None:
    x = torch.randn(4, 384)
    version = layer.weight._version
    replacement = nn.Parameter(torch.randn(256, 384), requires_grad=False)
    while replacement._version < version:
        replacement.add_(1)
    with torch.no_grad():
        own = {"weight": torch.randn(256, 384), "bias": torch.randn(256)}
        expected = F.linear(x, own["weight"], own["bias"])
        torch.testing.assert_close(
            torch.func.functional_call(layer, own, (x,)), expected, atol=1e-4, rtol=1e-5
        )
        layer.weight.mul_(2)
        _exact(layer, x)
        layer.weight = replacement
        assert layer.weight._version == version
        _exact(layer, x)


def test_a_packed_layer_can_be_copied_and_saved(layer: nn.Linear, tmp_path: Path) -> None:
    torch.save(layer, tmp_path / "layer")
    for twin in (copy.deepcopy(layer), torch.load(tmp_path / "layer", weights_only=False)):
        assert getattr(twin, "packed", None) is None
        with torch.no_grad():
            twin.weight.data += 1
            _exact(twin, torch.randn(4, 384))


def test_memory_comes_back(layer: nn.Linear) -> None:
    unpack(layer)
    assert getattr(layer, "packed", None) is None
    with torch.inference_mode():
        _exact(layer, torch.randn(4, 384))


def test_a_gradient_passes_a_packed_layer(layer: nn.Linear) -> None:
    x = torch.randn(4, 384, requires_grad=True)
    layer(x).sum().backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(4, -1), atol=1e-4, rtol=1e-5)


def test_layers_are_packed_only_where_all_fit(way: bool) -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 512), nn.Linear(8, 8)).requires_grad_(False)
    bytes = packed_bytes([layer for layer in model if isinstance(layer, nn.Linear)])
    assert bytes == (4 * 256 * 768 if way else 0)
    quicken(model)
    pack(model, room=bytes - 1)
    assert all(getattr(layer, "packed", None) is None for layer in model)
    pack(model, room=bytes)
    assert [getattr(layer, "packed", None) is not None for layer in model] == [way, way, False]
