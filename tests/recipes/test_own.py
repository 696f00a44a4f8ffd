"""Recipes of the user's own: Python and YAML files, their skeletons, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import InvalidSettings
from adapthub.recipes import evaluate, plan, train
from adapthub.recipes.catalog import RECIPES, find_recipe
from adapthub.recipes.own import skeleton
from tests.recipes.test_translate import causal_base, pairs

__all__ = ["causal_base"]

SHORT: dict[str, Any] = {
    "max_steps": 1,
    "batch_size": 4,
    "max_length": 32,
    "quiet": True,
    "report": lambda _: None,
}


def rows(count: int) -> list[dict[str, str]]:
    return [
        {"body": f"a {('good', 'bad')[n % 2]} film {n}", "queue": ("up", "down")[n % 2]} for n in range(count)
    ]


@pytest.mark.parametrize("suffix", [".py", ".yaml"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_skeleton_is_a_recipe_that_works_like_its_parent(
    name: str, suffix: str, tmp_path: Path
) -> None:
    parent = RECIPES[name]
    path = tmp_path / f"mine{suffix}"
    path.write_text(skeleton(path, parent))
    recipe = find_recipe(str(path))
    assert recipe.description == "what it is for"
    assert recipe.task == parent.task
    assert recipe.options == parent.options
    assert recipe.defaults("lora") == parent.defaults("lora")


def test_a_yaml_recipe_trains_and_is_evaluated_as_its_parent(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "tickets.yaml"
    path.write_text(
        "like: sentiment\noptions: {text_column: body, label_column: queue}\ndefaults: {learning_rate: 123e-4}\n"
    )
    result = train(str(path), rows(24), base=str(tiny_base), output=tmp_path / "run", **SHORT)
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.recipe, manifest.labels) == ("sentiment", ("down", "up"))
    assert manifest.hyperparameters["learning_rate"] == 0.0123
    told = evaluate(result.artifact, rows(6), text_column="body", label_column="queue")
    assert evaluate(result.artifact, rows(6), task=str(path)).metrics == told.metrics


def test_a_python_recipe_trains_under_its_own_name(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "tickets.py"
    text = skeleton(path, RECIPES["sentiment"]).replace(
        "    def defaults",
        "    def read(self, source, **given):\n"
        "        renamed = [{'text': row['body'], 'label': row['queue']} for row in source]\n"
        "        return super().read(renamed, **given)\n\n    def defaults",
    )
    path.write_text(text)
    result = train(str(path), rows(24), base=str(tiny_base), output=tmp_path / "run", **SHORT)
    assert result.recipe.name == "tickets"
    with pytest.raises(InvalidSettings, match=r"recipe 'tickets' that is none of ours\. Name its file"):
        evaluate(result.artifact, rows(6))
    with pytest.raises(InvalidSettings, match=r"trained by the recipe 'tickets', and ner is 'ner'"):
        evaluate(result.artifact, rows(6), task="ner")
    assert evaluate(result.artifact, rows(6), task=str(path)).rows == 6


def test_a_file_is_like_one_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipes").mkdir()
    Path("recipes/tickets.yaml").write_text("like: sentiment\ndefaults: {epochs: 7}\n")
    Path("recipes/long.yaml").write_text("like: tickets.yaml\ndescription: long ones\n")
    assert find_recipe("recipes/long.yaml").defaults("lora").epochs == 7
    Path("other.yaml").write_text("like: recipes/tickets.yaml\n")
    assert find_recipe(str(tmp_path / "other.yaml")).defaults("lora").epochs == 7


def test_a_plan_gives_the_file_as_the_reason_of_what_it_says(tiny_base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("like: sentiment\ndefaults: {learning_rate: 2e-3, warmup: 0.1, epochs: 2}\n")
    given: dict[str, Any] = {"base": str(tiny_base), "text_column": "body", "label_column": "queue"}
    own, usual = (plan(task, rows(40), **given) for task in (str(path), "sentiment"))
    own_words = {name: why for name, why in own.reasons.items() if why != usual.reasons[name]}
    assert own_words.keys() == {"learning_rate", "warmup", "epochs"}
    assert own_words["learning_rate"] == own_words["warmup"] == "mine.yaml says so"
    assert "steps each" in own_words["epochs"]


def test_a_plan_gives_reasons_for_rates_by_width(causal_base: Path, tmp_path: Path) -> None:
    """Also of a recipe that gives none, and of a file like one that gives its own for each objective."""
    path = tmp_path / "own.py"
    path.write_text(
        "from dataclasses import replace\n\nfrom adapthub.recipes.translate import Translate\n\n\n"
        "class Own(Translate):\n    def defaults(self, method):\n"
        "        return replace(super().defaults(method), reasons={})\n\n\nrecipe = Own(name='own')\n"
    )
    given: dict[str, Any] = {"base": str(causal_base), "max_length": 64}
    why = plan(str(path), pairs(24, 0), **given).reasons["learning_rate"]
    assert why.startswith("the recipe's, for bases 2,000 wide; 0.0005 there, and for this one's ")
    path = tmp_path / "mine.yaml"
    path.write_text("like: prefer\ndefaults: {learning_rate: 1e-4}\n")
    judged = [{"prompt": f"Ada {n}?", "chosen": "yes", "rejected": "no"} for n in range(24)]
    reasons = plan(str(path), judged, **given).reasons
    assert reasons["learning_rate"] == "mine.yaml says so"
    assert "pairs" in reasons["objective"]


def test_a_rate_of_ones_own_does_not_follow_the_width(tmp_path: Path) -> None:
    path = tmp_path / "support.yaml"
    path.write_text("like: chat\ndefaults: {epochs: 1}\n")
    assert find_recipe(str(path)).defaults("lora").follows_width
    path.write_text("like: chat\ndefaults: {learning_rate: 3e-4}\n")
    assert not find_recipe(str(path)).defaults("lora").follows_width
    path.write_text("like: ner\ndefaults: {learning_rate: 2e-3}\n")
    assert find_recipe("ner").defaults("lora").short_rate(1) == 3e-3
    assert find_recipe(str(path)).defaults("lora").short_rate(1) is None
    path = tmp_path / "support.py"
    text = skeleton(path, RECIPES["chat"]).replace("# A rate of its own: ", "import dataclasses; ")
    path.write_text(text)
    defaults = find_recipe(str(path)).defaults("lora")
    assert (defaults.learning_rate, defaults.follows_width) == (2e-4, False)
    path.write_text(text.replace("2e-4", "2e-4, by_width=True"))
    assert find_recipe(str(path)).defaults("lora").follows_width


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", None, "no such recipe file"),
        ("a.yaml", "[1", "a.yaml: while parsing"),
        ("a.yaml", "description: x", "does not say what recipe it is like"),
        ("a.yaml", "like: sentimnt", "Did you mean 'sentiment'"),
        ("a.yaml", "like: ner\noption: {}", "there is no option"),
        ("a.yaml", "like: ner\noptions: {scheem: bio}", "there is no options.scheem. Did you mean 'scheme'"),
        ("a.yaml", "like: ner\ndefaults: {lr: 1}", "there is no defaults.lr"),
        ("a.yaml", "like: ner\ndefaults: {reasons: x}", "there is no defaults.reasons"),
        ("a.yaml", "like: a.yaml", "a.yaml is like itself"),
        ("a.yaml", "like: ner\ndefaults: 3", "defaults is a mapping of names to values; 3 is not"),
        ("a.yaml", "like: ner\ndescription: 3", "description is a text; 3 is not"),
        ("a.py", "recipe = 3", "assigns no recipe to the name recipe"),
        (
            "a.py",
            "from adapthub.recipes.sentiment import Sentiment\n\nrecipe = Sentiment",
            "assigns no recipe to the name recipe",
        ),
        (
            "a.py",
            "from adapthub.recipes.sentiment import Sentiment\n\nclass Own(Sentiment): ...\n\nrecipe = Own()",
            "a.py: its recipe is called 'sentiment', as one of ours",
        ),
        ("a.py", "1 / 0", "ZeroDivisionError: division by zero"),
        ("a.py", "recipe = (", "SyntaxError"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    name: str, text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        find_recipe(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
