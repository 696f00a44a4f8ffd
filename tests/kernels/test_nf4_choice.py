"""Plans of nf4 products that were measured, and kept by device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from triton.runtime.errors import OutOfResources  # noqa: E402

from adapthub.adapters.kernels import nf4_choice, nf4_pairs  # noqa: E402  # Triton may not be there
from adapthub.adapters.kernels.nf4_choice import CANDIDATES, Case, case_of, keep, products, together  # noqa: E402
from adapthub.adapters.kernels.nf4_pairs import Matrix  # noqa: E402
from tests.kernels.stored import Stored  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PLAN = CANDIDATES[0]


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home of its own, and a device by name."""
    monkeypatch.setenv("ADAPTHUB_HOME", str(tmp_path))
    monkeypatch.setattr(nf4_choice, "_device", lambda device: f"a GPU {device.index or 0}")
    nf4_choice._plan.cache_clear()
    monkeypatch.setattr(nf4_choice, "_given_up", set())
    return tmp_path / nf4_choice.FILE


def matrices(counts: tuple[int, ...], size: int = 128, *, nested: bool = True) -> list[Matrix]:
    stored = [Stored(count, size, nested) for count in counts]
    return [Matrix(of.packed, of.scales, len(of.weights)) for of in stored]


def known(path: Path) -> dict[str, Any]:
    return nf4_choice._known(path, "a GPU 0")


def test_what_was_kept_is_found_beside_what_was_there(one_gpu: Path) -> None:
    first, second = (Case(rows, (16, 8), 128, True, "torch.bfloat16") for rows in (8, 16))
    assert keep([(first, PLAN)], DEVICE) == one_gpu
    keep([(second, None)], DEVICE)  # measured, and not faster
    assert known(one_gpu) == {first.key: PLAN}


@pytest.mark.parametrize("content", ["", "[]", '{"a GPU 0": {"case": [1]}}', '{"a GPU 0": 3}'])
def test_a_file_that_is_not_ours_says_nothing(one_gpu: Path, content: str) -> None:
    one_gpu.write_text(content)
    assert known(one_gpu) == {}


def test_products_that_are_alike_are_one_case() -> None:
    told = matrices((16, 8))
    cases = {case_of(torch.empty(rows, 128, dtype=torch.float16), told) for rows in (1, 5, 8)}
    assert cases == {Case(8, (16, 8), 128, True, "torch.float16")}
    assert case_of(torch.empty(17, 128), told) is None
    assert case_of(torch.empty(1, 128), [*told, *told]) is None
    assert case_of(torch.empty(1, 128), [told[0], *matrices((8,), nested=False)]) is None


def test_without_a_plan_each_product_goes_its_own_way() -> None:
    torch.manual_seed(0)
    told = matrices((16, 8))
    x = torch.randn(2, 128).to(DEVICE, torch.float16)
    assert together(x, told) is None
    for y, other in zip(products(x, told), nf4_pairs.multiply(x, told, PLAN), strict=True):
        torch.testing.assert_close(y, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    "error", [OutOfResources(70000, 49152, "shared memory"), RuntimeError("invalid value")]
)
def test_a_plan_that_fails_is_given_up_and_said(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = matrices((16, 8))
    x = torch.randn(2, 128).to(DEVICE, torch.float16)
    case = case_of(x, told)
    tries: list[Any] = []

    def failing(*args: Any) -> Any:
        tries.append(args)
        raise error

    def known(x: torch.Tensor, _: Any) -> Any:
        return None if (x.device, case) in nf4_choice._given_up else PLAN

    monkeypatch.setattr(nf4_choice, "multiply", failing)
    monkeypatch.setattr(nf4_choice, "together", known)
    found = products(x, told)
    assert case is not None
    assert caplog.text.count(f"products of {case.key} go by themselves") == 1
    again = products(x, told)
    assert len(tries) == 1
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one, other)


def test_memory_that_is_short_is_not_the_plans_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(nf4_choice, "multiply", failing)
    monkeypatch.setattr(nf4_choice, "together", lambda *_: PLAN)
    with pytest.raises(torch.OutOfMemoryError):
        products(torch.randn(2, 128).to(DEVICE, torch.float16), matrices((16, 8)))
    assert not nf4_choice._given_up


@pytest.mark.skipif(DEVICE.type == "cpu", reason="layers take the kernel on a GPU alone")
def test_layers_with_one_input_are_multiplied_at_once_where_a_plan_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    modules = pytest.importorskip("bitsandbytes").nn
    from adapthub.adapters.quantized import steady

    torch.manual_seed(1)
    dtype, counts = torch.bfloat16, {"q_proj": 256, "k_proj": 64, "v_proj": 64}
    parent = torch.nn.ModuleDict(
        {
            name: modules.Linear4bit(512, count, compute_dtype=dtype, quant_type="nf4")
            for name, count in counts.items()
        }
    ).to(DEVICE)
    steady(parent)
    x = torch.randn(3, 512, dtype=dtype, device=DEVICE)
    launches: list[int] = []

    def noted(*args: Any) -> Any:
        launches.append(len(args[1]))
        return nf4_pairs.multiply(*args)

    monkeypatch.setattr(nf4_choice, "multiply", noted)
    with torch.no_grad():
        apart = [layer(x) for layer in parent.values()]
        assert not launches
        keep([(Case(8, tuple(counts.values()), 512, True, str(dtype)), PLAN)], DEVICE)
        at_once = [layer(x) for layer in parent.values()]
    assert launches == [3]
    for one, other in zip(apart, at_once, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
