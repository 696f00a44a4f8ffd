"""Sweeps: ranges, trials that are whole runs, what goes on after an interruption, and the best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from transformers import TrainerState

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import InvalidData, InvalidSettings, TrainingError, TrainingInterrupted
from adapthub.recipes import run as runs
from adapthub.recipes.sweep import Choice, Range, Sweep, Trial, space_of, sweep
from tests.recipes.test_translate import causal_base, pairs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

__all__ = ["causal_base"]
SHORT: dict[str, Any] = {"max_steps": 2, "batch_size": 4, "max_length": 32, "eval_steps": 1}


@pytest.mark.parametrize(
    ("text", "expected", "logarithmic"),
    [
        ("1e-4..1e-2", Range(1e-4, 1e-2, whole=False), True),
        ("0.1..0.5", Range(0.1, 0.5, whole=False), False),
        ("4..64", Range(4, 64, whole=True), True),
        ("4..8", Range(4, 8, whole=True), False),
        ("-1..1.5", Range(-1, 1.5, whole=False), False),
    ],
)
def test_ranges(text: str, expected: Range, logarithmic: bool) -> None:
    found = space_of(text)
    assert found == expected
    assert isinstance(found, Range)
    assert found.logarithmic is logarithmic


def test_choices_keep_their_kinds() -> None:
    assert space_of("lora|dora") == Choice(("lora", "dora"))
    assert space_of("8|16.5|true|auto") == Choice((8, 16.5, True, "auto"))


@pytest.mark.parametrize("text", ["", "3", "1..x", "2..1", "1..1", "1..inf", "a..b"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidSettings):
        space_of(text)


def test_trials_are_runs_and_the_best_is_kept(tiny_base: Path, review_data: Path, tmp_path: Path) -> None:
    space: dict[str, Range | Choice] = {
        "learning_rate": Range(1e-4, 1e-1, whole=False),
        "rank": Choice((2, 4)),
    }
    heard: list[Trial] = []

    def run(trials: int) -> Any:
        return sweep(
            "sentiment", review_data, base=str(tiny_base), space=space, trials=trials, output=tmp_path / "sweep",
            tell=heard.append, **SHORT,
        )  # fmt: skip

    first = run(2)
    assert [(trial.number, trial.run.name) for trial in heard] == [(1, "trial-1"), (2, "trial-2")]
    found = run(3)
    assert [trial.number for trial in heard] == [1, 2, 3]
    assert found.trials[:2] == first.trials
    assert found.metric == "macro_f1"
    assert found.best.value == max(trial.value for trial in found.trials if trial.state == "complete")
    for trial in found.trials:
        record = runs.load(trial.run)
        evaluated = [entry["eval_macro_f1"] for entry in record.history if "eval_macro_f1" in entry]
        assert trial.value == max(evaluated)
        manifest = Artifact.read(trial.run / "adapter").manifest
        assert manifest is not None
        assert manifest.hyperparameters["learning_rate"] == trial.settings["learning_rate"]
        assert manifest.hyperparameters["rank"] == trial.settings["rank"]
        assert set(manifest.metrics) == {"validation"}


def test_a_sweep_that_goes_on_tries_something_else_and_forgets_what_was_interrupted(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Trial] = []

    def run(trials: int, **others: Any) -> Sweep:
        given: dict[str, Any] = {
            "base": str(tiny_base),
            "space": {"learning_rate": Range(1e-4, 1e-1, False)},
            "tell": heard.append,
        } | SHORT
        return sweep("sentiment", review_data, trials=trials, output=tmp_path / "sweep", **given | others)

    run(1)
    with monkeypatch.context() as patch:
        patch.setattr("adapthub.recipes.sweep.train", interrupted)
        with pytest.raises(TrainingInterrupted):
            run(2)
    found = run(2)
    for told in (found.trials, heard):
        assert [(one.number, one.place, one.run.name) for one in told] == [
            (1, 1, "trial-1"),
            (3, 2, "trial-3"),
        ]
    rates = [trial.settings["learning_rate"] for trial in found.trials]
    assert rates[0] != rates[1]

    for others, message in (
        ({"batch_size": 2}, "holds another sweep: settings.batch_size was 4, is now 2"),
        ({"space": {"rank": Choice((2, 4))}}, "space.rank was None"),
        ({"validation": review_data / "test.csv"}, "data.validation.fingerprint was"),
        ({"start": tmp_path / "sweep" / "trial-1" / "adapter"}, "a sweep begins anew"),
    ):
        with pytest.raises(InvalidSettings, match=message):
            run(3, **others)


def test_how_much_trials_measure_in_the_end_keeps_no_sweep_from_going_on(
    causal_base: Path, tmp_path: Path
) -> None:
    """Also one from before that was counted: the best is chosen by the loss alone."""

    def run(**others: Any) -> Sweep:
        return sweep(
            "translate", pairs(8, seed=8), base=str(causal_base), validation=pairs(2, seed=2), trials=1,
            space={"rank": Choice((2, 4))}, output=tmp_path / "sweep", max_steps=1, batch_size=4, **others,
        )  # fmt: skip

    first = run(answered="all")
    stored = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'sweep' / 'sweep.db'}")
    study = optuna.load_study(study_name="translate", storage=stored)
    assert "answered" not in study.user_attrs["configuration"]["settings"]
    stored.remove_session()
    stored.engine.dispose()
    assert run().trials == run(answered=1).trials == first.trials
    with pytest.raises(InvalidSettings, match="holds another sweep: settings.prompt was"):
        run(prompt="{source} is")


def test_a_sweep_whose_folders_count_from_0_goes_on(
    causal_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, output: Path, callbacks: Any, **__: Any) -> None:
        output.mkdir()
        callbacks[0].on_evaluate(None, TrainerState(global_step=1), None, metrics={"eval_loss": 0.5})

    def run(trials: int) -> list[tuple[int, int, str]]:
        found = sweep(
            "translate", pairs(8, seed=8), base=str(causal_base), validation=pairs(2, seed=2), trials=trials,
            space={"rank": Choice((2, 4))}, output=tmp_path / "sweep",
        )  # fmt: skip
        return [(trial.number, trial.place, trial.run.name) for trial in found.trials]

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "set_user_attr", lambda *_: None)
        patch.setattr("adapthub.recipes.sweep.train", trained)
        assert run(1) == [(0, 1, "trial-0")]
    monkeypatch.setattr("adapthub.recipes.sweep.train", trained)
    assert run(3) == [(0, 1, "trial-0"), (2, 2, "trial-2"), (3, 3, "trial-3")]


def interrupted(*_: Any, **__: Any) -> None:
    raise TrainingInterrupted("interrupted")


def test_ctrl_c_says_how_a_sweep_goes_on_not_how_its_trial_would(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.recipes.sweep.train", interrupted)
    folder = tmp_path / "sweep"
    with pytest.raises(TrainingInterrupted) as caught:
        sweep(
            "sentiment", review_data, base=str(tiny_base), space={"rank": Choice((2, 4))}, trials=1,
            output=folder, **SHORT,
        )  # fmt: skip
    assert (
        f"interrupted in {folder / 'trial-1'}; the trials before are kept in {folder}" in caught.value.message
    )
    assert caught.value.hint == (
        f"Go on with the same arguments and output='{folder}'; this trial will not count."
    )


def test_another_task_in_the_folder_of_a_sweep_is_refused(
    tiny_base: Path, review_data: Path, ner_data: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {
        "base": str(tiny_base),
        "space": {"rank": Choice((2, 4))},
        "trials": 1,
        "output": tmp_path / "sweep",
        **SHORT,
    }
    sweep("sentiment", review_data, **given)
    with pytest.raises(InvalidSettings, match="holds another sweep: .*task was 'sentiment', is now 'ner'"):
        sweep("ner", ner_data, **given)


def test_data_that_cannot_be_read_is_no_trial(tiny_base: Path, tmp_path: Path) -> None:
    rows = [{"text": "good", "label": "a"}] * 9
    with pytest.raises(InvalidData, match="every row has the label 'a'"):
        sweep(
            "sentiment", rows, base=str(tiny_base), space={"rank": Choice((2, 4))}, trials=1,
            output=tmp_path / "sweep",
        )  # fmt: skip
    assert not (tmp_path / "sweep").exists()


def test_a_trial_that_falls_behind_ends(
    tiny_base: Path, review_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: trial.number > 0)
    found = sweep(
        "sentiment", review_data, base=str(tiny_base), space={"learning_rate": Range(1e-4, 1e-2, False)}, trials=2,
        output=tmp_path / "sweep", **SHORT,
    )  # fmt: skip
    assert [trial.state for trial in found.trials] == ["complete", "stopped"]
    assert found.best.number == 1
    assert not (found.trials[1].run / "adapter").exists()


def test_a_trial_that_fails_does_not_end_the_sweep_unless_all_do(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    wild = Choice((1e30, 2e30))
    with pytest.raises(TrainingError, match="no trial ended well"):
        sweep(
            "sentiment", review_data, base=str(tiny_base), space={"learning_rate": wild}, trials=2, warmup=0,
            output=tmp_path / "sweep", **SHORT,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        ({"seed": Choice((1, 2))}, {}, "'seed' is the same in all trials"),
        ({"rnk": Choice((2, 4))}, {}, "'rnk' is no setting of sentiment with lora"),
        ({"warmup": Range(0.1, 3.0, whole=False)}, {}, r"below 1; 3\.0 is not"),
        ({"max_length": Range(16, 600, whole=True)}, {}, "max_length=600 exceeds"),
        (
            {"method": Choice(("lora", "prefix"))},
            {"rank": 4},
            "'rank' is no setting of sentiment with prefix",
        ),
        ({"method": Choice(("lora", "prefix")), "rank": Choice((2, 4))}, {}, "'rank' is no setting of"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_the_first_trial(
    space: dict[str, Any],
    given: dict[str, Any],
    message: str,
    tiny_base: Path,
    review_data: Path,
    tmp_path: Path,
) -> None:
    settings = {"max_steps": 2, "batch_size": 4, **given}
    with pytest.raises(InvalidSettings, match=message):
        sweep(
            "sentiment",
            review_data,
            base=str(tiny_base),
            space=space,
            trials=2,
            output=tmp_path / "sweep",
            **settings,
        )
    assert not (tmp_path / "sweep").exists()


def test_settings_that_do_not_go_together_fail_one_trial(
    tiny_base: Path, review_data: Path, tmp_path: Path
) -> None:
    """What no end of a range tells: names of layers are known once the base is there."""
    found = sweep(
        "sentiment", review_data, base=str(tiny_base), trials=6, output=tmp_path / "sweep",
        space={"target_modules": Choice((["query", "value"], "nowhere"))}, **SHORT | {"max_steps": 1},
    )  # fmt: skip
    whys = {trial.state: trial.why for trial in found.trials}
    assert whys == {"complete": "", "failed": "target_modules: no linear layer is named 'nowhere'"}
    assert found.best.settings == {"target_modules": ["query", "value"]}
    assert {str(trial.settings["target_modules"]) for trial in found.trials} == {
        "nowhere",
        "['query', 'value']",
    }


def test_a_length_that_leaves_nothing_to_learn_fails_one_trial(causal_base: Path, tmp_path: Path) -> None:
    found = sweep(
        "translate", pairs(12, seed=8), base=str(causal_base), validation=pairs(2, seed=2), trials=4,
        space={"max_length": Choice((4, 64))}, output=tmp_path / "sweep", max_steps=1, batch_size=4, answered=0,
    )  # fmt: skip
    whys = {trial.settings["max_length"]: trial.why for trial in found.trials}
    assert whys.keys() == {4, 64}
    assert "labels is left after truncation" in whys[4]
    assert found.best.settings == {"max_length": 64}


def test_a_trial_whose_validation_is_no_number_is_not_the_best(
    causal_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*_: Any, rank: int, callbacks: Any, **__: Any) -> None:
        state = TrainerState(global_step=1)
        loss = math.inf if rank == 2 else 0.5
        callbacks[0].on_evaluate(None, state, None, metrics={"eval_loss": loss})

    monkeypatch.setattr("adapthub.recipes.sweep.train", trained)
    found = sweep(
        "translate", pairs(8, seed=8), base=str(causal_base), validation=pairs(2, seed=2), trials=6,
        space={"rank": Choice((2, 4))}, output=tmp_path / "sweep",
    )  # fmt: skip
    assert {trial.settings["rank"]: trial.value for trial in found.trials} == {2: None, 4: 0.5}
    assert found.best.settings == {"rank": 4}


def test_a_sweep_needs_something_to_try_and_to_compare_by(tiny_base: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"base": str(tiny_base), "trials": 1, "output": tmp_path / "sweep"}
    with pytest.raises(InvalidSettings, match="nothing to try"):
        sweep("sentiment", [], space={}, **given)
    with pytest.raises(InvalidSettings, match="compared on a validation split"):
        sweep("sentiment", [], space={"rank": Choice((2, 4))}, validation=False, **given)
