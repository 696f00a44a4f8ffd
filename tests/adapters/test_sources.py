"""Where bases are found: folders, packages, samples, the Hub's cache; near names where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapthub.adapters import sources
from adapthub.adapters.base import load_base
from adapthub.adapters.errors import BaseNotFound, InvalidInput
from adapthub.adapters.samples import SAMPLES
from adapthub.adapters.sources import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path, where packages can be put."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def install(site: Path, package: str, base: Path, *inside: str) -> None:
    """What pip leaves behind of a package that ships models."""
    root = site / package
    root.mkdir()
    (root / "__init__.py").write_text("raise RuntimeError('a package is not imported to be looked into')\n")
    for name in inside:
        shutil.copytree(base, root / name, dirs_exist_ok=True)
    information = site / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.0\n"
    )
    files = [path.relative_to(site) for path in root.rglob("*") if path.is_file()]
    (information / "RECORD").write_text("".join(f"{path},,\n" for path in files))


@pytest.mark.parametrize("name", ["tiny-bert", "tiny_bert"])
def test_a_model_that_an_installed_package_ships(site: Path, tiny_base: Path, name: str) -> None:
    install(site, "tiny_bert", tiny_base, "model")
    location = locate(f"package:{name}")
    assert location.path == site / "tiny_bert" / "model"
    assert not location.own
    before = sorted(site.rglob("*"))
    assert load_base(f"package:{name}").ref == f"package:{name}"
    assert sorted(site.rglob("*")) == before


def test_a_package_with_several_models_lists_them(site: Path, tiny_base: Path) -> None:
    install(site, "two_models", tiny_base, "small", "large")
    with pytest.raises(InvalidInput, match=r"ships several models: .*large, .*small\. Name one"):
        locate("package:two_models")


def test_a_package_without_a_model(site: Path) -> None:
    with pytest.raises(BaseNotFound, match=r"installed package pytest ships no config\.json"):
        locate("package:pytest")


def test_an_unknown_package_suggests_near_names() -> None:
    with pytest.raises(BaseNotFound, match="Did you mean 'minilm'"):
        locate("package:minilmm")


def test_a_sample_is_fetched_by_its_name_or_its_packages(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(name: str) -> Path:
        fetched.append(name)
        return tiny_base

    monkeypatch.setattr(sources, "fetch", fetch)
    assert locate("package:minilm").path == tiny_base
    assert locate("package:GT_all.MiniLM_l6-v2").path == tiny_base
    assert fetched == ["minilm", "minilm"]
    with pytest.raises(BaseNotFound, match="'conll2003'"):
        locate("package:conll2003")
    assert SAMPLES["conll2003"].kind == "data"


def test_a_relative_folder(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_base.parent)
    assert locate(tiny_base.name).path == tiny_base
    assert locate(f"./{tiny_base.name}").path == tiny_base
    with pytest.raises(BaseNotFound, match=f"Did you mean '{tiny_base.name}'"):
        locate(f"./{tiny_base.name}x")


def test_a_folder_that_holds_an_adapter_is_not_a_base(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base, tmp_path / "mixed"))
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(BaseNotFound, match="holds an adapter, not a base model"):
        locate(str(folder))


def test_an_empty_folder_is_not_a_base(tmp_path: Path) -> None:
    with pytest.raises(BaseNotFound, match=r"has no config\.json"):
        locate(str(tmp_path))


@pytest.mark.parametrize("ref", ["what is this", "a/b/c", "", "-x", "org/", "package:", "package:../x"])
def test_what_is_no_reference_at_all(ref: str) -> None:
    with pytest.raises(BaseNotFound):
        locate(ref)


def test_a_hub_model_out_of_reach_names_the_alternatives() -> None:
    with pytest.raises(BaseNotFound, match=r"Hub .* out of reach\. .*package:minilm"):
        locate("org/nothing-here")


def test_a_hub_model_in_the_cache(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Laid out as huggingface_hub keeps it; found offline, and its folder is not written to."""
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(tiny_base, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    before = sorted(repository.rglob("*"))
    base = load_base("org/tiny")
    assert base.revision == COMMIT
    assert locate("org/tiny", COMMIT).path == snapshot
    assert sorted(repository.rglob("*")) == before
    with pytest.raises(BaseNotFound):
        locate("org/tiny", "other")


@pytest.mark.parametrize(
    ("ref", "meant"),
    [
        ("minilm", "package:minilm"),
        ("MiniLM", "package:minilm"),
        ("minlm", "package:minilm"),
        ("sentence-transformers/all-MiniLM-L6-v2", "package:minilm"),
        ("HuggingFaceTB/SmolLM2-135M", "package:smollm2-135m"),
        ("my-bass", "my-base"),
    ],
)
def test_a_name_that_is_near_a_model_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-base").mkdir()
    with pytest.raises(BaseNotFound) as caught:
        locate(ref)
    assert caught.value.hint == f"Did you mean {meant}?"
