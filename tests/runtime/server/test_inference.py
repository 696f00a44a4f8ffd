"""Hugging Face's Inference API by Hugging Face's own client: each task against what Runtime and transformers compute."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from huggingface_hub import InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from adapthub.runtime.server import inference, inference_tasks
from adapthub.runtime.server.lifecycle import Running
from tests.runtime.server.encoders import LABELS

# Not ASCII: an emoji beyond the first plane, and an accent that is a character of its own.
ODD = "🙂 Ada met Re\u0301ne\u0301 in 東京 — and Bob 👩\u200d💻 was born ."


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def client_for(running: Running, name: str, **options: Any) -> InferenceClient:
    return InferenceClient(model=f"{running.address}/models/{quote(name)}", **options)


def post(running: Running, path: str, body: object, **headers: str) -> Any:
    """As any client might: status and JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        running.address + path, data, {"Content-Type": "application/json"} | headers
    )
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(("name", "version"), [("acme/ner", "acme/ner@v1"), ("acme/ner@prod", "acme/ner@v1")])
def test_the_answer_says_which_version_gave_it(encoder: Running, name: str, version: str) -> None:
    body = json.dumps({"inputs": "ada met bob"}).encode()
    request = urllib.request.Request(
        f"{encoder.address}/models/{name}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        assert response.headers["x-adapter-version"] == version


@pytest.mark.parametrize("text", ["ada was born in london and met bob", ODD])
@pytest.mark.parametrize("strategy", [None, "simple", "first"])
def test_entities_are_what_predict_finds(encoder: Running, text: str, strategy: Any) -> None:
    found = client_for(encoder, "acme/ner@prod").token_classification(text, aggregation_strategy=strategy)
    (prediction,) = encoder.serving.runtime.predict([text], "acme/ner")
    assert [(one.entity_group, one.word, one.start, one.end) for one in found] == [
        (entity.label, entity.text, entity.start, entity.end) for entity in prediction.entities
    ]
    assert found, "the tiny adapter marks something"
    assert all(text[one.start : one.end] == one.word for one in found)
    assert [one.score for one in found] == pytest.approx([e.score for e in prediction.entities], rel=1e-4)


def test_words_with_their_labels(encoder: Running) -> None:
    client = client_for(encoder, "acme/ner")
    words = client.token_classification(ODD, aggregation_strategy="none", ignore_labels=[])
    assert "".join(word.word for word in words) == "".join(ODD.split()).replace(
        "\u200d", ""
    )  # the tokenizer drops joiners
    assert all(ODD[word.start : word.end] == word.word for word in words)
    assert {word.entity for word in words} <= {"O", "B-PER", "I-PER"}
    (logits,) = encoder.serving.runtime.logits([ODD], "acme/ner")
    for word in words:
        score, label = logits[word["index"]].softmax(-1).max(-1)
        assert word.entity == LABELS["acme/ner"][1][int(label)]
        assert word.score == pytest.approx(float(score), rel=1e-4)
    some = client.token_classification(ODD, aggregation_strategy="none")
    assert [word.word for word in some] == [word.word for word in words if word.entity != "O"]


def test_groups_can_be_ignored(encoder: Running) -> None:
    client = client_for(encoder, "acme/ner")
    assert client.token_classification("ada was born in london", ignore_labels=["PER"]) == []


@pytest.mark.parametrize("function", [None, "softmax", "sigmoid", "none"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_labels_come_by_score(encoder: Running, function: Any, top_k: int | None) -> None:
    text = "a fine film"
    found = client_for(encoder, "acme/mood").text_classification(
        text, function_to_apply=function, top_k=top_k
    )
    (logits,) = encoder.serving.runtime.logits([text], "acme/mood")
    functions: dict[Any, Any] = {"none": lambda x: x, "sigmoid": torch.sigmoid}
    scores = functions.get(function, lambda x: x.softmax(-1))(logits).tolist()
    expected = sorted(zip(LABELS["acme/mood"][1], scores, strict=True), key=lambda one: -one[1])[:top_k]
    assert [one.label for one in found] == [label for label, _ in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score in expected], rel=1e-4)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("labels", [["film", "city", "story"], ["film"]])
@pytest.mark.parametrize("template", [None, "she visited {} ."])
def test_zero_shot_is_transformers(
    encoder: Running, tiny_base: Path, tmp_path: Path, many: bool, labels: list[str], template: str | None
) -> None:
    text = "a great story in london"
    found = client_for(encoder, "acme/nli").zero_shot_classification(
        text, labels, multi_label=many, hypothesis_template=template
    )
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        tiny_base, num_labels=3, id2label=dict(enumerate(LABELS["acme/nli"][1]))
    )
    model.config.label2id = {label: index for index, label in enumerate(LABELS["acme/nli"][1])}
    folder = encoder.serving.hub.pull("acme/nli").path
    peft: Any = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    theirs = pipeline(
        "zero-shot-classification", model=peft.eval(), tokenizer=AutoTokenizer.from_pretrained(tiny_base)
    )(text, labels, multi_label=many, **({} if template is None else {"hypothesis_template": template}))
    assert [one.label for one in found] == theirs["labels"]
    assert [one.score for one in found] == pytest.approx(theirs["scores"], rel=1e-3)


@pytest.mark.parametrize("name", [None, "acme/vectors"])
@pytest.mark.parametrize("normalise", [None, True, False])
def test_features(encoder: Running, name: str | None, normalise: bool | None) -> None:
    model = name or encoder.serving.catalog.base_name
    texts = ["ada met bob", ODD]
    client = client_for(encoder, model)
    many = client.feature_extraction(texts, normalize=normalise)
    one = client.feature_extraction(texts[0], normalize=normalise)
    assert (many.shape, one.shape) == ((2, 64), (64,))
    np.testing.assert_allclose(one, many[0], rtol=1e-4, atol=1e-5)
    for text, vector in zip(texts, many, strict=True):
        (hidden,) = encoder.serving.runtime.logits([text], name)
        expected = hidden.mean(0) / (1 if normalise is False else hidden.mean(0).norm())
        np.testing.assert_allclose(vector, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_long_texts_are_cut_where_asked(encoder: Running) -> None:
    client, long = client_for(encoder, encoder.serving.catalog.base_name), "ada " * 100
    with pytest.raises(BadRequestError, match="longer than the 64 tokens"):
        client.feature_extraction(long)
    assert client.feature_extraction(long, truncate=True).shape == (64,)
    with pytest.raises(BadRequestError, match="truncation_direction"):
        client.feature_extraction(long, truncate=True, truncation_direction="left")


def test_similarity_is_the_cosine(server: Running, encoder: Running) -> None:
    for running, name in ((encoder, "acme/vectors"), (server, "acme/tone")):
        client = client_for(running, name)
        found = client.sentence_similarity("ada met bob", ["ada met bob", "a dull film"])
        first, second = (
            hidden.mean(0) for hidden in running.serving.runtime.logits(["ada met bob", "a dull film"], name)
        )
        expected = torch.nn.functional.cosine_similarity(first, second, dim=0)
        assert found == pytest.approx([1.0, float(expected)], rel=1e-3)


ADDRESSES = [
    "/models/acme/ner",
    "/models/acme/ner@v1",
    "/hf-inference/models/acme/ner",
    "/models/acme/ner/pipeline/token-classification",
    "/models/acme/ner/pipeline/ner",
    "/pipeline/token-classification/acme/ner",
    "/hf-inference/models/acme/ner/pipeline/token-classification",
]


@pytest.mark.parametrize("path", ADDRESSES)
def test_every_address_is_the_same_model(encoder: Running, path: str) -> None:
    status, found = post(encoder, path, {"inputs": "ada was born in london and met bob"})
    assert status == 200
    assert found == post(encoder, ADDRESSES[0], {"inputs": "ada was born in london and met bob"})[1]
    assert found[0]["entity_group"] == "PER"


def test_a_model_by_name_through_the_router(encoder: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client sends for a plain name, if the router's address is this server's."""
    from huggingface_hub.inference._providers import PROVIDERS, hf_inference

    monkeypatch.setattr(hf_inference, "_check_supported_task", lambda *_: None)
    client = InferenceClient(provider="hf-inference", api_key="none")
    for task in ("text-classification", "feature-extraction"):
        monkeypatch.setattr(PROVIDERS["hf-inference"][task], "base_url", f"{encoder.address}/hf-inference")
    assert client.text_classification("a film", model="acme/mood")[0].label in LABELS["acme/mood"][1]
    assert client.feature_extraction("a film", model="acme/vectors").shape == (64,)


def test_what_the_model_is(encoder: Running, server: Running) -> None:
    for running, name, task in (
        (encoder, "acme/ner", "token-classification"),
        (encoder, "acme/vectors", "feature-extraction"),
        (server, "acme/sql", "text-generation"),
    ):
        client = client_for(running, name, provider="hf-inference")
        assert client.health_check()
        info = client.get_endpoint_info()
        assert info["model_pipeline_tag"] == task
        assert info["model_id"].startswith(name)
    assert not client_for(encoder, "acme/none", provider="hf-inference").health_check()


def test_lists_of_texts(encoder: Running) -> None:
    texts = ["ada was born", "a film"]
    _, entities = post(encoder, "/models/acme/ner", {"inputs": texts})
    _, labels = post(encoder, "/models/acme/mood", {"inputs": texts})
    alone = [post(encoder, "/models/acme/ner", {"inputs": text})[1] for text in texts]
    for found, expected in zip(alone, entities, strict=True):
        # Products of more rows may round otherwise.
        scores = [entity.pop("score") for entity in expected]
        assert [entity.pop("score") for entity in found] == pytest.approx(scores, rel=1e-5)
        assert found == expected
    assert len(labels) == 2
    assert len(labels[0]) == 3


def test_a_task_that_the_adapter_does_not_have(encoder: Running, server: Running) -> None:
    ner, mood = client_for(encoder, "acme/ner"), client_for(encoder, "acme/mood")
    sql = client_for(server, "acme/sql")
    has = "It has token-classification"
    for call in (
        lambda: ner.question_answering("who", "ada was born"),
        lambda: ner.zero_shot_classification("ada", ["film"]),
        lambda: ner.feature_extraction("ada", normalize=True),
        lambda: ner.translation("ada", src_lang="en", tgt_lang="de"),
        lambda: ner.sentence_similarity("ada", ["bob"]),
    ):
        with pytest.raises(BadRequestError, match=has):
            call()
    with pytest.raises(BadRequestError, match="it has token-classification"):
        ner.image_classification(b"\x89PNG not really")
    with pytest.raises(BadRequestError, match="it has token-classification"):
        ner.automatic_speech_recognition(b"RIFF not really")
    with pytest.raises(BadRequestError, match="has text-classification"):
        mood.zero_shot_classification("ada", ["film"])
    with pytest.raises(BadRequestError, match="has text-generation, feature-extraction"):
        sql.zero_shot_classification("ada", ["film"])
    with pytest.raises(BadRequestError, match="'parameters.truncation' is not taken here"):
        mood.summarization("ada", truncation="longest_first")
    for task in ("summarization", "text-generation", "fill-mask", "../x", "token-classification"):
        status, refused = post(
            encoder, f"/models/acme/mood/pipeline/{quote(task, safe='')}", {"inputs": "ada"}
        )
        assert status in (400, 404)
        assert status == 404 or "It has text-classification" in refused["error"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/models/acme/ner", {"inputs": ""}, "no word"),
        ("/models/acme/ner", {"inputs": " \n"}, "no word"),
        ("/models/acme/mood", {"inputs": ""}, "empty"),
        ("/models/acme/mood", {"inputs": ["ada", ""]}, "text 1 is empty"),
        ("/models/acme/mood", {"inputs": []}, "there is no text"),
        ("/models/acme/mood", {"inputs": ["ada"] * 2049}, "at most 2048"),
        ("/models/acme/mood", {"inputs": "ada " * 1_000_000}, "4,000,000 characters"),
        ("/models/acme/mood", {"inputs": 3}, "inputs"),
        ("/models/acme/mood", {"inputs": [["ada"]]}, "inputs"),
        ("/models/acme/mood", {"inputs": None}, "inputs"),
        ("/models/acme/mood", {}, "inputs"),
        ("/models/acme/mood", [], "must be one JSON object"),
        ("/models/acme/mood", "ada", "must be one JSON object"),
        ("/models/acme/mood", {"inputs": "ada", "parameters": []}, "parameters"),
        ("/models/acme/mood", {"inputs": "ada", "parameters": {"top_k": 0}}, "top_k"),
        ("/models/acme/mood", {"inputs": "ada", "parameters": {"top_k": "2"}}, "top_k"),
        ("/models/acme/mood", {"inputs": "ada", "parameters": {"top_k": 1.5}}, "top_k"),
        (
            "/models/acme/mood",
            {"inputs": "ada", "parameters": {"top_p": 1}},
            "'parameters.top_p' is not taken",
        ),
        ("/models/acme/mood", {"inputs": "ada", "wait": True}, "'wait' is not taken"),
        ("/models/acme/mood", b'{"inputs": "ada", "parameters": {"top_k": NaN}}', "NaN"),
        ("/models/acme/mood", b'{"inputs": "ada", "inputs": "bob"}', "inputs"),
        ("/models/acme/mood", b'{"inputs": "ada \\ud83d"}', "UTF-8"),
        ("/models/acme/mood", b'{"inputs": "\xff"}', "UTF-8"),
        ("/models/acme/mood", b"[" * 100_000, "nested too deeply"),
        ("/models/acme/mood", b"", "not valid JSON"),
        ("/models/acme/ner", {"inputs": "ada", "parameters": {"aggregation_strategy": "max"}}, "aggregation"),
        ("/models/acme/ner", {"inputs": "ada", "parameters": {"stride": 2}}, "stride"),
        ("/models/acme/ner", {"inputs": "ada", "parameters": {"adapter_id": "acme/mood"}}, "adapter_id"),
        ("/models/acme/nli", {"inputs": "ada", "parameters": {"candidate_labels": []}}, "candidate_labels"),
        (
            "/models/acme/nli",
            {"inputs": "ada", "parameters": {"candidate_labels": ["a", ""], "hypothesis_template": "{}"}},
            "text 1 is empty",
        ),
        (
            "/models/acme/nli",
            {"inputs": "ada", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "no"}},
            "hypothesis_template",
        ),
        (
            "/models/acme/nli",
            {"inputs": "ada", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "{}, {}"}},
            "Write {} once",
        ),
        (
            "/models/acme/nli",
            {"inputs": "ada", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "{}" * 513}},
            "at most 1024",
        ),
        (
            "/models/acme/nli",
            {"inputs": "ada", "parameters": {"candidate_labels": ["a"] * 2049}},
            "at most 2048",
        ),
        (
            "/models/acme/vectors",
            {"inputs": {"source_sentence": "ada", "sentences": ["ada"] * 2048}},
            "at most 2047",
        ),
        (
            "/models/acme/vectors",
            {"inputs": "ada", "prompt_name": "title"},
            "prompt_name: Input should be 'query' or 'passage'",
        ),
        ("/models/acme/vectors", {"inputs": "ada", "dimensions": 3}, "dimensions = 3"),
        ("/models/acme/vectors", {"inputs": "ada", "encoding_format": "base64"}, "encoding_format"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_refused(encoder: Running, path: str, body: Any, words: str) -> None:
    status, refused = post(encoder, path, body)
    assert status == 400, refused
    assert words in refused["error"]
    assert refused["error_type"] == "validation"


@pytest.mark.parametrize(
    ("name", "parameters", "work"),
    [
        ("acme/ner", {}, "_groups"),
        ("acme/ner", {"aggregation_strategy": "none"}, "_words"),
        ("acme/mood", {}, "_scores"),
        ("acme/nli", {"candidate_labels": ["film", "city"]}, "_sorted"),
        ("acme/vectors", None, "pooled"),
    ],
)
def test_answers_are_made_on_threads_and_so_are_large_bodies_read(
    encoder: Running, monkeypatch: pytest.MonkeyPatch, name: str, parameters: Any, work: str
) -> None:
    """Not on the event loop, where everybody else would wait for them."""
    ran = []

    def noted(module: Any, function: str) -> None:
        real = getattr(module, function)

        def noting(*arguments: Any, **options: Any) -> Any:
            ran.append((function, threading.current_thread().name == "server"))
            return real(*arguments, **options)

        monkeypatch.setattr(module, function, noting)

    noted(inference, "parse_json_object")
    noted(inference_tasks, work)
    for padding, on_loop in ((0, True), (1 << 16, False)):
        body = {"inputs": "ada was born"} | ({} if parameters is None else {"parameters": parameters})
        status, _ = post(encoder, f"/models/{name}", json.dumps(body).encode() + b" " * padding)
        assert status == 200
        assert ran == [("parse_json_object", on_loop), (work, False)]
        ran.clear()


NOWHERE: Sequence[str] = (
    "/models/acme/none",
    "/models/../../etc/passwd",
    "/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/models//etc/passwd",
    "/models/acme/ner@v9",
    "/models/hf::acme/ner",
    "/models/acme/ner/",
    "/models/",
    "/models/%00",
    "/models/acme%0d%0aX-Evil:1/ner",
    "/pipeline/ner/acme/none",
)


@pytest.mark.parametrize("path", NOWHERE)
def test_models_that_are_not_there(encoder: Running, path: str) -> None:
    status, refused = post(encoder, path, {"inputs": "ada"})
    assert status in (400, 404, 405)
    assert refused["error"]


def test_the_client_reads_our_errors(encoder: Running) -> None:
    with pytest.raises(HfHubHTTPError, match="acme/none"):
        client_for(encoder, "acme/none").text_classification("ada")
