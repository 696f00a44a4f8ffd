"""Runtime: names to digests, rows that mix adapters, texts to what the task means."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import Base, load_base
from adapthub.adapters.errors import (
    AdapterNotFound,
    BaseMismatch,
    InvalidExpression,
    InvalidInput,
    InvalidSettings,
    TensorMismatch,
)
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.adapters.tasks import Task
from adapthub.hub import Registry, open_hub
from adapthub.runtime import Runtime
from adapthub.runtime.predictor import Question
from tests.adapters.peft_oracle import expected_logits, lora_config, prefix_config, save_adapter

TOKENS, TEXT = "token-classification", "text-classification"
TAGS = ("O", "B-PER", "I-PER")
MOODS = ("bad", "fine", "good")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(str(tiny_base), device="cpu")


@pytest.fixture
def make(tiny_base: Path, base: Base, tmp_path: Path) -> Make:
    """Writes an adapter with a manifest from a random PEFT save, and returns its folder."""

    def made(name: str, task: Task, labels: tuple[str, ...], *, seed: int = 0, **extra: object) -> Path:
        plain = save_adapter(
            tiny_base, tmp_path / f"{name}-plain", task, lora_config(task), labels=len(labels), seed=seed
        )
        read = Artifact.read(plain)
        manifest = Manifest(
            task=task,
            labels=labels,
            base=BaseRecord(id=str(tiny_base), fingerprint=base.fingerprint),
            method="lora",
            **extra,  # type: ignore[arg-type]
        )
        write_artifact(
            tmp_path / name, manifest=manifest, card="card\n", config=read.config, tensors=read.tensors()
        )
        return tmp_path / name

    return made


@pytest.fixture
def hub(tmp_path: Path) -> Registry:
    return open_hub(tmp_path / "hub")


def test_rows_of_one_batch_use_different_adapters(
    base: Base, make: Make, hub: Registry, tiny_base: Path
) -> None:
    hub.push(Artifact.read(make("ner", TOKENS, TAGS)), "acme/ner", alias="prod")
    hub.push(Artifact.read(make("mood", TEXT, MOODS, seed=1)), "acme/mood")
    plain = save_adapter(
        tiny_base, make("x", TEXT, MOODS).parent / "plain", TEXT, lora_config(TEXT), labels=4, seed=2
    )
    runtime = Runtime(base, hub=hub)
    texts = ["Ada was born in London.", "a fine film", "a dull story", "Alice visited Paris"]
    names = ["acme/ner@prod", "acme/mood", str(plain), None]
    mixed = runtime.predict(texts, adapters=names)
    for text, name, together in zip(texts, names, mixed, strict=True):
        (alone,) = runtime.predict([text], adapters=name)
        assert (alone.entities, alone.label) == (together.entities, together.label)
        assert together.adapter == name
    assert mixed[0].task == TOKENS
    assert all(entity.text == texts[0][entity.start : entity.end] for entity in mixed[0].entities)
    assert mixed[1].label in MOODS
    assert sum(mixed[1].scores.values()) == pytest.approx(1)
    assert set(mixed[2].scores) == {f"LABEL_{index}" for index in range(4)}
    assert mixed[3].features is not None
    assert mixed[3].digests == ()


def test_logits_are_pefts(base: Base, make: Make, tiny_base: Path) -> None:
    folder = make("mood", TEXT, MOODS)
    text = "ada visited berlin"
    assert base.tokenizer is not None
    row = {"input_ids": base.tokenizer(text)["input_ids"]}
    (theirs,) = expected_logits(tiny_base, folder, TEXT, [row])
    (ours,) = Runtime(base).logits([text], adapters=folder)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def eventually_attached(runtime: Runtime) -> set[str]:
    """What stays attached once the loader threads have done what they were told."""
    runtime._residency._loader._threads.shutdown()
    return set(runtime._adapted.attached)


def test_a_name_means_one_digest_until_it_is_attached_again(base: Base, make: Make, hub: Registry) -> None:
    first = hub.push(Artifact.read(make("one", TEXT, MOODS)), "acme/mood", alias="prod")
    runtime = Runtime(base, hub=hub)
    assert runtime.attach("acme/mood@prod") == first.digest
    second = hub.push(Artifact.read(make("two", TEXT, MOODS, seed=1)), "acme/mood", alias="prod")
    assert runtime.predict(["a film"], adapters="acme/mood@prod")[0].digests == (first.digest,)
    assert runtime.attach("acme/mood@prod") == second.digest
    assert runtime.predict(["a film"], adapters="acme/mood@prod")[0].digests == (second.digest,)
    assert runtime.attached == {"acme/mood@prod": second.digest}
    assert eventually_attached(runtime) == {second.digest}, "what no name means any more is let go"


def test_a_digest_stands_for_a_name_as_long_as_it_is_registered(
    base: Base, make: Make, hub: Registry
) -> None:
    digest = hub.push(Artifact.read(make("one", TEXT, MOODS)), "acme/mood").digest
    runtime = Runtime(base, hub=hub)
    with pytest.raises(AdapterNotFound, match="was unloaded or replaced"):
        runtime.attach(digest)
    runtime.register("acme/mood")
    assert runtime.attach(digest) == runtime.pin(digest) == digest
    runtime.unpin(digest)
    halves = runtime.predict(["a film", "a film"], [f"0.5*{digest}", "0.5*acme/mood"])
    assert halves[0].scores == halves[1].scores
    assert runtime.attached == {"acme/mood": digest}
    runtime.detach("acme/mood")
    with pytest.raises(AdapterNotFound, match="was unloaded or replaced"):
        runtime.predict(["a film"], digest)
    assert not runtime.attached


def test_a_row_keeps_the_adapter_it_began_with(
    base: Base, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between resolving a name and running, the name is detached, as another thread may."""
    folder = str(make("one", TEXT, MOODS))
    runtime = Runtime(base)
    (expected,) = runtime.logits(["a film"], adapters=folder)
    run = runtime._predictor.compute

    def detach_first(questions: Sequence[Question]) -> list[torch.Tensor]:
        runtime.detach(folder)
        return run(questions)

    monkeypatch.setattr(runtime._predictor, "compute", detach_first)
    (kept,) = runtime.logits(["a film"], adapters=folder)
    assert torch.equal(kept, expected)
    assert runtime.attached == {}
    assert not eventually_attached(runtime)


def test_what_was_taken_stays_until_all_of_it_is_given_back(base: Base, make: Make) -> None:
    folder = str(make("one", TEXT, MOODS))
    runtime = Runtime(base)
    names = runtime._names
    selection = names.take(folder)
    names.share(selection)
    digests = [digest for _, digest in selection]
    runtime.detach(folder)
    for _ in range(2):
        with names.loaded(digests):
            assert names.artifact(digests[0]).digest == digests[0]
        names.give_back(digests)
    assert names.meaning(digests[0]) is None


def test_an_adapter_goes_with_its_last_name(base: Base, make: Make, hub: Registry) -> None:
    version = hub.push(Artifact.read(make("one", TEXT, MOODS)), "acme/mood", alias="prod")
    runtime = Runtime(base, hub=hub)
    runtime.attach("acme/mood@prod")
    runtime.attach("acme/mood@v1")
    runtime.detach("acme/mood@prod")
    assert runtime.predict(["a film"], adapters="acme/mood@v1")[0].digests == (version.digest,)
    runtime.detach(version.digest)
    assert runtime.attached == {}
    with pytest.raises(AdapterNotFound, match="not attached"):
        runtime.detach("acme/mood@prod")


def test_an_expression_of_equal_adapters_is_that_adapter(base: Base, make: Make) -> None:
    one, twin = make("one", TEXT, MOODS), make("two", TEXT, MOODS, recipe="sentiment")
    runtime = Runtime(base)
    (alone,) = runtime.logits(["a fine film"], adapters=str(one))
    (summed,) = runtime.logits(["a fine film"], adapters=f"0.25*{one} + 0.75*{twin}")
    torch.testing.assert_close(summed, alone, rtol=1e-5, atol=1e-5)


def test_sums_of_unlike_adapters_are_refused(base: Base, make: Make) -> None:
    ner, mood = make("ner", TOKENS, TAGS), make("mood", TEXT, MOODS)
    other = make("other", TEXT, ("x", "y", "z"))
    runtime = Runtime(base)
    with pytest.raises(InvalidExpression, match="unlike tasks"):
        runtime.predict(["a film"], adapters=f"0.5*{ner} + 0.5*{mood}")
    with pytest.raises(InvalidExpression, match="differ in labels"):
        runtime.predict(["a film"], adapters=f"0.5*{other} + 0.5*{mood}")


def test_another_base_is_refused_with_the_difference(base: Base, make: Make, tmp_path: Path) -> None:
    folder = make("mood", TEXT, MOODS)
    read = Artifact.read(folder)
    assert read.manifest is not None
    foreign = dataclasses.replace(base.fingerprint, weights="0" * 64)
    manifest = read.manifest.model_copy(update={"base": BaseRecord(id="org/other", fingerprint=foreign)})
    write_artifact(
        tmp_path / "far", manifest=manifest, card="c\n", config=read.config, tensors=read.tensors()
    )
    runtime = Runtime(base)
    with pytest.raises(BaseMismatch, match=r"trained on org/other.*weights differ"):
        runtime.attach(tmp_path / "far")
    assert runtime.attached == {}


def test_left_over_and_missing_tensors_are_named(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = save_adapter(tiny_base, tmp_path / "plain", TEXT, lora_config(TEXT))
    weights = plain / "adapter_model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if "query.lora_A" in name)
    runtime = Runtime(base)
    save_file({name: value for name, value in tensors.items() if name != lost}, weights)
    with pytest.raises(TensorMismatch, match=r"lacks lora_A of '.*query'"):
        runtime.attach(plain)
    pair = {lost, lost.replace("lora_A", "lora_B")}
    save_file({name: value for name, value in tensors.items() if name not in pair}, weights)
    with pytest.raises(TensorMismatch, match=r"targets '.*query' and has no weights"):
        runtime.attach(plain)
    save_file({**tensors, "base_model.model.stray.weight": torch.zeros(2)}, weights)
    with pytest.raises(TensorMismatch, match=r"stray\.weight"):
        runtime.attach(plain)
    save_file({**tensors, lost.removesuffix(".weight"): tensors[lost] + 1}, weights)
    with pytest.raises(TensorMismatch, match=r"lora_A of '.*query' twice"):
        runtime.attach(plain)
    save_file({**tensors, lost: tensors[lost][:-1].clone()}, weights)
    with pytest.raises(TensorMismatch, match=r"lora_A of '.*query' is \[3, 64\]; here it is \[4, 64\]"):
        runtime.attach(plain)


def test_fields_that_are_not_computed_are_named(base: Base, tiny_base: Path, tmp_path: Path) -> None:
    from adapthub.adapters.errors import UnsupportedAdapter

    plain = save_adapter(tiny_base, tmp_path / "plain", TEXT, lora_config(TEXT))
    config = json.loads((plain / "adapter_config.json").read_text())
    runtime = Runtime(base)
    for change, message in (
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base model's own weights"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
    ):
        (plain / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(UnsupportedAdapter, match=message):
            runtime.attach(plain)


def test_rows_and_adapters_must_fit(base: Base, make: Make) -> None:
    runtime = Runtime(base)
    ner, mood = str(make("ner", TOKENS, TAGS)), str(make("mood", TEXT, MOODS))
    with pytest.raises(InvalidInput, match="2 texts and 3 adapters"):
        runtime.predict(["a", "b"], adapters=[None, None, None])
    with pytest.raises(InvalidInput, match=r"Write \[text\]"):
        runtime.predict("a film", adapters=mood)
    with pytest.raises(InvalidInput, match="text 0 has no word"):
        runtime.predict(["  "], adapters=ner)
    with pytest.raises(InvalidInput, match="text 1 is empty"):
        runtime.predict(["a film", " "], adapters=mood)
    with pytest.raises(InvalidInput, match="text 0 is a list of words"):
        runtime.predict([["a", "film"]], adapters=mood)
    with pytest.raises(AdapterNotFound):
        runtime.predict(["a film"], adapters="acme/nobody")
    assert runtime.predict([], adapters=mood) == []


def test_long_texts_are_read_as_far_as_the_base_goes_and_say_so(base: Base, make: Make) -> None:
    runtime = Runtime(base)
    text = " ".join(["ada visited london"] * 40)
    short = str(make("short", TEXT, MOODS, hyperparameters={"max_length": 16}))
    (cut,) = runtime.predict([text], adapters=short)
    assert cut.truncated
    (words,) = runtime.predict([text], adapters=str(make("ner", TOKENS, TAGS)))
    assert words.truncated
    assert not runtime.predict(["ada"], adapters=short)[0].truncated


@pytest.mark.parametrize("task", [TOKENS, TEXT])
def test_a_long_text_leaves_room_for_a_prefix(base: Base, tiny_base: Path, tmp_path: Path, task: str) -> None:
    path = save_adapter(tiny_base, tmp_path / "p", task, prefix_config(task, 5))
    runtime = Runtime(base)
    (cut,) = runtime.predict([" ".join(["ada visited london"] * 40)], adapters=str(path))
    assert cut.truncated


def test_words_can_be_given(base: Base, make: Make) -> None:
    runtime = Runtime(base)
    ner = str(make("ner", TOKENS, TAGS))
    (given,) = runtime.predict([["ada", "was", "born", "in", "london"]], adapters=ner)
    (text,) = runtime.predict(["ada was born in london"], adapters=ner)
    assert given.entities == text.entities


def test_many_rows_run_in_bounded_passes_in_order(
    base: Base, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = Runtime(base)
    mood = str(make("mood", TEXT, MOODS))
    texts = [" ".join(["film"] * (1 + index % 7)) for index in range(30)]
    whole = runtime.logits(texts, adapters=mood)
    monkeypatch.setattr("adapthub.runtime.predictor._PASS_TOKENS", 20)
    for ours, theirs in zip(runtime.logits(texts, adapters=mood), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_whether_a_base_generates_is_tried_once(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def serves(model: object) -> None:
        tried.append(model)
        raise InvalidSettings("no language model")

    monkeypatch.setattr("adapthub.runtime.generation.serves", serves)
    with Runtime(base) as runtime:
        assert not runtime.generates
        assert not runtime.generates
        with pytest.raises(InvalidSettings, match="no language model"):
            runtime.generate(["ada"])
    assert len(tried) == 1


def test_what_adapters_are_for(base: Base, make: Make, tiny_base: Path, tmp_path: Path) -> None:
    ner, mood = make("ner", TOKENS, TAGS), make("mood", TEXT, MOODS)
    plain = save_adapter(tiny_base, tmp_path / "plain", TEXT, lora_config(TEXT), labels=4)
    with Runtime(base) as runtime:
        assert runtime.task(None) == (None, ())
        assert runtime.task(ner) == (TOKENS, TAGS)
        assert runtime.task(f"0.5*{mood}") == (TEXT, MOODS)
        assert runtime.task(plain) == (TEXT, ())
        with pytest.raises(InvalidExpression, match="unlike tasks"):
            runtime.task(f"0.5*{mood} + 0.5*{ner}")
