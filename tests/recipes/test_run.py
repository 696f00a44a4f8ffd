"""The run folder: made new, found again, refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapthub.adapters.errors import Conflict, InvalidSettings
from adapthub.recipes import run as runs

CONFIGURATION: dict[str, Any] = {
    "task": "ner",
    "settings": {"learning_rate": 0.1, "labels": ("a", "b")},
    "data": {"train": {"fingerprint": "sha256:1", "source": "here.conll"}},
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_found_again_as_it_was_made() -> None:
    run = runs.start(CONFIGURATION, {"python": "3"}, name="acme/ner")
    assert run.path.parent == Path("runs")
    assert run.path.name.startswith("acme-ner-")
    again = runs.load(run.path)
    assert again == run
    assert again.state == "started"
    run.mark("finished", metrics={"f1": 1.0})
    assert runs.load(run.path).state == "finished"
    assert again.fact("metrics") == {"f1": 1.0}
    assert again.fact("weather") is None


def test_two_runs_in_one_second_have_two_folders() -> None:
    paths = {runs.start(CONFIGURATION, {}, name="x").path for _ in range(3)}
    assert len(paths) == 3


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(Conflict, match="is not empty"):
        runs.start(CONFIGURATION, {}, name="x", path=tmp_path / "used")


def test_what_differs_is_said_field_by_field() -> None:
    other = {
        "task": "sentiment",
        "settings": {"learning_rate": 0.2, "labels": ["a", "b"]},
        "data": {"train": {"fingerprint": "sha256:2", "source": "there.conll"}, "test": {"rows": 3}},
    }
    assert runs.differences(json.loads(json.dumps(CONFIGURATION)), other) == [
        "data.test was None, is now {'rows': 3}",
        "data.train.fingerprint was 'sha256:1', is now 'sha256:2'",
        "settings.learning_rate was 0.1, is now 0.2",
        "task was 'ner', is now 'sentiment'",
    ]


def test_a_run_that_did_not_record_how_it_pooled_took_the_mean() -> None:
    was = {"settings": {"temperature": 0.05}}
    mean, cls = ({"settings": {"temperature": 0.05, "pooling": pooling}} for pooling in ("mean", "cls"))
    assert runs.differences(was, mean) == []
    assert runs.differences(was, cls) == ["settings.pooling was 'mean', is now 'cls'"]
    assert runs.differences(was, was) == []


def test_a_run_that_did_not_record_how_many_texts_it_writes_wrote_all() -> None:
    was: dict[str, Any] = {**CONFIGURATION, "settings": {"prompt": "{source}"}}
    now = {**was, "settings": {**was["settings"], "answered": 128}}
    assert runs.differences(was, now) == ["settings.answered was 'all', is now 128"]
    assert runs.differences(was, was) == []


def test_how_much_is_measured_keeps_no_run_from_going_on_and_is_recorded_with_the_measurement() -> None:
    was: dict[str, Any] = {**CONFIGURATION, "settings": {"prompt": "{source}"}}
    run = runs.start(was, {}, name="x", sources={"options": {"prompt": "{source}"}})
    run.finish(metrics={"chrf": 1})
    for settings in ({"answered": 128}, {"answered": 2}, {}):
        now = {**was, "settings": {**was["settings"], **settings}}
        before = runs.load(run.path)
        again = runs.resumable(now, path=run.path).measured_as(now, now["settings"])
        assert again.sources == {"options": now["settings"]}
        assert again.configuration["settings"] == now["settings"]
        assert runs.load(run.path) == before, "nothing was measured so yet"
        run.mark("trained")
        assert runs.resumable(now).path == run.path
        again.finish(metrics={"chrf": 2})
        assert runs.load(run.path) == again
        assert (again.state, again.fact("metrics")) == ("finished", {"chrf": 2})
    with pytest.raises(
        InvalidSettings, match=r"differs: settings.prompt was '\{source\}', is now 'other'\. Train"
    ):
        runs.resumable({**was, "settings": {"prompt": "other", "answered": 3}})


def test_data_that_moved_is_the_same_data() -> None:
    moved = {**CONFIGURATION, "data": {"train": {"fingerprint": "sha256:1", "source": "there.conll"}}}
    run = runs.start(CONFIGURATION, {}, name="x")
    assert runs.resumable(moved) == run


def test_the_latest_unfinished_run_of_the_configuration_is_resumed() -> None:
    first = runs.start(CONFIGURATION, {}, name="x")
    second = runs.start(CONFIGURATION, {}, name="x")
    runs.start({**CONFIGURATION, "task": "sentiment"}, {}, name="x")
    second.mark("finished")
    assert runs.resumable(CONFIGURATION) == first
    first.mark("finished")
    with pytest.raises(InvalidSettings, match="task was 'sentiment', is now 'ner'"):
        runs.resumable(CONFIGURATION)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"no readable run\.json"):
        runs.resumable(CONFIGURATION, path=tmp_path)


@pytest.mark.parametrize("text", ['{"configuration"', "[]", "{}", '{"configuration": 1, "environment": {}}'])
def test_what_is_no_run_is_no_obstacle_to_resuming_another(text: str) -> None:
    run = runs.start(CONFIGURATION, {}, name="x")
    other = runs.RUNS / "of-another-program"
    other.mkdir()
    (other / "run.json").write_text(text)
    assert runs.resumable(CONFIGURATION) == run
    with pytest.raises(InvalidSettings, match=r"of-another-program is not the folder of a run"):
        runs.load(other)


def test_the_history_comes_back_as_written() -> None:
    run = runs.start(CONFIGURATION, {}, name="x")
    assert run.history == []
    run.write_history([{"step": 1, "loss": 0.1}])
    run.write_history([{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}])
    assert run.history == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 1 / 3}]


def test_the_last_checkpoint_is_the_newest_whole_one() -> None:
    run = runs.start(CONFIGURATION, {}, name="x")
    assert run.last_checkpoint() is None
    for step, state in ((9, '{"global_step": 9}'), (10, '{"global_step": 10}'), (100, '{"glob')):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(state)
    for odd in ("checkpoint-200", "checkpoint-300.part"):
        (run.checkpoints / odd).mkdir()
    assert run.last_checkpoint() == run.checkpoints / "checkpoint-10"
