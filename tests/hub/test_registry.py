"""The contract of a registry. Every kind of registry that conftest opens runs through all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.errors import (
    AdapterNotFound,
    AdmissionError,
    Conflict,
    IntegrityError,
    InvalidReference,
    InvalidSettings,
    RevisionNotFound,
    SignatureError,
)
from adapthub.hub.reference import Reference
from adapthub.hub.registry import Metric, Move, Registry
from adapthub.hub.signing import sign
from tests.hub.adapters import contents, fingerprint, manifest, write_adapter

Open = Callable[[Path], Registry]


@pytest.fixture
def adapters(tmp_path: Path) -> list[Artifact]:
    """Four plain PEFT folders with different weights."""
    return [write_adapter(tmp_path / "made" / str(seed), seed=seed) for seed in range(4)]


# push


def test_versions_count_from_one(registry: Registry, adapters: list[Artifact]) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    versions = [registry.push(adapter, "acme/ner", message=f"try {i}") for i, adapter in enumerate(adapters)]
    assert [version.number for version in versions] == [1, 2, 3, 4]
    assert [version.digest for version in versions] == [adapter.digest for adapter in adapters]
    assert [version.message for version in versions] == ["try 0", "try 1", "try 2", "try 3"]
    assert all(version.name == "acme/ner" and not version.repeated for version in versions)
    assert all(version.size == adapters[0].size for version in versions)
    assert all(before <= version.created <= datetime.now(UTC) for version in versions)


def test_each_name_counts_for_itself(registry: Registry, adapters: list[Artifact]) -> None:
    assert registry.push(adapters[0], "acme/ner").number == 1
    assert registry.push(adapters[0], "acme/other").number == 1
    assert registry.push(adapters[0], "other/ner").number == 1


def test_the_same_digest_again_is_the_same_version(registry: Registry, adapters: list[Artifact]) -> None:
    first = registry.push(adapters[0], "acme/ner", message="first")
    registry.push(adapters[1], "acme/ner")
    again = registry.push(adapters[0], "acme/ner", message="again", alias="prod")
    assert again == first
    assert (again.repeated, first.repeated) == (True, False)
    assert registry.resolve("acme/ner").number == 2
    assert registry.resolve("acme/ner@prod").number == 1
    assert not registry.resolve("acme/ner@v1").repeated


def test_push_moves_the_alias_with_the_version(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    registry.push(adapters[1], "acme/ner", alias="prod")
    assert registry.resolve("acme/ner@prod").number == 2
    assert registry.rollback("acme/ner", "prod").number == 1


@pytest.mark.parametrize("name", ["ner", "acme/ner@v1", "acme/../ner", "", "elsewhere::acme/ner"])
def test_push_refuses_what_is_not_a_name(registry: Registry, adapters: list[Artifact], name: str) -> None:
    with pytest.raises(InvalidReference):
        registry.push(adapters[0], name)
    assert registry.list() == []


@pytest.mark.parametrize("alias", ["latest", "main", "v2", "abcdef0", "a b"])
def test_a_refused_alias_refuses_the_push(registry: Registry, adapters: list[Artifact], alias: str) -> None:
    with pytest.raises(InvalidReference):
        registry.push(adapters[0], "acme/ner", alias=alias)
    assert registry.list() == []


def test_a_message_that_no_file_can_hold(registry: Registry, adapters: list[Artifact]) -> None:
    with pytest.raises(InvalidSettings, match="message"):
        registry.push(adapters[0], "acme/ner", message="half \ud800")
    assert registry.list() == []


def test_a_folder_that_changed_since_it_was_read(registry: Registry, adapters: list[Artifact]) -> None:
    (adapters[0].path / "adapter_config.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"adapter_config\.json"):
        registry.push(adapters[0], "acme/ner")
    (adapters[1].path / "adapter_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        registry.push(adapters[1], "acme/ner")
    assert registry.list() == []


def test_a_name_stays_with_its_task(registry: Registry, tmp_path: Path, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    other = manifest(task="text-classification", labels=("bad", "good"))
    with pytest.raises(
        Conflict, match=r"acme/ner is taken by .* token-classification; .* text-classification"
    ):
        registry.push(write_adapter(tmp_path / "other", manifest=other), "acme/ner", alias="prod")
    assert registry.resolve("acme/ner").number == 1
    assert registry.resolve("acme/ner@prod").number == 1


def test_a_number_beyond_any_database(registry: Registry, tmp_path: Path) -> None:
    measured = manifest(metrics={"test": {"f1": 0.5}}).metrics["test"]["f1"].model_copy(update={"n": 2**63})
    adapter = write_adapter(
        tmp_path / "made", manifest=manifest().model_copy(update={"metrics": {"test": {"f1": measured}}})
    )
    with pytest.raises(AdmissionError, match="64 bits"):
        registry.push(adapter, "acme/ner")
    assert registry.list() == []


# resolve


def test_every_way_to_name_a_version(registry: Registry, adapters: list[Artifact]) -> None:
    first, second = (registry.push(adapter, "acme/ner") for adapter in adapters[:2])
    registry.promote("acme/ner@v1", "prod")
    whole = first.digest.removeprefix("sha256:")
    for revision in ("v1", "prod", whole[:7], whole[:20], whole, first.digest):
        assert registry.resolve(f"acme/ner@{revision}") == first, revision
    for text in ("acme/ner", "acme/ner@latest", "acme/ner@main", "acme/ner@v2"):
        assert registry.resolve(text) == second, text
    assert registry.resolve(Reference(None, "acme", "ner", "v1")) == first


def test_an_unknown_name_suggests_near_ones(registry: Registry, adapters: list[Artifact]) -> None:
    for name in ("acme/ner", "acme/sentiment", "zeta/summaries"):
        registry.push(adapters[0], name)
    with pytest.raises(AdapterNotFound, match=r"no adapter acme/sentimnet.*Did you mean 'acme/sentiment'"):
        registry.resolve("acme/sentimnet")
    with pytest.raises(AdapterNotFound, match=r"Did you mean 'zeta/summaries'"):
        registry.pull("zeta/summary@v1")


def test_an_unknown_name_in_an_empty_registry(registry: Registry) -> None:
    with pytest.raises(AdapterNotFound, match="acme/ner"):
        registry.resolve("acme/ner")


@pytest.mark.parametrize(
    ("revision", "hint"),
    [("v3", "v2"), ("v0", "v1"), ("v999999999999", "v1"), ("production", "prod"), ("v1x", "v1")],
)
def test_an_unknown_revision_suggests_near_ones(
    registry: Registry, adapters: list[Artifact], revision: str, hint: str
) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    registry.push(adapters[1], "acme/ner")
    with pytest.raises(RevisionNotFound, match=rf"acme/ner has no revision {revision}") as caught:
        registry.resolve(f"acme/ner@{revision}")
    assert hint in str(caught.value.hint)


def test_a_commit_of_another_adapter_is_unknown(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner")
    other = registry.push(adapters[1], "acme/other")
    with pytest.raises(RevisionNotFound):
        registry.resolve(f"acme/ner@{other.digest}")


def test_a_reference_to_another_hub_is_refused(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner")
    with pytest.raises(InvalidReference, match="elsewhere"):
        registry.resolve("elsewhere::acme/ner")


# pull


def test_pull_gives_the_same_bytes_in_a_plain_folder(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner")
    pulled = registry.pull("acme/ner")
    assert pulled.digest == adapters[0].digest
    assert contents(pulled.path) == contents(adapters[0].path)
    assert pulled.path != adapters[0].path


def test_pull_by_every_kind_of_revision_is_one_folder(registry: Registry, adapters: list[Artifact]) -> None:
    digest = registry.push(adapters[0], "acme/ner", alias="prod").digest
    registry.push(adapters[0], "acme/copy")
    texts = ("acme/ner", "acme/ner@v1", "acme/ner@prod", f"acme/ner@{digest}", "acme/copy")
    assert len({registry.pull(text).path for text in texts}) == 1


def test_an_old_version_stays_what_it_was(registry: Registry, adapters: list[Artifact]) -> None:
    for adapter in adapters:
        registry.push(adapter, "acme/ner")
    assert contents(registry.pull("acme/ner@v1").path) == contents(adapters[0].path)


def test_editing_a_pulled_folder_harms_nobody(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner")
    folder = registry.pull("acme/ner").path
    (folder / "adapter_model.safetensors").write_bytes(b"ruined")
    (folder / "note.txt").write_text("mine")
    assert contents(registry.pull("acme/ner").path) == contents(adapters[0].path)


# aliases


def test_promote_and_roll_back_further_and_further(registry: Registry, adapters: list[Artifact]) -> None:
    for adapter in adapters:
        registry.push(adapter, "acme/ner")
    for number in (1, 2, 4):
        assert registry.promote(f"acme/ner@v{number}", "prod").number == number
    assert registry.rollback("acme/ner", "prod").number == 2
    assert registry.rollback("acme/ner", "prod").number == 1
    assert registry.resolve("acme/ner@prod").number == 1
    with pytest.raises(RevisionNotFound, match="nothing to go back to"):
        registry.rollback("acme/ner", "prod")
    assert registry.resolve("acme/ner@prod").number == 1


def test_a_promotion_after_a_rollback_starts_from_there(registry: Registry, adapters: list[Artifact]) -> None:
    for adapter in adapters:
        registry.push(adapter, "acme/ner", alias="prod")
    registry.rollback("acme/ner", "prod")
    registry.promote("acme/ner@v1", "prod")
    assert registry.rollback("acme/ner", "prod").number == 3
    assert registry.rollback("acme/ner", "prod").number == 2


def test_every_move_is_written_down(registry: Registry, adapters: list[Artifact]) -> None:
    start = datetime.now(UTC) - timedelta(seconds=1)
    registry.push(adapters[0], "acme/ner", alias="prod")
    registry.push(adapters[1], "acme/ner", alias="beta")
    registry.promote("acme/ner@v2", "prod")
    registry.promote("acme/ner@v2", "prod")  # is there already
    registry.rollback("acme/ner", "prod")
    beta, prod = registry.show("acme/ner").aliases
    assert (beta.name, beta.number, len(beta.history)) == ("beta", 2, 1)
    assert (prod.name, prod.number) == ("prod", 1)
    assert [(move.source, move.target) for move in prod.history] == [(None, 1), (1, 2), (2, 1)]
    times = [start, *(move.when for move in prod.history), datetime.now(UTC)]
    assert times == sorted(times)


def test_aliases_of_two_adapters_are_apart(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    registry.push(adapters[1], "acme/other", alias="prod")
    registry.push(adapters[2], "acme/other")
    registry.promote("acme/other@v2", "prod")
    assert registry.resolve("acme/ner@prod").digest == adapters[0].digest
    with pytest.raises(RevisionNotFound):
        registry.rollback("acme/ner", "prod")


def test_aliases_of_one_adapter_go_back_each_by_itself(registry: Registry, adapters: list[Artifact]) -> None:
    for adapter in adapters:
        registry.push(adapter, "acme/ner")
    for number, alias in ((1, "prod"), (2, "prod"), (2, "beta"), (4, "beta")):
        registry.promote(f"acme/ner@v{number}", alias)
    assert registry.rollback("acme/ner", "prod").number == 1
    assert registry.rollback("acme/ner", "beta").number == 2
    assert registry.resolve("acme/ner@prod").number == 1


def test_promote_from_an_alias(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="beta")
    registry.push(adapters[1], "acme/ner")
    assert registry.promote("acme/ner@beta", "prod").number == 1
    assert registry.promote("acme/ner", "prod").number == 2


def test_promotions_that_are_refused(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/ner", alias="prod")
    with pytest.raises(InvalidReference, match="newest"):
        registry.promote("acme/ner@v1", "latest")
    with pytest.raises(InvalidReference):
        registry.promote("acme/ner@v1", "v7")
    with pytest.raises(RevisionNotFound):
        registry.promote("acme/ner@v2", "prod")
    with pytest.raises(AdapterNotFound):
        registry.promote("acme/unknown", "prod")
    with pytest.raises(RevisionNotFound, match=r"no alias prd\. Did you mean 'prod'"):
        registry.rollback("acme/ner", "prd")
    with pytest.raises(AdapterNotFound):
        registry.rollback("acme/unknown", "prod")
    with pytest.raises(InvalidReference):
        registry.rollback("acme/ner@v1", "prod")
    assert [alias.history for alias in registry.show("acme/ner").aliases] == [
        (Move(registry.show("acme/ner").aliases[0].history[0].when, None, 1),)
    ]


# list, show, available


def test_list_by_name(registry: Registry, adapters: list[Artifact]) -> None:
    for name in ("zeta/a", "acme/ner", "acme/chunks"):
        registry.push(adapters[0], name)
    registry.push(adapters[1], "acme/ner", alias="prod")
    assert [entry.name for entry in registry.list()] == ["acme/chunks", "acme/ner", "zeta/a"]
    chunks, ner = registry.list("acme")
    assert (ner.versions, ner.aliases, ner.latest) == (2, {"prod": 2}, registry.resolve("acme/ner"))
    assert (chunks.versions, chunks.aliases) == (1, {})
    assert registry.list("nobody") == []


def test_a_plain_peft_folder_says_little(registry: Registry, adapters: list[Artifact]) -> None:
    registry.push(adapters[0], "acme/plain")
    details = registry.show("acme/plain")
    assert details.manifest is None
    facts = details.facts
    assert (facts.method, facts.base, facts.rank) == ("lora", "org/base", 2)
    assert (facts.labels, facts.base_fingerprint, facts.metrics) == (None, None, ())
    assert registry.list()[0].facts == facts


def test_show_says_everything(registry: Registry, tmp_path: Path) -> None:
    recorded = manifest(metrics={"train": {"f1": 0.99}, "test": {"f1": 0.8}}, recipe="ner", method="dora")
    first = write_adapter(tmp_path / "first", manifest=recorded, card="# NER")
    second = write_adapter(tmp_path / "second", seed=1)
    registry.push(first, "acme/ner", message="measured", alias="prod")
    registry.push(second, "acme/ner")
    details = registry.show("acme/ner@prod")
    assert details.version == registry.resolve("acme/ner@v1")
    assert [version.number for version in details.versions] == [2, 1]
    assert {file.path: (file.sha256, file.size) for file in details.files} == {
        path: (record.sha256, record.size) for path, record in first.files.items()
    }
    assert first.manifest is not None
    assert details.manifest == json.loads(first.manifest.to_json())
    assert details.facts.metrics == (
        Metric("test", "f1", 0.8, 0.8 - 0.05, 0.8 + 0.05, 100),
        Metric("train", "f1", 0.99, 0.99 - 0.05, 0.99 + 0.05, 100),
    )
    assert (details.facts.method, details.facts.task) == ("dora", "token-classification")
    assert details.facts.labels == ("O", "B-PER")
    assert details.facts.base_fingerprint == fingerprint().digest


def test_a_list_shows_the_test_split_first(registry: Registry, tmp_path: Path) -> None:
    splits = {
        "train": {"f1": 0.99, "loss": 0.1},
        "validation": {"f1": 0.7, "accuracy": 0.9},
        "test": {"f1": 0.8},
        "extra": {"accuracy": 0.5, "recall": 0.6},
    }
    registry.push(write_adapter(tmp_path / "made", manifest=manifest(metrics=splits)), "acme/ner")
    shown = {(metric.split, metric.name) for metric in registry.list()[0].facts.metrics}
    assert shown == {("test", "f1"), ("validation", "accuracy"), ("extra", "recall")}


def test_available(registry: Registry, adapters: list[Artifact]) -> None:
    assert registry.available("acme/ner")
    registry.push(adapters[0], "acme/ner")
    assert not registry.available("acme/ner")
    assert registry.available("acme/ne")
    registry.check_may_push("acme/ne")
    with pytest.raises(InvalidReference):
        registry.check_may_push("acme/ner@v1")
    with pytest.raises(InvalidReference):
        registry.available("acme")


# search


@pytest.fixture(scope="module")
def library(open_registry: Open, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Three adapters over two bases, and a plain one. Only read."""
    folder = tmp_path_factory.mktemp("library")
    registry = open_registry(folder)
    made = {
        "acme/ner": manifest(metrics={"test": {"f1": 0.8, "loss": 0.3}}),
        "acme/ner-dora": manifest(metrics={"validation": {"f1": 0.9}}, base_seed=1, method="dora"),
        "beta/reviews": manifest(
            metrics={"train": {"f1": 1.0}, "test": {"accuracy": 0.95}},
            base="package:minilm",
            task="text-classification",
            labels=("negative", "positive"),
        ),
    }
    for seed, (name, recorded) in enumerate(made.items()):
        card = f"# Card of {name}\n100% für Übersicht, 影评_情感 analysis"
        registry.push(write_adapter(folder / name, seed=seed, manifest=recorded, card=card), name)
    registry.push(write_adapter(folder / "plain", seed=9), "gamma/plain", message="Hand-made tuning")
    return registry


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["acme/ner", "acme/ner-dora", "beta/reviews", "gamma/plain"]),
        ({"text": ""}, ["acme/ner", "acme/ner-dora", "beta/reviews", "gamma/plain"]),
        ({"text": "ner"}, ["acme/ner", "acme/ner-dora"]),
        ({"text": "NER dora"}, ["acme/ner-dora"]),
        ({"text": "minilm"}, ["beta/reviews"]),
        ({"text": "hand-made"}, ["gamma/plain"]),
        ({"text": "positive"}, ["beta/reviews"]),
        ({"text": "ÜBERSICHT"}, ["acme/ner", "acme/ner-dora", "beta/reviews"]),
        ({"text": "影评"}, ["acme/ner", "acme/ner-dora", "beta/reviews"]),
        ({"text": "评_情感"}, ["acme/ner", "acme/ner-dora", "beta/reviews"]),
        ({"text": "0%"}, ["acme/ner", "acme/ner-dora", "beta/reviews"]),
        ({"text": "%%"}, []),
        ({"text": "__"}, []),
        ({"text": '"'}, []),
        ({"text": 'ner" OR "a'}, []),
        ({"text": "ner*"}, []),
        ({"text": "NOT ner"}, []),
        ({"base": "org/base"}, ["acme/ner", "acme/ner-dora", "gamma/plain"]),
        ({"base": "org/bas"}, []),
        ({"base": fingerprint(1).digest}, ["acme/ner-dora"]),
        ({"base": fingerprint(1).digest[:19]}, ["acme/ner-dora"]),
        ({"task": "text-classification"}, ["beta/reviews"]),
        ({"task": "token-classification", "base": "org/base", "text": "card"}, ["acme/ner", "acme/ner-dora"]),
        ({"method": "dora"}, ["acme/ner-dora"]),
        ({"method": "lora"}, ["acme/ner", "beta/reviews", "gamma/plain"]),
        ({"label": "B-PER"}, ["acme/ner", "acme/ner-dora"]),
        ({"label": "b-per"}, []),
        ({"metric": "f1>=0.8"}, ["acme/ner-dora", "acme/ner"]),
        ({"metric": "f1 > 0.8"}, ["acme/ner-dora"]),
        ({"metric": "f1<1"}, ["acme/ner", "acme/ner-dora"]),
        ({"metric": "f1<=.8"}, ["acme/ner"]),
        ({"metric": "f1==0.8"}, ["acme/ner"]),
        ({"metric": "accuracy>9e-1"}, ["beta/reviews"]),
        ({"metric": "loss<0.5", "task": "token-classification"}, ["acme/ner"]),
        ({"metric": "unknown>0"}, []),
    ],
)
def test_search(library: Registry, conditions: dict[str, str], expected: list[str]) -> None:
    assert [entry.name for entry in library.search(**conditions)] == expected


@pytest.mark.parametrize(
    "metric", ["", "f1", "f1>=", ">=0.8", "f1>=high", "f1=>0.8", "f1>0.8>0.7", "f1>0.8 x"]
)
def test_a_metric_condition_that_does_not_read(registry: Registry, metric: str) -> None:
    with pytest.raises(InvalidSettings, match=r"f1>=0\.8"):
        registry.search(metric=metric)


def test_search_looks_at_the_newest_version_only(registry: Registry, tmp_path: Path) -> None:
    old = manifest(metrics={"test": {"f1": 0.9}}, labels=("O", "B-OLD"))
    new = manifest(metrics={"test": {"f1": 0.5}}, labels=("O", "B-NEW"))
    registry.push(write_adapter(tmp_path / "old", manifest=old), "acme/ner", message="ancient")
    registry.push(write_adapter(tmp_path / "new", manifest=new), "acme/ner", message="recent")
    assert registry.search("recent", label="B-NEW", metric="f1<0.6") == registry.list()
    for conditions in ({"text": "ancient"}, {"label": "B-OLD"}, {"metric": "f1>0.8"}):
        assert registry.search(**conditions) == []


# all of it


def test_it_is_all_there_when_opened_again(
    open_registry: Open, adapters: list[Artifact], tmp_path: Path
) -> None:
    first = open_registry(tmp_path)
    first.push(adapters[0], "acme/ner", alias="prod")
    first.push(adapters[1], "acme/ner")
    again = open_registry(tmp_path)
    assert again.show("acme/ner@prod") == first.show("acme/ner@prod")
    assert again.list() == first.list()
    assert again.pull("acme/ner").digest == adapters[1].digest


def test_two_open_at_once_see_each_other(
    open_registry: Open, adapters: list[Artifact], tmp_path: Path
) -> None:
    one, other = open_registry(tmp_path), open_registry(tmp_path)
    one.push(adapters[0], "acme/ner", alias="prod")
    assert other.push(adapters[1], "acme/ner", alias="prod").number == 2
    assert one.resolve("acme/ner@prod").number == 2


# signatures

KEY, OTHER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def test_a_signature_comes_with_a_push_and_later(registry: Registry, adapters: list[Artifact]) -> None:
    first, second = (sign(adapter.sha256s, KEY) for adapter in adapters[:2])
    assert registry.push(replace(adapters[0], signature=first), "acme/ner").digest == adapters[0].digest
    assert registry.pull("acme/ner").signature == first
    registry.push(adapters[1], "acme/ner", alias="prod")
    assert registry.pull("acme/ner").signature is None
    assert registry.pull("acme/ner@v1").signature == first
    signed = registry.attach_signature("acme/ner@prod", second)
    assert (signed.number, signed.digest) == (2, adapters[1].digest)
    assert [registry.pull(f"acme/ner{which}").signature for which in ("", "@v2", "@prod")] == [second] * 3
    details = registry.show("acme/ner")
    assert (len(details.versions), {file.path for file in details.files}) == (2, set(adapters[1].files))


def test_the_newest_signature_counts(registry: Registry, adapters: list[Artifact]) -> None:
    old, new = (sign(adapters[0].sha256s, key) for key in (KEY, OTHER))
    registry.push(replace(adapters[0], signature=old), "acme/ner", alias="prod")
    assert registry.pull("acme/ner@prod").signature == old
    assert registry.push(replace(adapters[0], signature=new), "acme/ner").repeated
    assert [registry.pull(f"acme/ner{which}").signature for which in ("@prod", "@v1", "")] == [new] * 3
    assert registry.resolve("acme/ner").number == 1


def test_a_signature_of_other_files_is_refused(registry: Registry, adapters: list[Artifact]) -> None:
    other = sign(adapters[1].sha256s, KEY)
    with pytest.raises(SignatureError, match=r"has another 'adapter_model.safetensors'"):
        registry.push(replace(adapters[0], signature=other), "acme/ner")
    registry.push(adapters[0], "acme/ner")
    for bundle in (other, b"{}"):
        with pytest.raises(SignatureError):
            registry.attach_signature("acme/ner", bundle)
    assert registry.pull("acme/ner").signature is None
