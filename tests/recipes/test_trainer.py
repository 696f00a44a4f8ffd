"""The pieces of the loop: the order of rows, the schedule, the rates, the check on gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adapthub.adapters.errors import TrainingError
from adapthub.recipes import parts as in_parts
from adapthub.recipes.adaptation import GradientCheck
from adapthub.recipes.length_groups import LengthGroups
from adapthub.recipes.rates import Rates, parameter_groups, schedule


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 3))
def test_every_row_comes_once_in_an_order_that_seed_and_epoch_fix(
    lengths: list[int], batch_size: int, epoch: int
) -> None:
    groups = LengthGroups(lengths, batch_size, seed=1)
    groups.set_epoch(epoch)
    order = list(groups)
    assert sorted(order) == list(range(len(lengths)))
    assert len(groups) == len(lengths)
    torch.rand(3)  # whatever the global generator did in between
    again = LengthGroups(lengths, batch_size, seed=1)
    again.set_epoch(epoch)
    assert list(again) == order
    if len(order) >= batch_size:
        assert max(lengths[row] for row in order[:batch_size]) == max(lengths)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = [1 + row % 17 for row in range(100)]
    told: list[int] = []
    groups = LengthGroups(lengths, 8, seed=0, follow=told.append)
    first = list(groups)
    groups.set_epoch(1)
    assert told == [1]
    assert list(groups) != first
    assert list(LengthGroups(lengths, 8, seed=1)) not in (first, list(groups))


@pytest.mark.parametrize("seed", range(8))
def test_the_longest_row_comes_first_of_all_groups(seed: int) -> None:
    """Beside a shorter one, though another group's longest batch has two that are longer than that."""
    lengths = [*range(1, 200), 1000]
    assert len(lengths) > 2 * LengthGroups.GROUP
    assert 199 in list(LengthGroups(lengths, 2, seed))[:2]


def test_rows_of_a_batch_have_similar_lengths() -> None:
    lengths = [1 + (row * 37) % 100 for row in range(1000)]
    order = list(LengthGroups(lengths, 10, seed=0))
    padded = sum(10 * max(lengths[row] for row in order[at : at + 10]) for at in range(0, 1000, 10))
    assert padded < 1.05 * sum(lengths)
    # but batches are not learnt from in the order of their lengths
    longest = [max(lengths[row] for row in order[at : at + 10]) for at in range(0, 1000, 10)]
    longer = sum(after > before for before, after in itertools.pairwise(longest))
    assert 30 < longer < 70


def test_the_schedule_warms_up_from_the_first_step_and_ends_near_zero() -> None:
    rates = [schedule(step, warmup=4, total=20) for step in range(20)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[4] == 1
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)
    assert rates[-1] == pytest.approx(1 / 16)
    assert schedule(0, warmup=0, total=1) == 1
    assert schedule(20, warmup=4, total=20) == 0


def test_the_head_has_its_own_rate_and_vectors_do_not_decay() -> None:
    model = nn.ModuleDict(
        {"lora_A": nn.Linear(4, 2), "classifier": nn.Linear(2, 3), "frozen": nn.Linear(2, 2)}
    )
    model["frozen"].requires_grad_(False)
    rates = Rates(adapter=1e-3, head=1e-2, head_modules=("classifier",), warmup_steps=0, weight_decay=0.1)
    groups = parameter_groups(model, rates)
    found = {
        (group["lr"], group["weight_decay"]): [tuple(p.shape) for p in group["params"]] for group in groups
    }
    assert found == {
        (1e-3, 0.0): [(2,)],
        (1e-3, 0.1): [(2, 4)],
        (1e-2, 0.0): [(3,)],
        (1e-2, 0.1): [(3, 2)],
    }


def test_lora_plus_gives_b_its_own_rate() -> None:
    rates = Rates(1e-3, 1e-2, ("classifier",), warmup_steps=0, weight_decay=0, lora_plus_ratio=8)
    assert rates.of("base_model.model.encoder.query.lora_B.default.weight") == pytest.approx(8e-3)
    assert rates.of("base_model.model.encoder.query.lora_A.default.weight") == pytest.approx(1e-3)
    assert rates.of("base_model.model.classifier.lora_B.weight") == pytest.approx(1e-2)


def test_a_matrix_that_no_gradient_reaches_is_named() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2, bias=False), "unused": nn.Linear(2, 2, bias=False)})
    check = GradientCheck(model)
    model["used"](torch.ones(1, 2)).sum().backward()
    check.see()
    with pytest.raises(TrainingError, match=r"no gradient reaches unused\.weight"):
        check.require_all()


def test_a_gradient_in_either_of_two_steps_is_enough() -> None:
    """LoRA's A gets none in the first step, because B is still zero."""
    a, b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    nn.init.zeros_(b.weight)
    model = nn.Sequential(a, b)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    check = GradientCheck(model)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 2)).sum().backward()
        check.see()
        optimizer.step()
    check.require_all()


def test_a_batch_in_parts_has_the_gradients_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(0)
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
    ).eval()
    mask = (torch.arange(9) < torch.tensor([9, 7, 5, 4, 1])[:, None]).long()
    labels = torch.randint(3, (5, 9)) % 2
    batch = {
        "input_ids": torch.randint(50, (5, 9)),
        "attention_mask": mask,
        "labels": torch.where(mask.bool() & (torch.arange(5) != 4)[:, None], labels, -100),
    }
    monkeypatch.setattr(in_parts, "PASS_TOKENS", 9)
    parts = in_parts.parts_of(batch)
    assert [part["input_ids"].shape for part in parts] == [(1, 9), (1, 7), (2, 5)]  # the last has no target
    gradients = []
    for some in ([batch], parts):
        model.zero_grad()
        for part in some:
            share = (part["labels"] != -100).sum() / (batch["labels"] != -100).sum()
            (model(**part).loss * share).backward()
        gradients.append(
            [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        )
    for whole, summed in zip(*gradients, strict=True):
        assert (whole - summed).norm() <= 1e-5 * whole.norm() + 1e-6
    written = {"decoder_input_ids": torch.ones(5, 9, dtype=torch.long), "labels": labels}
    assert [part["labels"].shape[1] for part in in_parts.parts_of({**batch, **written})] == [9] * 4
    several = {**batch, "labels": torch.ones(5, 9)}  # labels of a text, of which there are as many as tokens
    assert [part["labels"].shape[1] for part in in_parts.parts_of(several)] == [9] * 4
    monkeypatch.setattr(in_parts, "PASS_TOKENS", 1000)
    (left,) = in_parts.parts_of(batch)
    assert left["input_ids"].shape == (5, 9)
