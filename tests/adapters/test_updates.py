"""Updates compared by their factors are the dense matrices that PEFT itself makes, compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import TensorMismatch, UnsupportedAdapter
from adapthub.adapters.updates import LowRankUpdate, Plain, check_work, compare, updates_of
from tests.adapters.saves import adapted, peft_as_it_is


class Layers(nn.Module):
    """One of each kind of layer that LoRA goes under."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.wide = nn.Linear(8, 20)
        self.narrow = nn.Linear(20, 6)
        self.conv = nn.Conv2d(3, 5, 3)
        self.grouped = nn.Conv2d(4, 4, 3, groups=2)


TARGETS = ["embed", "wide", "narrow", "conv"]


def adapted_layers(**options: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 10,
        "target_modules": TARGETS,
        "init_lora_weights": False,
    }
    with peft_as_it_is():
        return get_peft_model(Layers(), LoraConfig(**(settings | options)))


def dense(update: LowRankUpdate) -> torch.Tensor:
    return update.scale * update.b.double() @ update.a.double()


def effective_rank(matrix: torch.Tensor) -> float:
    """As the paper writes it."""
    values = [float(value) for value in torch.linalg.svdvals(matrix)]
    shares = [value / sum(values) for value in values]
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"narrow": 2, "^wide": 3}, "alpha_pattern": {"wide": 3, "embed": 1}},
        {"use_rslora": True, "rank_pattern": {"wi.e": 5}, "alpha_pattern": {".*w": 7}},
    ],
)
def test_each_product_is_the_update_that_peft_adds(tmp_path: Path, options: dict[str, Any]) -> None:
    model = adapted_layers(**options)
    model.save_pretrained(str(tmp_path))
    updates = updates_of(Artifact.read(tmp_path))
    assert updates.keys() == set(TARGETS)
    for name in TARGETS:
        update = updates[name]
        assert isinstance(update, LowRankUpdate)
        layer = model.get_submodule(f"base_model.model.{name}")
        expected = layer.get_delta_weight("default").detach().double()
        expected = (expected.T if name == "embed" else expected).reshape(update.shape)
        torch.testing.assert_close(dense(update), expected, rtol=1e-5, atol=1e-7)
        alone = compare(None, update)
        assert alone.after == pytest.approx(float(expected.norm()), rel=1e-5)
        assert alone.after_rank == pytest.approx(effective_rank(dense(update)), rel=1e-9)


def test_what_is_no_product_is_compared_as_it_is(tmp_path: Path) -> None:
    """A convolution in groups, a head, DoRA's magnitudes."""
    with pytest.warns(UserWarning, match="groups"):
        adapted_layers(target_modules=["grouped"]).save_pretrained(str(tmp_path / "layers"))
    updates = updates_of(Artifact.read(tmp_path / "layers"))
    assert isinstance(updates["grouped.lora_B.weight"], Plain)
    with peft_as_it_is():
        adapted("dora").save_pretrained(str(tmp_path / "dora"))
    updates = updates_of(Artifact.read(tmp_path / "dora"))
    plain = {name.rpartition(".")[2] for name, update in updates.items() if isinstance(update, Plain)}
    assert plain == {"lora_magnitude_vector", "weight", "bias"}
    assert {name for name in updates if name.startswith("classifier")} == {
        "classifier.weight",
        "classifier.bias",
    }


def low_rank(draw: st.DrawFn, out: int, width: int) -> LowRankUpdate:
    rank = draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    return LowRankUpdate(
        draw(st.sampled_from([0.0, 1e-6, 0.5, 2.0, -3.0, 1e4])),
        torch.randn(out, rank, generator=generator),
        torch.randn(rank, width, generator=generator),
    )


@given(st.data())
def test_comparing_factors_is_comparing_matrices(data: st.DataObject) -> None:
    out, width = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    first, second = (data.draw(st.composite(low_rank)(out, width)) for _ in range(2))
    found, one, two = compare(first, second), dense(first), dense(second)
    largest = max(float(one.norm()), float(two.norm()))
    assert found.before == pytest.approx(float(one.norm()), rel=1e-9, abs=1e-12)
    assert found.after == pytest.approx(float(two.norm()), rel=1e-9, abs=1e-12)
    assert found.difference == pytest.approx(float((one - two).norm()), rel=1e-9, abs=1e-12 * largest + 1e-15)
    if one.any() and two.any():
        cosine = float(torch.nn.functional.cosine_similarity(one.flatten(), two.flatten(), dim=0))
        assert found.cosine == pytest.approx(cosine, abs=1e-9)
        assert found.before_rank == pytest.approx(effective_rank(one), rel=1e-6)
    else:
        assert found.cosine is None


def test_a_change_in_the_last_digits_is_seen() -> None:
    """The difference of norms, or of Gram matrices, would be all rounding."""
    torch.manual_seed(0)
    b, a = torch.randn(64, 8, dtype=torch.float64), torch.randn(8, 48, dtype=torch.float64)
    step = torch.randn(64, 8, dtype=torch.float64) * 1e-9
    found = compare(LowRankUpdate(2.0, b, a), LowRankUpdate(2.0, b + step, a))
    assert found.difference == pytest.approx(float((2 * step @ a).norm()), rel=1e-5)
    assert found.changed
    assert found.cosine == pytest.approx(1)


def test_the_same_update_from_other_factors_is_no_change() -> None:
    """A x and x⁻¹ B make one matrix; so do more columns that add nothing."""
    torch.manual_seed(0)
    b, a, mix = (torch.randn(size, dtype=torch.float64) for size in ((30, 4), (4, 20), (4, 4)))
    padded = (
        torch.cat([b @ mix, torch.zeros(30, 2)], dim=1),
        torch.cat([mix.inverse() @ a, torch.randn(2, 20)]),
    )
    found = compare(LowRankUpdate(1.5, b, a), LowRankUpdate(1.5, *padded))
    assert not found.changed
    assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 3, 7])
def test_equal_directions_count_fully(count: int) -> None:
    update = LowRankUpdate(
        1.0, torch.eye(9, 8), torch.diag(torch.tensor([1.0] * count + [0.0] * (8 - count)))
    )
    assert compare(update, update).before_rank == pytest.approx(count)


def test_what_is_there_once_or_of_another_shape() -> None:
    update = LowRankUpdate(1.0, torch.ones(3, 1), torch.ones(1, 3))
    added, removed = compare(None, update), compare(update, None)
    assert added.before is removed.after is None
    assert [added.after, added.difference, removed.before, removed.difference] == pytest.approx([3] * 4)
    other = compare(update, LowRankUpdate(1.0, torch.ones(4, 1), torch.ones(1, 3)))
    assert (other.difference, other.cosine) == (None, None)
    assert other.after == pytest.approx(math.sqrt(12))


def test_a_value_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = adapted_layers()
    with torch.no_grad():
        model.get_parameter("base_model.model.wide.lora_A.default.weight")[0, 0] = math.nan
    model.save_pretrained(str(tmp_path))
    with pytest.raises(TensorMismatch, match=r"wide\.lora_A"):
        updates_of(Artifact.read(tmp_path))


def test_ranks_as_large_as_layers_are_refused_before_any_work() -> None:
    huge = LowRankUpdate(
        1.0, torch.empty(30_000, 30_000, device="meta"), torch.empty(30_000, 30_000, device="meta")
    )
    with pytest.raises(UnsupportedAdapter, match="operations"):
        check_work({"layer": (huge, huge)})
