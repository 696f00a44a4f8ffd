"""Tokens as runs of one row's adapters: which token is in which run."""

from __future__ import annotations

import random

import pytest

from adapthub.adapters.token_runs import most_runs, runs_of, tile_for


def test_neighbours_run_on_and_the_bases_are_in_no_run() -> None:
    found = runs_of(["a", "a", "", "b", "a"], [3, 2, 4, 9, 1], 4)
    assert found.T.tolist() == [[0, 0, 4], [0, 4, 1], [3, 9, 4], [3, 13, 4], [3, 17, 1], [4, 18, 1]]


def test_a_pass_without_adapters_has_no_run() -> None:
    assert runs_of(["", ""], [3, 2], 16).shape == (3, 0)
    assert runs_of([], [], 16).shape == (3, 0)


@pytest.mark.parametrize("seed", range(5))
def test_every_token_is_in_one_run_of_its_adapters(seed: int) -> None:
    draw = random.Random(seed)
    terms = [draw.choice(["", "a", "b", "c"]) for _ in range(draw.randint(1, 30))]
    counts = [draw.randint(1, 40) for _ in terms]
    tile = draw.choice([4, 16, 64])
    runs = runs_of(terms, counts, tile).T.tolist()
    assert len(runs) <= most_runs(sum(counts), len(terms), tile)
    of_token = [of for of, count in zip(terms, counts, strict=True) for _ in range(count)]
    found = [""] * len(of_token)
    for row, first, count in runs:
        assert 0 < count <= tile
        for token in range(first, first + count):
            assert not found[token]
            found[token] = terms[row]
    assert found == of_token


def test_few_tokens_go_by_themselves_and_runs_grow_with_the_pass() -> None:
    tiles = [tile_for(tokens) for tokens in (1, 64, 65, 1024, 1025, 8192)]
    assert tiles[:2] == [0, 0]
    assert all(16 <= tile <= 64 for tile in tiles[2:])
    assert tiles == sorted(tiles)
