"""Pictures read in every form that people have them in, and adapters trained, measured and served on them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import InvalidData, InvalidSettings
from adapthub.adapters.methods import method_settings
from adapthub.adapters.tasks import IMAGE_CLASSIFICATION
from adapthub.hub.embedded import EmbeddedHub
from adapthub.recipes import compare, evaluate, plan, train
from adapthub.recipes.adaptation import adapt
from adapthub.recipes.catalog import find_recipe
from adapthub.recipes.data.pictures import PictureDataset
from adapthub.recipes.images import ImageRecipe
from adapthub.recipes.picture_rows import Augmentation, PictureRows
from adapthub.recipes.run import Run
from adapthub.recipes.splits import read_splits
from adapthub.runtime import Runtime
from tests.adapters.picture_bases import expected_logits, write_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

COLOURS = {"blue": (40, 60, 220), "green": (30, 200, 60), "red": (210, 40, 40)}
SHORT: dict[str, Any] = {"batch_size": 6, "max_steps": 20, "learning_rate": 1e-2, "quiet": True}


def write_picture(path: Path, colour: str, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (20, 24, 3))
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders train, validation and test of class folders; green is rare."""
    root = tmp_path_factory.mktemp("colours")
    for start, (split, counts) in enumerate(
        {"train": (14, 5, 14), "validation": (6, 3, 6), "test": (5, 3, 5)}.items()
    ):
        for colour, count in zip(COLOURS, counts, strict=True):
            for number in range(count):
                write_picture(root / split / colour / f"{number}.png", colour, 1000 * start + number)
    return root


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: write_base(root / family, family) for family in ("vit", "resnet")}


def read(source: Any, **options: Any) -> PictureDataset:
    dataset = find_recipe("image").read(source, **options)
    assert isinstance(dataset, PictureDataset)
    return dataset


def seen(dataset: PictureDataset) -> list[tuple[str, str]]:
    return sorted((example.fields["image"], example.fields["label"]) for example in dataset)


def test_a_row_of_a_table_that_is_not_labelled_is_no_row_of_the_last_class(colours: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
    )
    picture = {"bytes": next((colours / "test").rglob("*.png")).read_bytes(), "path": None}
    rows = datasets.Dataset.from_list([{"image": picture, "label": -1}], features=features)
    with pytest.raises(InvalidData, match="row 1: the label in column 'label' is -1"):
        read(rows)


def test_one_set_of_pictures_in_every_form(colours: Path, tmp_path: Path) -> None:
    folder = colours / "test"
    expected = seen(read(folder))
    assert len(expected) == 13
    paths = sorted(folder.rglob("*.png"))
    table = [{"file_name": str(path.relative_to(folder)), "label": path.parent.name} for path in paths]
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"{r['file_name']},{r['label']}\n" for r in table)
    )
    (copy / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(COLOURS))}
    )
    rows = [{"image": path.read_bytes(), "label": path.parent.name} for path in paths]
    of_library = datasets.Dataset.from_list(
        [{"image": {"bytes": row["image"], "path": None}, "label": row["label"]} for row in rows],
        features=features,
    )
    of_library.to_parquet(str(tmp_path / "pictures.parquet"))
    stream = of_library.to_iterable_dataset()
    for source in (copy, copy / "list.jsonl", of_library, stream, tmp_path / "pictures.parquet", rows):
        found = read(source)
        assert seen(found) == expected, source
        assert {example.fields["image"]: len(found.bytes_of(example)) for example in found} == {
            example.fields["image"]: len(Path(example.path).read_bytes()) for example in read(folder)
        }
    # Pillow's own images have lost their file's bytes.
    opened = read(
        [
            {"image": Image.fromarray(np.asarray(Image.open(path))), "label": path.parent.name}
            for path in paths
        ]
    )
    assert sorted(label for _, label in seen(opened)) == sorted(label for _, label in expected)


def test_where_a_picture_is_from(colours: Path, tmp_path: Path) -> None:
    assert read(colours / "test")[0].source == str(colours / "test" / "blue" / "0.png")
    table = tmp_path / "list.csv"
    table.write_text(f"path,diagnosis\n{colours}/test/red/0.png,red\n{colours}/test/blue/0.png,blue\n")
    assert read(table)[1].source == f"{table}:3"


def test_ids_that_stand_twice_in_a_table_of_pictures_are_said(colours: Path) -> None:
    paths = sorted((colours / "test").rglob("*.png"))[:3]
    rows = [
        {"image": path.read_bytes(), "label": path.parent.name, "id": at % 2} for at, path in enumerate(paths)
    ]
    assert read(rows).notes == (
        "1 rows have the id of an earlier one: 0 stands at data:row 1 and data:row 3",
    )
    assert read(rows[:2]).notes == ()


def test_no_patient_stands_on_both_sides_of_a_split(colours: Path, tmp_path: Path) -> None:
    """Also where the first row's is unknown: that row stands alone."""
    paths = sorted((colours / "train").rglob("*.png"))
    rows = [
        {"image": path.read_bytes(), "diagnosis": path.parent.name, "Patient": number % 10 or None}
        for number, path in enumerate(paths)
    ]
    recipe = find_recipe("medical-image")
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "pictures.parquet"))
    for source in (rows, tmp_path / "pictures.parquet"):
        splits, notes = read_splits(recipe, source)
        found = [{e.fields["group"] for e in split if "group" in e.fields} for split in splits.values()]
        assert found[0] | found[1] == {str(number) for number in range(1, 10)}
        assert not found[0] & found[1]
        assert any(
            note.endswith("chosen by their content; rows of one Patient stay together") for note in notes
        )
    _, notes = read_splits(recipe, rows[:-2], validation=rows[-2:])
    assert "validation: 2 of 2 rows have their Patient in common with the training split" in notes
    named = [{**row, "clinic": "ab"[at % 2]} for at, row in enumerate(rows)]
    dataset = recipe.read(named, group_column="clinic")
    assert dataset.columns["group"] == "clinic"
    assert {e.fields["group"] for e in dataset} == {"a", "b"}
    with pytest.raises(InvalidData, match="no column 'clinc'; .*Did you mean 'clinic'"):
        recipe.read(named, group_column="clinc")
    plain = [{"image": row["image"], "diagnosis": row["diagnosis"]} for row in rows]
    assert [e.input_digest for e in recipe.read(plain)] == [e.input_digest for e in dataset]


def test_patients_of_dicom_files_are_told_by_their_ids(tmp_path: Path) -> None:
    """Where no column says it; an id is kept as a digest. One id for all is none."""
    pytest.importorskip("pydicom")
    from tests.adapters.test_dicom import RAMP, dicom

    def write(folder: Path, patients: Sequence[str]) -> Path:
        for at, patient in enumerate(patients):
            path = folder / ("well", "ill")[at % 2] / f"{at}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(dicom(RAMP + np.uint16(at), PatientID=patient))
        return folder

    recipe = find_recipe("medical-image")
    several = write(tmp_path / "several", [f"p{at // 3}" for at in range(30)] + ["", ""])
    read, notes = read_splits(recipe, several)
    first, second = ({e.fields.get("group") for e in split} - {None} for split in read.values())
    assert len(first | second) == 10
    assert not first & second
    assert not any("p1" in str(e.fields) for split in read.values() for e in split)
    assert any(note.endswith("by their content; rows of one PatientID stay together") for note in notes)
    other = write(tmp_path / "other", ["p1", "p2", "new", "", ""])
    _, notes = read_splits(recipe, several, validation=other, test=other)
    assert any(
        note.startswith("validation:") and "their PatientID in common with the training" in note
        for note in notes
    )
    read, notes = read_splits(recipe, write(tmp_path / "one", ["anonymous"] * 30))
    assert len(read["validation"]) == 3
    assert any(
        note.endswith("all have one PatientID, so who has pictures on both sides is not known")
        for note in notes
    )
    assert not any("in common" in note for note in notes)
    table = [
        {"image": path.read_bytes(), "label": path.parent.name, "patient": "ab"[at % 2]}
        for at, path in enumerate(sorted(several.rglob("*.dcm")))
    ]
    assert {e.fields["group"] for e in recipe.read(table)} == {"a", "b"}


def test_pictures_that_cannot_be_used_are_named_before_anything_runs(colours: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colours / "test", tmp_path / "broken"))
    whole = (folder / "red" / "0.png").read_bytes()
    (folder / "red" / "0.png").write_bytes(whole[: len(whole) // 2])
    (folder / "blue" / "notes.txt").write_text("hello")
    for number in range(6):
        (folder / "green" / f"empty{number}.png").write_bytes(b"")
    (folder / "green" / ".hidden").write_text("left by a file manager")
    with pytest.raises(InvalidData) as caught:
        read(folder)
    assert "8 of 20 pictures cannot be used" in str(caught.value)
    assert "notes.txt is not a picture" in str(caught.value)
    assert "and 3 more" in str(caught.value)
    for path in [*folder.glob("green/empty*"), folder / "blue" / "notes.txt"]:
        path.unlink()
    with pytest.raises(InvalidData, match=r"1 of 13 .*red/0\.png is damaged"):
        read(folder)
    table = tmp_path / "list.csv"
    table.write_text("image,label\nnowhere.png,red\n")
    with pytest.raises(InvalidData, match=r"list\.csv:2: .*nowhere\.png: No such file"):
        read(table)
    table.write_text("image,label\n,red\n")
    with pytest.raises(InvalidData, match=r"list\.csv:2: the picture in column 'image' is empty"):
        read(table)
    table.write_text(f"image,label\n{colours}/test/red/0.png,\n")
    with pytest.raises(InvalidData, match=r"list\.csv:2: the label in column 'label' is empty"):
        read(table)
    with pytest.raises(InvalidData, match="no folders of classes"):
        read(folder / "red")
    with pytest.raises(
        InvalidData, match=r"row 1: the picture in column 'image' is int, not a path or bytes"
    ):
        read([{"image": 3, "label": "red"}])


def test_links_lead_to_pictures_and_what_lies_beside_the_classes_is_said(
    colours: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(colours / "test", tmp_path / "linked"))
    (folder / "red").rename(tmp_path / "elsewhere")
    (folder / "red").mkdir()
    (folder / "red" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder / "red")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "blue" / name).write_text("left by a file manager")
    shutil.copy(folder / "blue" / "0.png", folder / "loose.png")
    found = read(folder)
    assert seen(found) == seen(read(colours / "test"))
    assert found.notes == (
        f"1 pictures lie in no folder of a class and are not read, the first {folder / 'loose.png'}",
    )
    (folder / "green" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InvalidData, match=r"1 of 14 pictures cannot be used: .*gone\.png: No such file"):
        read(folder)


def test_two_tables_of_one_folder_are_refused(colours: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colours / "test", tmp_path / "two"))
    for name in ("metadata.csv", "metadata.jsonl"):
        (folder / name).write_text("")
    with pytest.raises(InvalidData, match=r"metadata\.csv and metadata\.jsonl could both say"):
        read(folder)


@pytest.mark.parametrize(
    ("cell", "said"), [("A" * 5000, "File name too long"), ("a\0b", "embedded null byte")]
)
def test_a_cell_that_is_no_path_is_named_and_not_shown_whole(cell: str, said: str) -> None:
    with pytest.raises(InvalidData, match=rf"data:row 1: ?.*{said}") as caught:
        read([{"image": cell, "label": "a"}])
    assert len(str(caught.value)) < 400


def test_scans_of_twelve_bits_are_told(tmp_path: Path) -> None:
    rows = []
    for shift in (0, 4, 4):
        values = np.random.default_rng(shift).integers(0, 65535, (4, 4)).astype(np.uint16) >> shift
        rows.append({"image": Image.fromarray(values), "label": str(shift)})
    (note,) = ImageRecipe().read(rows).notes
    assert note.startswith(
        "2 of 3 pictures hold at most 12 bits in 16 and are read nearly black or white, the first data:row 2"
    )
    assert not ImageRecipe().read(rows[:1]).notes


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_files_of_several_pictures_are_told(kind: str) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in COLOURS.values()]
    one, several = io.BytesIO(), io.BytesIO()
    pages[0].save(one, kind)
    pages[0].save(several, kind, save_all=True, append_images=pages[1:])
    rows = [{"image": file.getvalue(), "label": "a"} for file in (one, several)]
    assert ImageRecipe().read(rows).notes == (
        "1 of 2 files hold several pictures, of which the first is read, as data:row 2",
    )


def test_a_picture_that_changes_while_it_trains_is_noticed(colours: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(colours / "test", tmp_path / "changing"))
    dataset = read(folder)
    write_picture(folder / "blue" / "0.png", "red", 9)
    with pytest.raises(InvalidData, match=r"blue/0\.png: the picture has changed"):
        dataset.bytes_of(dataset[0])
    (folder / "blue" / "0.png").unlink()
    with pytest.raises(InvalidData, match=r"blue/0\.png: No such file"):
        dataset.bytes_of(dataset[0])


def test_folders_of_classes_without_pictures_are_said(colours: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(colours / "test", tmp_path / "copy")
    (folder / "pink").mkdir()
    (folder / "grey").mkdir()
    (folder / "grey" / ".DS_Store").write_bytes(b"x")
    (folder / ".cache").mkdir()
    assert read(folder).notes == ("folders of classes without pictures: 'grey', 'pink'",)
    for number in range(6):
        (folder / f"b{number}").mkdir()
    assert read(folder).notes[0].endswith("'b0', 'b1', 'b2', 'b3', 'b4' and 3 more")


def test_one_class_alone_and_labels_that_are_none(colours: Path) -> None:
    recipe = find_recipe("image")
    one = read([{"image": path, "label": "x"} for path in sorted((colours / "test" / "red").glob("*.png"))])
    with pytest.raises(InvalidData, match="every row has the label 'x'"):
        recipe.labels(one)
    with pytest.raises(InvalidData, match=r"red/0\.png: label 'red' is not in the training data"):
        recipe.check(read(colours / "test"), ("blue", "green"))


def test_rows_are_decoded_when_asked_for_and_few_are_kept(colours: Path, bases: dict[str, Path]) -> None:
    processor = load_base(str(bases["vit"]), device="cpu").processor
    assert processor is not None
    dataset = read(colours / "train")
    reads: list[str] = []

    def counting(digest: str) -> Callable[[], bytes]:
        def read_it() -> bytes:
            reads.append(digest)
            return dataset.files[digest]()

        return read_it

    counted = {digest: counting(digest) for digest in dataset.files}
    watched = PictureDataset(dataset.examples, dataset.source, dataset.columns, files=counted)
    size = 3 * 20 * 24
    rows = PictureRows(watched, [0] * len(watched), processor, cache_bytes=2 * size)
    assert rows.lengths == [1] * len(dataset)
    assert reads == []
    assert rows[3]["pixel_values"].shape == (3, 32, 32)
    assert rows[3]["pixel_values"].dtype == torch.float32
    assert len(reads) == 1
    for at in (4, 5, 5, 4):
        _ = rows[at]
    assert len(reads) == 3
    _ = rows[3]  # the first to leave
    assert len(reads) == 4
    assert torch.equal(rows[2:5][1]["pixel_values"], rows[3]["pixel_values"])


def test_augmentation_is_a_function_of_seed_epoch_and_row(colours: Path, bases: dict[str, Path]) -> None:
    processor = load_base(str(bases["vit"]), device="cpu").processor
    assert processor is not None
    rows = PictureRows(read(colours / "train"), [0] * 33, processor)

    def epoch(number: int, seed: int = 0, **options: Any) -> list[torch.Tensor]:
        changed = rows.augmented(Augmentation(**({"crop": 0.5, "flip": True, "seed": seed} | options)))
        changed.set_epoch(number)
        return [changed[at]["pixel_values"] for at in (0, 1)]

    first = epoch(0)
    assert all(torch.equal(*pair) for pair in zip(first, epoch(0), strict=True))
    for other in (epoch(1), epoch(0, seed=1), [rows[at]["pixel_values"] for at in (0, 1)]):
        assert not any(torch.equal(*pair) for pair in zip(first, other, strict=True))
    plain, mirrored = rows[0]["pixel_values"], rows[0]["pixel_values"].flip(-1)
    found = [epoch(number, crop=1.0)[0] for number in range(12)]
    kinds = [("flipped" if torch.allclose(one, mirrored, atol=1e-5) else "plain") for one in found]
    assert all(torch.allclose(one, mirrored, atol=1e-5) or torch.equal(one, plain) for one in found)
    assert set(kinds) == {"flipped", "plain"}


@pytest.mark.parametrize(
    ("task", "labels", "flips"),
    [
        ("image", ["cat", "dog"], True),
        ("image", ["0", "10"], False),
        ("medical-image", ["cat", "dog"], False),
    ],
)
def test_what_is_turned_around_by_default(
    task: str, labels: Sequence[str], flips: bool, colours: Path
) -> None:
    recipe = find_recipe(task)
    paths = sorted((colours / "train").rglob("*.png"))
    rows = [{"image": path, "label": labels[at % 2]} for at, path in enumerate(paths)]
    resolved = recipe.resolve(None, recipe.read(rows), max_length=0)  # type: ignore[arg-type]
    assert resolved["flip"] is flips
    assert recipe.resolve(None, recipe.read(rows, flip=not flips), max_length=0)["flip"] is not flips  # type: ignore[arg-type]


def test_options_that_cannot_work(colours: Path) -> None:
    with pytest.raises(InvalidSettings, match="crop is a share above 0"):
        read(colours / "test", crop=1.5)
    with pytest.raises(InvalidSettings, match="flip is true or false"):
        read(colours / "test", flip="maybe")


@pytest.mark.parametrize("method", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_trained_published_pulled_and_served(
    family: str, method: str, bases: dict[str, Path], colours: Path, tmp_path: Path
) -> None:
    base = load_base(str(bases[family]), device="cpu")
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    hub = EmbeddedHub()
    settings = {**SHORT, "method": method, "precision": "fp32"}
    result = train(
        "image",
        colours,
        base=base,
        output=tmp_path / "run",
        name="acme/colours",
        hub=hub,
        push=True,
        **settings,
    )
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in base.model.modules())
    assert result.metrics["test"]["accuracy"].value > 0.8
    assert result.artifact.labels == tuple(COLOURS)
    manifest = result.artifact.manifest
    assert manifest is not None
    assert (manifest.task, manifest.hyperparameters["crop"]) == ("image-classification", 0.6)

    measured = evaluate(result.artifact, colours / "test", base=base)
    assert measured.metrics["accuracy"].value == result.metrics["test"]["accuracy"].value

    paths = sorted((colours / "test").rglob("*.png"))
    inputs: list[Any] = [paths[0], paths[1].read_bytes(), Image.open(paths[2])]
    with Runtime(base, hub=hub) as runtime:
        served = runtime.logits(inputs, "acme/colours")
        found = runtime.predict(inputs, "acme/colours")
        assert [one.label for one in found] == ["blue"] * 3
        assert sum(found[0].scores.values()) == pytest.approx(1)
    assert base.processor is not None
    pixels = [base.processor(Image.open(path), return_tensors="pt")["pixel_values"][0] for path in paths[:3]]
    theirs = expected_logits(bases[family], result.artifact.path, pixels, labels=3)
    for ours, one in zip(served, theirs, strict=True):
        assert (ours - one).abs().max() / one.abs().max() < 1e-5


def test_batch_normalisation_stays_as_it_is_served(bases: dict[str, Path]) -> None:
    base = load_base(str(bases["resnet"]), device="cpu")
    adaptation = adapt(
        base, IMAGE_CLASSIFICATION, ("a", "b"), "lora", method_settings("lora", IMAGE_CLASSIFICATION)
    )

    def means() -> list[torch.Tensor]:
        layers = [module for module in base.model.modules() if isinstance(module, nn.BatchNorm2d)]
        return [layer.running_mean.clone() for layer in layers if layer.running_mean is not None]

    before = means()
    pixels = torch.randn(4, 3, 32, 32)
    adaptation.model.eval()
    with torch.no_grad():
        expected = adaptation.model(pixel_values=pixels).logits
    adaptation.model.train()
    assert torch.equal(adaptation.model(pixel_values=pixels).logits, expected)
    adaptation.release()
    assert before
    assert all(torch.equal(*pair) for pair in zip(before, means(), strict=True))


def test_which_layers_an_adapter_goes_under() -> None:
    """All convolutions over all channels that are wider than the rank."""
    from transformers import AutoModelForImageClassification

    from adapthub.recipes.adaptation import target_modules
    from tests.adapters.picture_bases import FAMILIES

    model = AutoModelForImageClassification.from_config(FAMILIES["efficientnet"])
    found = target_modules(model, "all-linear", ("classifier",), rank=8)
    assert "efficientnet.encoder.blocks.1.expansion.expand_conv" in found
    assert not any("depthwise" in name or "classifier" in name for name in found)
    assert "efficientnet.encoder.blocks.1.squeeze_excite.reduce" not in found  # four channels
    chosen = target_modules(model, ["expand_conv"], ("classifier",), rank=8)
    assert all(name.endswith("expand_conv") for name in chosen)
    with pytest.raises(InvalidSettings, match="no linear layer is named 'q_proj'"):
        target_modules(model, ["q_proj"], ("classifier",), rank=8)


def test_medical_pictures(bases: dict[str, Path], colours: Path, tmp_path: Path) -> None:
    """Green is the rare finding among red: weighed in the loss, the last label, and what sensitivity is of."""
    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        for colour in ("green", "red"):
            shutil.copytree(colours / split / colour, data / split / colour)
    result = train("medical-image", data, base=str(bases["vit"]), output=tmp_path / "run", **SHORT)
    assert result.artifact.labels == ("red", "green")
    manifest = result.artifact.manifest
    assert manifest is not None
    assert manifest.hyperparameters["class_weights"] == [19 / (2 * 14), 19 / (2 * 5)]
    measured = result.metrics["test"]
    assert {"balanced_accuracy", "auroc", "sensitivity", "specificity", "ece"} <= measured.keys()
    assert measured["balanced_accuracy"].value > 0.8
    assert measured["sensitivity"].value == measured["sensitivity/green"].value
    run = Run(tmp_path / "run", {}, {}, "")
    with Image.open(run.reliability) as drawn:
        assert drawn.size == (552, 504)
    assert (result.artifact.path / "reliability.png").read_bytes() == run.reliability.read_bytes()


def test_findings_are_compared_by_what_the_first_adapter_calls_one(
    bases: dict[str, Path], colours: Path, tmp_path: Path
) -> None:
    """Which label is the finding is decided by what was rare in training, and may differ."""
    counts = {"green": (5, 14), "red": (14, 5)}
    made = []
    for at in (0, 1):
        rows = [
            {"image": str(path), "label": colour}
            for colour in counts
            for path in (
                sorted((colours / "train" / colour).iterdir()) + sorted((colours / "test" / colour).iterdir())
            )[: counts[colour][at]]
        ]
        given = {
            **SHORT,
            "max_steps": 1,
            "learning_rate": 1e-6,
            "head_learning_rate": 1e-6,
            "validation": False,
        }
        made.append(
            train("medical-image", rows, base=str(bases["vit"]), output=tmp_path / f"{at}", **given).artifact
        )
    assert [one.labels for one in made] == [("red", "green"), ("green", "red")]
    data = [
        {"image": str(path), "label": colour}
        for colour in counts
        for path in sorted((colours / "validation" / colour).iterdir())
    ]
    found = compare(made[0], made[1], data)
    alone = [evaluate(one, data).metrics for one in made]
    for name in ("sensitivity/green", "sensitivity/red", "auroc", "balanced_accuracy"):
        one = found.metrics[name]
        assert (one.first, one.second) == tuple(metrics[name].value for metrics in alone)
    assert found.metrics["sensitivity"].second != alone[1]["sensitivity"].value
    assert found.metrics["sensitivity"] == found.metrics["sensitivity/green"]
    assert found.metrics["specificity"] == found.metrics["specificity/green"]


def test_the_loss_is_weighed_by_class() -> None:
    """Alike however rows fall into batches: one without a finding counts for less."""
    recipe: Any = find_recipe("medical-image")
    logits, targets = torch.tensor([[1.0, 0.0], [0.2, 0.4]]), torch.tensor([0, 1])
    loss = recipe.loss(logits, {"labels": targets}, {"class_weights": [0.5, 3.0]})
    each = nn.functional.cross_entropy(logits, targets, reduction="none")
    assert float(loss) == pytest.approx(float((0.5 * each[0] + 3 * each[1]) / 2))
    apart = [
        recipe.loss(logits[[at]], {"labels": targets[[at]]}, {"class_weights": [0.5, 3.0]}) for at in (0, 1)
    ]
    assert float(loss) == pytest.approx(float(sum(apart) / 2))


def test_a_plan_of_pictures(bases: dict[str, Path], colours: Path) -> None:
    planned = plan("image", colours, base=str(bases["resnet"]))
    assert planned.labels == tuple(COLOURS)
    assert planned.samples[0].rows[0][1] == "read as 32 x 32"
    assert planned.estimated_memory > planned.base_bytes


def test_a_base_that_reads_no_pictures(tiny_base: Path, colours: Path) -> None:
    with pytest.raises(InvalidSettings, match="has no image processor, which image needs"):
        plan("image", colours, base=str(tiny_base))


def test_a_resumed_run_sees_what_an_unbroken_one_does(
    bases: dict[str, Path], colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of an epoch: the pictures after it are changed as they would have been."""
    begun, set_epoch = [], PictureRows.set_epoch

    def told(rows: PictureRows, epoch: int) -> None:
        begun.append(epoch)
        set_epoch(rows, epoch)

    monkeypatch.setattr(PictureRows, "set_epoch", told)
    whole = train(
        "image", colours, base=str(bases["vit"]), output=tmp_path / "whole", **SHORT | {"eval_steps": 7}
    )
    assert [*dict.fromkeys(begun)] == [0, 1, 2, 3]  # each is told more than once
    checkpoints = sorted((tmp_path / "whole" / "checkpoints").iterdir())
    copy = Path(shutil.copytree(tmp_path / "whole", tmp_path / "copy"))
    for path in (copy / "checkpoints").iterdir():
        if path.name != min(checkpoints, key=lambda one: int(one.name.partition("-")[2])).name:
            shutil.rmtree(path)
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"state": "started"}))
    again = train("image", colours, base=str(bases["vit"]), resume=copy, **SHORT | {"eval_steps": 7})
    left, right = (Artifact.read(result.artifact.path).tensors() for result in (whole, again))
    assert all(torch.equal(value, right[name]) for name, value in left.items())
