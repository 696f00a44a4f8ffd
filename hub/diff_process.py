"""A process of its own that compares two adapters: `python -m adapthub.hub.diff_process FOLDER DIGEST FOLDER DIGEST`.

Prints one JSON document: `adapters.diff.difference_record`, or {"error": [name, message, hint]} for what it refuses. So a
server needs no torch in its memory, and one comparison that takes too much ends alone (differ).
"""

from __future__ import annotations

import json
import sys

from adapthub.adapters.artifact import Artifact
from adapthub.adapters.diff import difference, difference_record
from adapthub.adapters.errors import AdaptHubError


def main(before: str, before_digest: str, after: str, after_digest: str) -> None:
    """Compare the adapters in two folders, which must have these digests."""
    try:
        first = Artifact.read(before, expected_digest=before_digest)
        second = Artifact.read(after, expected_digest=after_digest)
        document = difference_record(difference(first, second))
    except AdaptHubError as error:
        document = {"error": [type(error).__name__, error.message, error.hint]}
    sys.stdout.write(json.dumps(document, separators=(",", ":")))


if __name__ == "__main__":
    main(*sys.argv[1:])
