"""Pictures by Hugging Face's own client and by strangers: what Runtime finds, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import InferenceClient
from PIL import Image

from adapthub.adapters.artifact import Artifact, write_artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidInput, InvalidSettings
from adapthub.adapters.manifest import BaseRecord, Manifest
from adapthub.hub import open_hub
from adapthub.runtime import Runtime
from adapthub.runtime.server.lifecycle import Running
from adapthub.runtime.server.serving import ServerLimits
from tests.adapters.picture_bases import expected_logits, lora_config, save_adapter, write_base
from tests.runtime.server.live import live, settings_for

LABELS = {"acme/pets": ("cat", "dog", "owl"), "acme/weather": ("rain", "sun")}


@pytest.fixture(autouse=True)
def reaches_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests are offline; this client then refuses to ask even this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base") / "resnet", "resnet")


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of each name, what PEFT wrote and a manifest says."""
    folder, fingerprint, written = tmp_path_factory.mktemp("adapters"), load_base(str(base)).fingerprint, {}
    for seed, (name, labels) in enumerate(LABELS.items()):
        plain = save_adapter(
            base, folder / f"{seed}", lora_config(["convolution"]), labels=len(labels), seed=seed
        )
        read, path = Artifact.read(plain), folder / f"{seed}-named"
        manifest = Manifest(
            task="image-classification",
            labels=labels,
            base=BaseRecord(id=str(base), fingerprint=fingerprint),
            method="lora",
        )
        write_artifact(path, manifest=manifest, card="card\n", config=read.config, tensors=read.tensors())
        written[name] = path
    return written


@pytest.fixture(scope="module")
def server(
    base: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    hub = open_hub(tmp_path_factory.mktemp("hub"))
    for name, path in adapters.items():
        hub.push(Artifact.read(path), name, alias="prod")
    with live(settings_for(base, server=ServerLimits(picture_bytes=200_000)), hub) as running:
        yield running


def picture(colour: Any = (200, 30, 90), size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format)
    return stream.getvalue()


def client_for(server: Running, name: str) -> InferenceClient:
    return InferenceClient(model=f"{server.address}/models/{name}")


def post(server: Running, path: str, body: bytes, type: str) -> tuple[int, Any]:
    request = urllib.request.Request(server.address + path, body, {"Content-Type": type})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("given", ["bytes", "file"])
def test_the_client_gets_what_peft_computes(
    server: Running, base: Path, adapters: dict[str, Path], name: str, given: str, tmp_path: Path
) -> None:
    path = tmp_path / "some.png"
    path.write_bytes(picture())
    found = client_for(server, name).image_classification(
        path.read_bytes() if given == "bytes" else str(path)
    )
    processor = server.serving.runtime.base.processor
    assert processor is not None
    pixels = processor(Image.open(path), return_tensors="pt")["pixel_values"][0]
    (logits,) = expected_logits(base, adapters[name], [pixels], labels=len(LABELS[name]))
    expected = sorted(zip(logits.softmax(-1).tolist(), LABELS[name], strict=True), reverse=True)
    assert [one.label for one in found] == [label for _, label in expected]
    assert [one.score for one in found] == pytest.approx([score for score, _ in expected], rel=1e-4)


def test_parameters(server: Running) -> None:
    client = client_for(server, "acme/pets@prod")
    whole = client.image_classification(picture())
    assert [one.label for one in client.image_classification(picture(), top_k=2)] == [
        one.label for one in whole[:2]
    ]
    (raw,) = server.serving.runtime.logits([picture()], "acme/pets")
    for function, expected in (("sigmoid", raw.sigmoid()), ("none", raw), ("softmax", raw.softmax(-1))):
        found = client.image_classification(picture(), function_to_apply=function)  # type: ignore[arg-type]
        scores = {one.label: one.score for one in found}
        assert [scores[label] for label in LABELS["acme/pets"]] == pytest.approx(expected.tolist(), rel=1e-4)


def test_many_formats_and_addresses(server: Running) -> None:
    for format in ("JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        status, found = post(
            server,
            "/models/acme/pets/pipeline/image-classification",
            picture(format=format),
            f"image/{format}",
        )
        assert (status, len(found)) == (200, 3), found


def bomb() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))


BROKEN = {
    "damaged": (picture(size=(300, 300), format="JPEG")[:900], "is damaged"),
    "text": (b"hello", "is not a picture that is read here"),
    "empty": (b"", "is not a picture that is read here"),
    "a bomb": (bomb(), "more than 100,000,000 pixels"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_does_not_decode_is_the_senders_fault(server: Running, kind: str) -> None:
    body, reason = BROKEN[kind]
    in_json = json.dumps({"inputs": base64.b64encode(body).decode()}).encode()
    for sent, type in ((body, "image/png"), (in_json, "application/json")):
        status, answer = post(server, "/models/acme/pets", sent, type)
        assert (status, answer["error_type"]) == (400, "validation")
        assert reason in answer["error"]


def test_bodies_are_bounded_and_checked(server: Running) -> None:
    large = picture() + bytes(200_000)
    assert post(server, "/models/acme/pets", large, "image/png")[0] == 413
    for body, reason in (
        ({"inputs": "%%%"}, "inputs is not base64"),
        ({"inputs": 3}, "inputs"),
        ({"inputs": "", "parameters": {"top_k": 0}}, "top_k"),
        ({"inputs": "", "more": 1}, "'more' is not taken here"),
    ):
        status, answer = post(server, "/models/acme/pets", json.dumps(body).encode(), "application/json")
        assert status == 400
        assert reason in answer["error"]
    status, answer = post(server, "/models/acme/pets/pipeline/text-classification", picture(), "image/png")
    assert (status, "It has image-classification" in answer["error"]) == (400, True)
    name = server.serving.catalog.base_name
    status, answer = post(server, f"/models/{name}", picture(), "image/png")
    assert (status, "the base alone has no classes" in answer["error"]) == (400, True), answer


def test_a_name_in_a_body_is_no_file_of_the_servers(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(picture())
    status, answer = post(
        server, "/models/acme/pets", json.dumps({"inputs": str(path)}).encode(), "application/json"
    )
    assert (status, answer["error_type"]) == (400, "validation")


def test_mixed_adapters_in_one_call(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "some.png"
    path.write_bytes(picture((0, 255, 0)))
    inputs: Sequence[Any] = [path, picture(), Image.new("L", (9, 9), 100), picture()]
    pets, weather = (str(adapters[name]) for name in LABELS)
    with Runtime(str(base), device="cpu") as runtime:
        mixed = runtime.logits(inputs, [pets, weather, f"0.5*{pets}", None])
        assert [tuple(one.shape) for one in mixed] == [(3,), (2,), (3,), (24, 2, 2)]
        for one, given, name in zip(mixed, inputs, (pets, weather, f"0.5*{pets}", None), strict=True):
            alone = runtime.logits([given], [name])[0]
            assert torch.allclose(one, alone, atol=1e-5)
        with pytest.raises(InvalidInput, match="input 0 is a str, not a picture"):
            runtime.predict(["some.png"], pets)
        with pytest.raises(InvalidInput, match=r"nowhere\.png: No such file"):
            runtime.predict([Path("nowhere.png")], pets)


def test_a_plain_peft_folder_gets_numbered_labels(base: Path, tmp_path: Path) -> None:
    plain = save_adapter(base, tmp_path / "plain", lora_config(["convolution"]), labels=2)
    with Runtime(str(base), device="cpu") as runtime:
        (found,) = runtime.predict([picture()], plain)
    assert (found.task, set(found.scores)) == ("image-classification", {"LABEL_0", "LABEL_1"})


def test_pictures_for_a_base_of_texts(tiny_base: Path, tmp_path: Path) -> None:
    with Runtime(str(tiny_base), device="cpu") as runtime:
        with pytest.raises(InvalidInput, match="text 0 is bytes, not str"):
            runtime.predict([b"a text"])
        with pytest.raises(InvalidInput, match="text 0 is a picture, not str"):
            runtime.predict([tmp_path / "some.png"])


def test_a_base_without_a_processor(base: Path, tmp_path: Path) -> None:
    import shutil

    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    (bare / "preprocessor_config.json").unlink()
    with (
        Runtime(str(bare), device="cpu") as runtime,
        pytest.raises(InvalidSettings, match="has no image processor"),
    ):
        runtime.predict([picture()])
