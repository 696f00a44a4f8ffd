"""What manifests say of heads is what is served: several labels at once, answers from contexts, prefixes of retrieval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import openai
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError
from peft import LoraConfig

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.hub import open_hub
from adapthub.runtime import Pair, Passage, Runtime
from adapthub.runtime.server.lifecycle import Running
from tests.adapters.peft_oracle import LINEAR, lora_config, save_adapter
from tests.adapters.test_features import save_encoder
from tests.runtime.server.live import live, settings_for

TOPICS = ("city", "film", "person")
CONTEXT = "ada was born in london and works at acme . " * 3 + "bob met alice in paris ."
QUESTION = "who met bob"


@pytest.fixture(scope="module")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """acme/topics; acme/qa, which knows "no answer", acme/qa-sure and acme/qa-unsure, which say it never and always, and
    acme/qa-v1, which does not know it; acme/search and acme/bare, without prefixes."""
    folder = tmp_path_factory.mktemp("heads")
    hub = open_hub(folder / "hub")
    base = BaseRecord(id=str(tiny_base), fingerprint=load_base(str(tiny_base), device="cpu").fingerprint)
    vectors = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=LINEAR, r=4, init_lora_weights=False)
    features = save_encoder(tiny_base, folder / "vectors", vectors)
    qa = save_adapter(
        tiny_base, folder / "qa", "question-answering", lora_config("question-answering"), labels=2
    )
    topics = save_adapter(
        tiny_base, folder / "topics", "text-classification", lora_config("text-classification")
    )
    windows: dict[str, Any] = {"max_length": 24, "stride": 6}
    prefixes = {"query_prefix": "who is ", "passage_prefix": "the film is "}
    made: list[tuple[str, Path, str, Any, dict[str, Any]]] = [
        ("topics", topics, "text-classification", TOPICS, {"problem_type": "multi_label_classification", "threshold": 0.4}),
        ("qa", qa, "question-answering", None, {**windows, "no_answer": True}),
        ("qa-sure", qa, "question-answering", None, {**windows, "no_answer": True, "no_answer_threshold": 99.0}),
        ("qa-unsure", qa, "question-answering", None, {**windows, "no_answer": True, "no_answer_threshold": -99.0}),
        ("qa-v1", qa, "question-answering", None, {**windows, "no_answer": False}),
        ("qa-words", qa, "question-answering", None, {**windows, "no_answer": False, "longest_answer": 1}),
        ("search", features, "feature-extraction", None, {"max_length": 32, **prefixes}),
        ("bare", features, "feature-extraction", None, {"max_length": 32}),
    ]  # fmt: skip
    for name, plain, task, labels, settings in made:
        read = Artifact.read(plain)
        fields: dict[str, Any] = {"task": task, "labels": labels, "hyperparameters": settings}
        manifest = Manifest(base=base, method="lora", **fields)
        target = folder / f"{name}-ours"
        write_artifact(target, manifest=manifest, card="card\n", config=read.config, tensors=read.tensors())
        hub.push(Artifact.read(target), f"acme/{name}", alias="prod")
    with live(settings_for(tiny_base), hub) as running:
        yield running


@pytest.fixture
def runtime(served: Running) -> Runtime:
    return served.serving.runtime


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def client_for(running: Running, name: str) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{quote(name)}")


def test_several_labels_come_by_sigmoid_and_hold_above_the_recorded_threshold(
    served: Running, runtime: Runtime
) -> None:
    texts = ["ada was born in london", "a fine film"]
    for text, logits, prediction in zip(
        texts, runtime.logits(texts, "acme/topics"), runtime.predict(texts, "acme/topics"), strict=True
    ):
        scores = dict(zip(TOPICS, logits.sigmoid().tolist(), strict=True))
        assert prediction.scores == pytest.approx(scores)
        assert prediction.labels == tuple(label for label in TOPICS if scores[label] > 0.4)
        assert (prediction.label, prediction.score) == (None, None)
        found = client_for(served, "acme/topics").text_classification(text)
        assert {one.label: one.score for one in found} == pytest.approx(scores, rel=1e-4)
        soft = client_for(served, "acme/topics").text_classification(text, function_to_apply="softmax")
        assert sum(one.score for one in soft) == pytest.approx(1, abs=1e-4)


def test_answers_are_what_predict_finds(served: Running, runtime: Runtime) -> None:
    client = client_for(served, "acme/qa")
    one: Any = client.question_answering(question=QUESTION, context=CONTEXT)
    (prediction,) = runtime.predict([Pair(QUESTION, CONTEXT)], "acme/qa")
    (best,) = prediction.answers
    assert (one.answer, one.start, one.end) == (best.text, best.start, best.end)
    assert one.score == pytest.approx(best.score, rel=1e-4)
    many: Any = client.question_answering(question=QUESTION, context=CONTEXT, top_k=5)
    assert len(many) == 5
    assert many[0] == one
    assert [each.score for each in many] == sorted((each.score for each in many), reverse=True)
    for each in many:
        assert CONTEXT[each.start : each.end] == each.answer
    assert len(runtime.logits([Pair(QUESTION, CONTEXT)], "acme/qa")) > 2, "the context takes several windows"


def test_no_answer_is_one_where_training_had_it_or_the_client_asks(served: Running) -> None:
    def texts(name: str, **options: Any) -> list[str]:
        client = client_for(served, name)
        found: Any = client.question_answering(
            question=QUESTION, context="bob met alice", top_k=100, **options
        )
        return [each.answer for each in found]

    assert "" in texts("acme/qa")
    assert "" not in texts("acme/qa", handle_impossible_answer=False)
    assert "" not in texts("acme/qa-v1")
    assert "" in texts("acme/qa-v1", handle_impossible_answer=True)
    assert {len(text.split()) for text in texts("acme/qa-v1", max_answer_len=1)} == {1}
    assert {len(text.split()) for text in texts("acme/qa-words")} == {1}
    assert {len(text.split()) for text in texts("acme/qa-words", max_answer_len=2)} == {1, 2}
    # as likely as what training chose makes it
    assert texts("acme/qa-unsure")[0] == ""
    assert texts("acme/qa-sure")[-1] == ""


def test_adapters_of_unlike_thresholds_are_summed(runtime: Runtime) -> None:
    """The sum goes by the mean of both."""
    asked = [Pair(QUESTION, "bob met alice")]
    ((best, *_),) = (one.answers for one in runtime.predict(asked, "0.9*acme/qa-sure + 0.1*acme/qa-unsure"))
    assert best.text != ""
    ((best, *_),) = (one.answers for one in runtime.predict(asked, "0.1*acme/qa-sure + 0.9*acme/qa-unsure"))
    assert best.text == ""
    (evened,) = runtime.predict(asked, "0.5*acme/qa-sure + 0.5*acme/qa-unsure")
    (plain,) = runtime.predict(asked, "acme/qa")
    assert evened.answers[0].text == plain.answers[0].text
    assert evened.answers[0].score == pytest.approx(plain.answers[0].score, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("acme/qa", {"doc_stride": 3}, "'parameters.doc_stride' is not taken here"),
        ("acme/qa", {"question": "who " * 30}, "the question has 90 tokens"),
        ("acme/qa", {"context": " "}, "text 0 is empty"),
        ("acme/topics", {}, "does not have the task question-answering"),
    ],
)
def test_what_cannot_be_answered_is_refused(served: Running, name: str, options: Any, words: str) -> None:
    asked = {"question": QUESTION, "context": CONTEXT} | options
    with pytest.raises(BadRequestError, match=words):
        client_for(served, name).question_answering(**asked)


def test_a_text_alone_is_no_question(runtime: Runtime) -> None:
    with pytest.raises(
        InvalidInput, match=r"text 1 is no question with a context\. Give Pair\(question, context\)"
    ):
        runtime.predict([Pair("who", "ada"), "who"], "acme/qa")
    mixed = runtime.predict([Pair("who", "ada"), "a film"], ["acme/qa", "acme/topics"])
    assert mixed[0].answers
    assert mixed[1].scores


def test_queries_and_passages_are_read_as_they_were_trained(served: Running, runtime: Runtime) -> None:
    def vector(text: str) -> Any:
        (hidden,) = runtime.logits([text], "acme/bare")
        return torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()

    text = "ada was born in london"
    query, passage = vector(f"who is {text}"), vector(f"the film is {text}")
    assert np.abs(query - passage).max() > 1e-2
    client = client_for(served, "acme/search")
    close(client.feature_extraction(text, normalize=True), query)
    close(client.feature_extraction(text, normalize=True, prompt_name="passage"), passage)
    with openai.OpenAI(base_url=f"{served.address}/v1", api_key="none", max_retries=0) as theirs:
        for input_type, wanted in (("query", query), ("passage", passage)):
            found = theirs.embeddings.create(
                model="acme/search", input=[text], extra_body={"input_type": input_type}
            )
            close(np.array(found.data[0].embedding), wanted)
        close(np.array(theirs.embeddings.create(model="acme/search", input=text).data[0].embedding), query)
        with pytest.raises(openai.BadRequestError, match="no question with a context"):
            theirs.embeddings.create(model="acme/qa", input=text)
    (hidden,) = runtime.logits([Passage(text)], "acme/search")
    close(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy(), passage)


def close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.ravel(ours), theirs, rtol=1e-4, atol=1e-5)
