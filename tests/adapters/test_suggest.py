"""Near names: found among few and among many, and at a cost that no name makes large."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from adapthub.adapters import suggest
from adapthub.adapters.suggest import did_you_mean

MANY = [f"layers/{number:05}/adapter_{number % 7}.json" for number in range(9_000)]


@pytest.mark.parametrize(
    ("wrong", "names", "said"),
    [
        ("prd", ["prod", "dev"], "Did you mean 'prod'?"),
        ("zzz", ["prod", "dev"], "There is: dev, prod."),
        ("zzz", MANY, None),
        ("layers/04711/adapter_0.jsn", MANY, "'layers/04711/adapter_0.json'"),
        ("README.me", [*MANY, "README.md"], "'README.md'"),
        ("reedme.md", [*MANY, "readme.md"], "'readme.md'"),
        ("x" * 2_000, ["x" * 1_999, *MANY], None),
    ],
)
def test_near_names(wrong: str, names: list[str], said: str | None) -> None:
    hint = did_you_mean(wrong, names)
    assert hint is None if said is None else said in str(hint)


@pytest.mark.parametrize("wrong", ["layers/", "a" * 100, "a" * 101, "layers/" + "9" * 2_000])
def test_of_many_names_few_are_compared(wrong: str) -> None:
    """9,000 of a hundred characters took 6.5 s."""
    with patch.object(suggest, "get_close_matches", return_value=[]) as compare:
        did_you_mean(wrong, [*MANY, *("a" * length for length in range(512))])
    (_, names), _ = compare.call_args
    assert len(names) * max(map(len, names), default=0) * len(wrong) <= 200 * 200 * 100
