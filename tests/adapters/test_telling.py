"""Batches whose adapters are added by the kernels, under Triton's interpreter or on a GPU, against plain PEFT."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.attach import AdaptedBase
from adapthub.adapters.base import load_base
from adapthub.adapters.entries import TokenEntries
from adapthub.adapters.errors import AdapterNotFound
from adapthub.adapters.selections import Selection
from tests.adapters.peft_oracle import expected_logits, ia3_config, lora_config, prefix_config, save_adapter
from tests.kernels.triton_here import interpreted_or_on_a_gpu, slow_when_interpreted

interpreted_or_on_a_gpu()
TASK = "token-classification"
ROWS = [{"input_ids": [2, *range(5, 5 + n), 3]} for n in (4, 2, 5, 3, 1, 2)]
CONFIGS = {
    "lora": lora_config(TASK),
    "narrow": lora_config(TASK, target_modules=["query", "value"], r=8),
    "dora": lora_config(TASK, use_dora=True, r=2),
    "bias": lora_config(TASK, lora_bias=True, r=3),
    "prefix": prefix_config(TASK),
    "ia3": ia3_config(TASK),
}


@pytest.fixture
def adapted(tiny_base: Path) -> Iterator[AdaptedBase]:
    made = AdaptedBase(load_base(str(tiny_base), dtype="float32"))
    made.telling.works = True
    yield made
    made.close()


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The modules whose adapters were added by kernels."""
    paths: list[str] = []
    end_: Callable[..., None] = TokenEntries.end_

    def noted(self: TokenEntries, path: str, *args: Any) -> None:
        paths.append(path)
        end_(self, path, *args)

    monkeypatch.setattr(TokenEntries, "end_", noted)
    return paths


def assert_plain_pefts(base: Path, paths: Sequence[Path], ours: Sequence[torch.Tensor]) -> None:
    for row, path, logits in zip(ROWS, paths, ours, strict=False):
        expected = expected_logits(base, path, TASK, [row])[0]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def saved(base: Path, folder: Path, name: str) -> Path:
    return save_adapter(base, folder / name, TASK, CONFIGS[name], seed=len(name))


@pytest.mark.parametrize(
    "apart", [pytest.param(64, marks=slow_when_interpreted, id="by token"), pytest.param(4, id="by runs")]
)
def test_a_mixed_batch_is_plain_pefts(
    apart: int,
    adapted: AdaptedBase,
    used: list[str],
    tiny_base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("adapthub.adapters.token_runs._APART", apart)
    names = ["lora", "narrow", "dora", "bias", "prefix"]
    paths = [saved(tiny_base, tmp_path, name) for name in names]
    selections: list[Selection] = [((1.0, adapted.attach(Artifact.read(path))),) for path in paths]
    ours = adapted.logits(ROWS, [*selections, ()])
    assert used
    assert_plain_pefts(tiny_base, paths, ours)
    adapted.telling.works = False
    for with_kernels, without in zip(ours, adapted.logits(ROWS, [*selections, ()]), strict=True):
        torch.testing.assert_close(with_kernels, without, rtol=1e-4, atol=1e-5)


@slow_when_interpreted
def test_what_left_and_came_back_is_told_where_it_is_now(
    adapted: AdaptedBase, tiny_base: Path, tmp_path: Path
) -> None:
    artifacts = [
        Artifact.read(saved(tiny_base, tmp_path, name)) for name in ("lora", "narrow", "dora", "bias")
    ]

    def logits() -> list[torch.Tensor]:
        selections: list[Selection] = [((1.0, adapted.attach(artifact)),) for artifact in artifacts]
        return adapted.logits(ROWS[:4], selections)

    before = logits()
    digest = artifacts[0].digest
    kept = adapted.attached[digest]  # or the next one might be given the same place
    adapted.detach(digest)
    assert all(torch.equal(a, b) for a, b in zip(logits(), before, strict=True))
    rows = adapted.telling.rows([((1.0, digest),)])
    assert rows is not None
    assert adapted.telling.rows([((1.0, digest),)]) is rows, "looked up again though nothing changed"
    ((_, told),) = rows[0]
    for path, (update,) in adapted.attached[digest].updates.items():
        a = told.table[adapted.telling.paths.index(path), 0]
        assert a == update.a.data_ptr() != kept.updates[path][0].a.data_ptr()  # type: ignore[attr-defined]


def test_rows_asked_for_again_after_one_left_are_not_found(
    adapted: AdaptedBase, tiny_base: Path, tmp_path: Path
) -> None:
    digest = adapted.attach(Artifact.read(saved(tiny_base, tmp_path, "lora")))
    assert adapted.telling.rows([((1.0, digest),)])
    adapted.detach(digest)
    with pytest.raises(AdapterNotFound):
        adapted.telling.rows([((1.0, digest),)])


def test_rows_asked_for_again_are_over_all_modules(
    adapted: AdaptedBase, tiny_base: Path, tmp_path: Path
) -> None:
    narrow, wide = (
        adapted.attach(Artifact.read(saved(tiny_base, tmp_path, name))) for name in ("narrow", "lora")
    )
    telling, asked = adapted.telling, [((1.0, narrow),)]
    before = telling.rows(asked)
    telling._find(wide)  # as another pass does
    after = telling.rows(asked)
    assert before is not None
    assert after is not None
    assert len(before[0][0][1].table) < len(after[0][0][1].table) == len(telling.paths)


def test_many_runs_that_touch_no_module(adapted: AdaptedBase, tiny_base: Path, tmp_path: Path) -> None:
    adapted.attach(Artifact.read(saved(tiny_base, tmp_path, "lora")))
    paths = [
        save_adapter(tiny_base, tmp_path / str(seed), TASK, CONFIGS["prefix"], seed=seed) for seed in range(3)
    ]
    selections: list[Selection] = [((1.0, adapted.attach(Artifact.read(path))),) for path in paths]
    ours = adapted.logits(ROWS[:4], [*selections, ()])
    assert_plain_pefts(tiny_base, paths, ours)


def test_a_batch_with_what_no_kernel_computes_goes_without(
    adapted: AdaptedBase, used: list[str], tiny_base: Path, tmp_path: Path
) -> None:
    names = ["lora", "narrow", "dora", "ia3"]
    paths = [saved(tiny_base, tmp_path, name) for name in names]
    selections: list[Selection] = [((1.0, adapted.attach(Artifact.read(path))),) for path in paths]
    ours = adapted.logits(ROWS[:4], selections)
    assert not used
    assert_plain_pefts(tiny_base, paths, ours)


@slow_when_interpreted
def test_a_base_of_several_dtypes_goes_without_from_then_on(
    adapted: AdaptedBase, used: list[str], tiny_base: Path, tmp_path: Path
) -> None:
    names = ["lora", "narrow", "dora", "bias"]
    paths = [saved(tiny_base, tmp_path, name) for name in names]
    selections: list[Selection] = [((1.0, adapted.attach(Artifact.read(path))),) for path in paths]
    module = adapted.base.model.get_submodule("encoder.layer.1.output.dense")
    upcast = module.register_forward_pre_hook(lambda _, args: args[0].double(), prepend=True)
    module.double()
    back = module.register_forward_hook(lambda *args: args[2].float())
    ours = adapted.logits(ROWS[:4], selections)
    assert not adapted._tells
    assert used  # as far as it came
    upcast.remove()
    back.remove()
    module.float()
    assert_plain_pefts(tiny_base, paths, ours)
