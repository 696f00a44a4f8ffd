"""Layers computed together by the first of them."""

from __future__ import annotations

import threading

import torch

from adapthub.adapters.siblings import Together, family, groups

X = torch.ones(1, 2)


class Layers:
    """Three layers of one group, counting what is computed."""

    def __init__(self, *, worth_it: bool = True) -> None:
        self.layers = ["q", "k", "v"]
        self.worth_it = worth_it
        self.computed = 0
        self.together = Together(self.layers, self._compute)

    def _compute(self, x: torch.Tensor) -> list[torch.Tensor] | None:
        self.computed += 1
        return [x * place for place in range(3)] if self.worth_it else None


def test_paths_that_belong_together() -> None:
    paths = ["m.0.q_proj", "m.0.v_proj", "m.0.k_proj", "m.0.up_proj", "m.1.gate_proj", "m.1.up_proj", "query"]
    assert sorted(groups(paths)) == [
        ("m.0.q_proj", "m.0.k_proj", "m.0.v_proj"),
        ("m.1.gate_proj", "m.1.up_proj"),
    ]
    assert groups(["a.v_proj", "a.q_proj"]) == [("a.q_proj", "a.v_proj")]
    assert family("key") == ("query", "key", "value")
    assert family("a.o_proj") == ()


def test_the_first_computes_for_all() -> None:
    group = Layers()
    results = [group.together.of(layer, X) for layer in group.layers]
    assert [float(y[0, 0]) for y in results if y is not None] == [0, 1, 2]
    assert group.computed == 1
    assert group.together.of("k", X) is None  # handed out once


def test_another_input_and_another_thread_get_nothing() -> None:
    group = Layers()
    group.together.of("q", X)
    assert group.together.of("k", X.clone()) is None
    found: list[torch.Tensor | None] = []
    thread = threading.Thread(target=lambda: found.append(group.together.of("k", X)))
    thread.start()
    thread.join()
    assert found == [None]
    assert group.together.of("k", X) is not None


def test_a_group_that_is_not_worth_it_is_asked_of_each() -> None:
    group = Layers(worth_it=False)
    assert [group.together.of(layer, X) for layer in group.layers] == [None] * 3
    assert group.together.waiting(X) == {}


def test_results_that_nobody_wants_are_soon_not_computed() -> None:
    group = Layers()
    for _ in range(9):
        group.together.of("q", X)
    assert group.computed == 3
