"""What users of other trainers hit, each shown not to happen silently here. docs/training.md names a test for each; those
that are not told elsewhere are here, on whole runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from adapthub.adapters.errors import InvalidData, TrainingError
from adapthub.recipes import train
from adapthub.recipes.sentiment import Sentiment
from adapthub.recipes.trainer import AdapterTrainer
from tests.recipes.test_prefer import write_base
from tests.recipes.test_training import train_ner
from tests.recipes.test_untaught_rows import texts

ROOT = Path(__file__).parents[2]
_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.fixture(scope="module")
def causal_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_base(tmp_path_factory.mktemp("causal") / "llama"))


def test_the_guide_names_a_test_for_each() -> None:
    guide = (ROOT / "docs" / "training.md").read_text()
    pains, _, inputs = guide.partition("## What cannot happen silently")[2].partition("| bad input |")
    rows = re.findall(r"^\| (\d+)\. ", pains, re.MULTILINE)
    assert rows == [str(number) for number in range(1, 16)]
    for part in (pains, inputs.partition("\n## ")[0]):
        lines = [
            line for line in part.splitlines() if line.startswith("| ") and not line.endswith("| a test |")
        ]
        assert all(map(_NAMED.search, lines)), lines
    for file, test in _NAMED.findall(guide):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_a_run_without_a_supervised_token_is_refused(causal_base: str, tmp_path: Path) -> None:
    rows = texts(6, 20)
    with pytest.raises(
        InvalidData, match="train: none of its .* labels is left after truncation. Raise max_length"
    ):
        train("summarize", rows, base=causal_base, max_length=20, output=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_never_trains_ends_the_run_by_step_two(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "still.py"
    recipe.write_text(f"from {__name__} import Still\n\nrecipe = Still(name='still')\n")
    with pytest.raises(TrainingError, match="no gradient reaches .* they would never be trained"):
        train(str(recipe), review_data, base=str(tiny_base), output=tmp_path / "run", max_steps=9, quiet=True)


@dataclass(frozen=True)
class Still(Sentiment):
    """A loss that nothing moves."""

    def loss(self, outputs: torch.Tensor, batch: Any, settings: Any) -> torch.Tensor:
        return 1 + 0 * outputs.sum()


def test_no_embeddings_and_no_base_weights_are_saved(causal_base: str, tmp_path: Path) -> None:
    """Neither in the adapter nor in a checkpoint: their files are as large as what is trained."""
    result = train(
        "summarize", texts(8, 2), base=causal_base, max_steps=1, output=tmp_path / "run", quiet=True, rank=4
    )
    checkpoint = result.run.last_checkpoint()
    assert checkpoint is not None
    for folder in (result.artifact.path, checkpoint):
        tensors = load_file(folder / "adapter_model.safetensors")
        assert tensors
        assert all(".lora_A." in name or ".lora_B." in name for name in tensors)


def test_a_row_is_tokenised_once_a_run(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations during the run and at its end use what was tokenised for it."""
    seen: list[str] = []
    honest = Sentiment.encode

    def counted(self: Sentiment, tokenizer: Any, dataset: Any, *arguments: Any) -> Any:
        seen.extend(example.source for example in dataset)
        return honest(self, tokenizer, dataset, *arguments)

    monkeypatch.setattr(Sentiment, "encode", counted)
    train("sentiment", review_data, base=str(tiny_base), output=tmp_path / "run", max_steps=2, quiet=True)
    assert len(seen) == len(set(seen)) == 22 + 12 + 12


def test_evaluation_while_training_is_bounded_and_keeps_no_logits_of_a_vocabulary(
    causal_base: str, tiny_base: Path, ner_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In rows, in rows at once, and in what is kept of them; all rows are measured at the end."""
    seen: list[Any] = []
    honest = AdapterTrainer.evaluation_loop

    def watched(self: AdapterTrainer, *arguments: Any, **options: Any) -> Any:
        found = honest(self, *arguments, **options)
        assert self.args.per_device_eval_batch_size <= 2 * self.args.per_device_train_batch_size
        seen.append((found.num_samples, found.predictions is None))
        return found

    monkeypatch.setattr(AdapterTrainer, "evaluation_loop", watched)
    given: dict[str, Any] = {"max_steps": 1, "batch_size": 2, "eval_rows": 5, "quiet": True}
    train(
        "summarize", texts(12, 2), validation=texts(7, 2, 1), base=causal_base, output=tmp_path / "a", **given
    )
    result = train_ner(tiny_base, ner_data, tmp_path / "b", **given)
    assert seen == [(5, True), (5, False)]
    assert result.metrics["validation"]["f1"].n == 12
