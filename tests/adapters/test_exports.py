"""What `adapthub.adapters` exports exists, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import adapthub.adapters


def test_every_export_is_there() -> None:
    for name in adapthub.adapters.__all__:
        assert getattr(adapthub.adapters, name).__module__.startswith("adapthub.adapters.")
    assert set(adapthub.adapters.__all__) <= set(dir(adapthub.adapters))
    assert not hasattr(adapthub.adapters, "nothing_of_that_name")


def test_importing_the_package_and_its_light_modules_loads_no_heavy_library() -> None:
    code = (
        "import sys, adapthub.adapters, adapthub.adapters.errors, adapthub.adapters.home\n"
        "import adapthub.adapters.samples\n"
        "heavy = {'torch', 'transformers', 'numpy', 'bitsandbytes', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_core_does_not_need_what_a_bare_gpu_image_lacks() -> None:
    absent = ("pydantic", "sqlalchemy", "seqeval", "rich", "platformdirs")
    code = (
        f"import sys\nfor name in {absent}: sys.modules[name] = None\n"
        "import adapthub.adapters.base, adapthub.adapters.doctor, adapthub.adapters.sources\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
