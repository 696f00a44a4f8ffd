"""What kernels are told of adapters by token, and modules with one input that are begun and ended together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapthub.adapters.entries import Addresses, Entries, NotTold, TokenEntries
from tests.kernels.triton_here import interpreted_or_on_a_gpu

interpreted_or_on_a_gpu()

from adapthub.adapters.kernels import low_rank  # noqa: E402  # Triton may not be there

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PATHS = ("a.k_proj", "a.o_proj", "a.q_proj", "a.v_proj")
OUTS = {"a.q_proj": 48, "a.k_proj": 16, "a.v_proj": 16, "a.o_proj": 32}
RANK, SIZE, TOKENS = 4, 24, 3


class Made:
    """One adapter of all the paths, for rows 0 and 2; row 1 is the base's."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.x = torch.randn(TOKENS, SIZE, generator=generator).to(DEVICE)
        self.ys = {
            path: torch.randn(TOKENS, out, generator=generator).to(DEVICE) for path, out in OUTS.items()
        }
        self.a = {path: torch.randn(RANK, SIZE, generator=generator).to(DEVICE) for path in PATHS}
        self.b = {path: torch.randn(out, RANK, generator=generator).to(DEVICE) for path, out in OUTS.items()}
        table = torch.tensor(
            [[self.a[path].data_ptr(), self.b[path].data_ptr(), 0, 0, 0, RANK] for path in PATHS]
        )
        adapter = Addresses(table, torch.ones(len(PATHS)), RANK, frozenset(PATHS))
        entries = Entries(PATHS, TOKENS, 1, 16, DEVICE, torch.float32)
        entries.set([((0.5, adapter),), (), ((2.0, adapter),)])
        rows = torch.arange(TOKENS, device=DEVICE)
        self.told: TokenEntries = entries.of(rows, rows[:1])

    def expected(self, path: str) -> torch.Tensor:
        weight = torch.tensor([[0.5], [0.0], [2.0]], device=DEVICE).double()
        added = weight * (self.x.double() @ self.a[path].double().T @ self.b[path].double().T)
        return (self.ys[path].double() + added).float()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched."""
    names: list[str] = []

    def noting(name: str) -> None:
        launch = getattr(low_rank, name)

        def noted(*args: Any) -> Any:
            names.append(name)
            return launch(*args)

        monkeypatch.setattr(low_rank, name, noted)

    noting("shrink")
    noting("expand_")
    return names


def run(made: Made, together: bool) -> dict[str, torch.Tensor]:
    ys = {path: y.clone() for path, y in made.ys.items()}
    for path in ("a.q_proj", "a.k_proj", "a.v_proj", "a.o_proj"):
        made.told.begin(path, made.x, False)
        others = {other: ys[other] for other in ("a.k_proj", "a.v_proj")} if path == "a.q_proj" else None
        made.told.end_(path, ys[path], False, others if together else None)
    return ys


@pytest.mark.parametrize("together", [False, True])
def test_modules_with_one_input_take_fewer_launches(together: bool, launches: list[str]) -> None:
    made = Made()
    ys = run(made, together)
    for path, y in ys.items():
        torch.testing.assert_close(y, made.expected(path), rtol=1e-5, atol=1e-5)
        assert torch.equal(y[1], made.ys[path][1])  # the base's row
    assert launches.count("shrink") == 2  # of q, k and v, and of o
    assert launches.count("expand_") == (2 if together else 4)


def test_a_pass_after_another_begins_anew(launches: list[str]) -> None:
    made = Made()
    for together in (True, False, True):
        ys = run(made, together)
        torch.testing.assert_close(ys["a.v_proj"], made.expected("a.v_proj"), rtol=1e-5, atol=1e-5)
    assert launches.count("shrink") == 6


def test_a_module_with_another_input_is_computed_of_that() -> None:
    made = Made()
    made.told.begin("a.q_proj", made.x, False)
    made.x = made.x + 1
    y = made.ys["a.k_proj"].clone()
    made.told.begin("a.k_proj", made.x, False)
    made.told.end_("a.k_proj", y, False)
    torch.testing.assert_close(y, made.expected("a.k_proj"), rtol=1e-5, atol=1e-5)


def test_tokens_or_formats_that_were_not_told_are_refused() -> None:
    made = Made()
    with pytest.raises(NotTold, match="sees 2 tokens"):
        made.told.begin("a.q_proj", made.x[:2], False)
    made.told.begin("a.q_proj", made.x, False)
    with pytest.raises(NotTold, match="float16"):
        made.told.end_("a.q_proj", made.ys["a.q_proj"].half(), False)
