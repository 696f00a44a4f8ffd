"""Every way of the quality benchmark trains and is measured, on small random bases, whatever the recipe answers with."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality import examples
from benchmarks.quality.runs import run
from benchmarks.quality.table import best
from benchmarks.quality.tasks import FULL_HEAD, TASKS, Task
from tests.adapters.causal_pass import write_causal_base
from tests.recipes.tokenizer_kinds import byte_level

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

WORDS = ("ada", "bob", "was", "born", "in", "london", "paris")
BUDGET = {"max_steps": 2, "batch_size": 4, "max_length": 48, "eval_steps": 1}
ROWS = {"train": 12, "validation": 6, "test": 8}


@pytest.fixture(scope="module")
def bases(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    causal, tokenizer = tmp_path_factory.mktemp("causal") / "base", byte_level()
    write_causal_base(
        causal, vocab_size=len(tokenizer), max_position_embeddings=256, eos_token_id=tokenizer.eos_token_id
    )
    tokenizer.save_pretrained(causal)
    return {"encoder": str(tiny_base), "causal": str(causal)}


def splits(row: Callable[[random.Random], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    draw = random.Random(0)
    made = {split: [row(draw) for _ in range(count)] for split, count in ROWS.items()}
    return lambda: made


def said(draw: random.Random, words: int = 3) -> str:
    return " ".join(draw.choices(WORDS, k=words))


def questions(draw: random.Random) -> dict[str, Any]:
    answers = [{"text": "ada", "answer_start": 0}] if draw.random() < 0.6 else []
    return {"question": said(draw), "context": f"ada {said(draw)}", "answers": answers}


CASES: Mapping[str, tuple[str, str, examples.Example, Callable[[random.Random], dict[str, Any]]]] = {
    "classify": (
        "encoder",
        "macro_f1",
        examples.SEQUENCES,
        lambda draw: {"text": said(draw), "label": draw.choice("ab")},
    ),
    "qa": ("encoder", "f1", examples.TOKENS, questions),
    "embed": (
        "encoder",
        "mrr@10",
        examples.VECTORS,
        lambda draw: {"query": said(draw), "passage": said(draw, 4)},
    ),
    "translate": (
        "causal",
        "chrf",
        examples.TEXTS,
        lambda draw: {"source": said(draw), "target": said(draw, 2)},
    ),
    "prefer": (
        "causal",
        "reward_accuracy",
        examples.PREFERENCES,
        lambda draw: {"prompt": said(draw), "chosen": said(draw, 2), "rejected": said(draw, 1)},
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("classify", "prefer") else pytest.param(name, marks=pytest.mark.slow)
        for name in CASES
    ],
)
def test_every_way_is_trained_and_measured(name: str, bases: Mapping[str, str]) -> None:
    base, metric, example, row = CASES[name]
    task = Task(
        name, bases[base], splits(row), metric, BUDGET, (1e-4,), (example,), rows=(4, 5), untrained=True
    )
    head = {"head_learning_rate": FULL_HEAD} if name in ("classify", "qa") else {}
    found = {
        "lora": run(task, "lora", {}, 0),
        "peft": run(task, "peft", example.settings(head=bool(head)), 0),
        "full": run(task, "full", {"learning_rate": 1e-3, **head}, 0),
    }
    if not head and name != "prefer":
        found["base"] = run(task, "base", {}, 0)
    for way, result in found.items():
        assert result["test"][metric]["n"] == 5, way
        assert [step for step, _ in result["curve"]] == ([] if way == "base" else [1, 2])
    assert found["peft"]["settings"]["rank"] == example.rank
    assert found["full"]["bytes"] > found["lora"]["bytes"] > 0


def test_full_fine_tuning_moves_every_weight_and_remembers_the_reference(bases: Mapping[str, str]) -> None:
    from adapthub.adapters.base import load_base
    from adapthub.recipes.job import prepare
    from benchmarks.quality.whole import whole

    data = splits(CASES["prefer"][3])()
    job = prepare(
        "prefer", data, base=bases["causal"], quantize=None, method="lora", validation=None, test=None, seed=0, given={}
    )  # fmt: skip
    model: Any = whole(load_base(bases["causal"]), job).model
    before = [one.detach().clone() for one in model.parameters()]
    with torch.no_grad():
        for one in model.parameters():
            one.add_(1.0)
    moved = [one.detach().clone() for one in model.parameters()]
    with model.disable_adapter():
        assert all(map(torch.equal, model.parameters(), before))
    assert all(map(torch.equal, model.parameters(), moved))


def test_the_best_is_the_highest_metric_or_the_lowest_loss() -> None:
    def validated(name: str, value: float) -> dict[str, Any]:
        return {"validation": {name: {"value": value}}}

    assert best([validated("loss", 2.0), validated("loss", 1.0)]) == validated("loss", 1.0)
    assert best([validated("f1", 0.2), validated("f1", 0.1)]) == validated("f1", 0.2)


def test_every_task_has_an_example_and_rates() -> None:
    assert all(task.examples and task.rates for task in TASKS.values())
