"""What goes together: the same answers as the runtime's, before anything is loaded."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from peft import PeftConfig

from adapthub.adapters import AdaptedBase, Artifact, load_base
from adapthub.adapters.errors import InvalidExpression
from adapthub.hub.composition import Traits, compose, traits_of
from tests.adapters.causal_pass import write_causal_base
from tests.adapters.peft_oracle import ia3_config, lora_config, prefix_config, prompt_config, save_adapter
from tests.hub.adapters import fingerprint, manifest, write_adapter

TASK = "text-generation"
LORA = Traits("lora", False, "sha256:a", TASK, None, {"q": 4, "k": 8}, frozenset())


def change(**fields: object) -> Traits:
    return dataclasses.replace(LORA, **fields)  # type: ignore[arg-type]


def answers(first: Traits, second: Traits) -> tuple[bool | None, bool | None, bool | None]:
    found, turned = compose(first, second), compose(second, first)
    assert [answer.possible for answer in (found.batch, found.sum, found.merge)] == [
        answer.possible for answer in (turned.batch, turned.sum, turned.merge)
    ]
    return found.batch.possible, found.sum.possible, found.merge.possible


@pytest.mark.parametrize(
    ("second", "expected", "why"),
    [
        (LORA, (True, True, True), "side by side"),
        (change(base="sha256:b"), (False, False, False), "different bases"),
        (change(base=None), (None, None, None), "not recorded"),
        (change(base=None, task="text-classification"), (None, False, False), "tasks differ"),
        (change(task=None), (True, True, True), "side by side"),
        (change(dora=True), (True, True, False), "DoRA"),
        (change(whole=frozenset({"lm_head"})), (True, True, False), "lm_head"),
        (change(method="ia3", ranks={}), (True, True, False), "ia3"),
        (change(method="prefix", ranks={}), (True, True, False), "prefix"),
        (change(method="prompt", ranks={}), (True, False, False), "prompt"),
        (change(task="text-classification"), (True, False, False), "text-classification"),
    ],
)
def test_what_goes_with_a_lora(second: Traits, expected: tuple[bool | None, ...], why: str) -> None:
    assert answers(LORA, second) == expected
    assert why in compose(LORA, second).merge.why


def test_prefixes_and_labels() -> None:
    prefix = change(method="prefix", ranks={})
    assert answers(prefix, prefix) == (True, False, False)
    good, bad = (change(task="text-classification", labels=labels) for labels in (("a", "b"), ("a", "c")))
    assert answers(good, bad) == (True, False, False)
    assert answers(good, good) == (True, True, True)


def test_overlap_and_rank() -> None:
    found = compose(LORA, change(ranks={"k": 2, "v": 16}))
    assert (found.shared, found.merged_rank) == (1, 16)
    assert found.overlap == pytest.approx(1 / 3)
    assert compose(LORA, LORA).merged_rank == 16
    none = change(method="ia3", ranks={})
    assert (compose(none, none).overlap, compose(none, none).merged_rank) == (0, 0)


def test_traits_are_read_off_headers(tmp_path: Path) -> None:
    found = traits_of(write_adapter(tmp_path / "a", manifest=manifest()))
    assert found == Traits(
        "lora", False, fingerprint().digest, "token-classification", ("O", "B-PER"),
        {"encoder.layer.0.attention.self.query": 2}, frozenset(),
    )  # fmt: skip
    assert traits_of(write_adapter(tmp_path / "b")).base is None


def test_the_runtime_sums_what_is_said_to_sum(tmp_path: Path) -> None:
    base = write_causal_base(tmp_path / "base")
    configs: dict[str, PeftConfig] = {
        "lora": lora_config(TASK, target_modules=["q_proj"]),
        "dora": lora_config(TASK, target_modules=["q_proj", "v_proj"], use_dora=True),
        "ia3": ia3_config(TASK, target_modules=["k_proj"], feedforward_modules=[]),
        "prefix": prefix_config(TASK),
        "prompt": prompt_config(TASK),
    }
    adapted = AdaptedBase(load_base(str(base), device="cpu"))
    made = {}
    for name, config in configs.items():
        for copy in range(2):
            folder = save_adapter(base, tmp_path / f"{name}-{copy}", TASK, config, seed=copy)
            artifact = Artifact.read(folder)
            traits = dataclasses.replace(traits_of(artifact), base="sha256:a")
            made[name, copy] = (adapted.attach(artifact), traits)
    for first in configs:
        for second in configs:
            (one, its), (two, theirs) = made[first, 0], made[second, 1]
            assert compose(its, theirs).sum.possible is sums(adapted, one, two), (first, second)
    adapted.close()


def sums(adapted: AdaptedBase, first: str, second: str) -> bool:
    try:
        adapted.selections.check_generation(((1.0, first), (1.0, second)))
    except InvalidExpression:
        return False
    return True
