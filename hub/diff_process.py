"""A process of its own that compares two adapters: `python -m adapthub.hub.diff_process FOLDER DIGEST FOLDER DIGEST`.

Prints one JSON document: `adapters.diff.difference_record`, or {"error": [name, message, hint]} for what it refuses. So a
server needs no torch in its memory, and one comparison that takes too much ends alone (differ): it has so much memory and so
many seconds of a processor, also when its server is no longer there.
"""

from __future__ import annotations

import json
import sys

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.diff import difference, difference_record
from adapthub.adapters.errors import AdaptHubError

MEMORY_BYTES = 8 * 2**30
"""Of addresses, libraries and mapped files included."""
_SECONDS = 300


def main(before: str, before_digest: str, after: str, after_digest: str) -> None:
    """Compare the adapters in two folders, which must have these digests."""
    _bound()
    try:
        first = Artifact.read(before, expected_digest=before_digest)
        second = Artifact.read(after, expected_digest=after_digest)
        document = difference_record(difference(first, second))
    except AdaptHubError as error:
        document = {"error": [type(error).__name__, error.message, error.hint]}
    sys.stdout.write(json.dumps(document, separators=(",", ":")))


def _bound() -> None:
    try:
        import resource
    except ImportError:  # Windows has none
        return
    for kind, most in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CPU, _SECONDS)):
        _, hard = resource.getrlimit(kind)
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


if __name__ == "__main__":
    main(*sys.argv[1:])
