"""Runs that a launcher starts in two processes. Started itself, it is one of them, and does the runs of a JSON file.

A run is {"task", "data", "output", ...arguments of train}, with "sharded": whether the base lies in parts, and "stop":
after which step the second process alone gets SIGINT. What each run came to stands in `said-<run>-<process>.json`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def launch(runs: Sequence[Mapping[str, Any]], folder: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What both processes say of each run."""
    script = folder / "runs.json"
    script.write_text(json.dumps(runs, default=str))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        __file__,
    ]
    ended = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / '.src'}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    said = [
        [json.loads((folder / f"said-{at}-{who}.json").read_text()) for who in "01"]
        for at in range(len(runs))
    ]
    return [(first, second) for first, second in said]


def held_bytes(model: Any) -> int:
    """Bytes of the parameters that lie in this process."""
    here = [getattr(parameter, "_local_tensor", parameter) for parameter in model.parameters()]
    return sum(tensor.numel() * tensor.element_size() for tensor in here)


def _train(run: dict[str, Any]) -> dict[str, Any]:
    from transformers import TrainerCallback

    from adapthub.adapters.errors import AdaptHubError
    from adapthub.recipes import train

    held: list[int] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            held.append(held_bytes(given["model"]))
            if (state.global_step, os.environ["RANK"]) == (stop, "1"):
                signal.raise_signal(signal.SIGINT)

    task, data, stop = run.pop("task"), run.pop("data"), run.pop("stop", None)
    os.environ["ACCELERATE_USE_FSDP"] = str(run.pop("sharded", False)).lower()
    try:
        result = train(task, data, callbacks=[Watch()], **run)
    except AdaptHubError as error:
        return {"error": str(error), "kind": type(error).__name__}
    metrics = {
        split: {name: one.value for name, one in found.items()} for split, found in result.metrics.items()
    }
    return {"digest": result.artifact.digest, "metrics": metrics, "held": held}


def main() -> None:
    script = Path(sys.argv[1])
    for at, run in enumerate(json.loads(script.read_text())):
        script.with_name(f"said-{at}-{os.environ['RANK']}.json").write_text(json.dumps(_train(run)))


if __name__ == "__main__":
    main()
