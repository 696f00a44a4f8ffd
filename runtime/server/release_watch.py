"""Counts candidates' answers for their releases, and says so where one broke its rule.

Does not choose who answers (catalog does).
"""

from __future__ import annotations

import asyncio
import logging

from adapthub.runtime.server.observation import Observation
from adapthub.runtime.server.releases import Sample, is_fault
from adapthub.runtime.server.serving import Serving

_LOG = logging.getLogger(__name__)


def watch(serving: Serving) -> None:
    """From now on every answer that a canary's candidate gave counts."""

    def observer(observation: Observation) -> None:
        if observation.target.release is None or observation.outcome == "cancelled":
            return
        fault = is_fault(observation.error)
        if observation.error is None or fault:  # what a client or others did says nothing of the candidate
            sample = Sample(fault, observation.ttft, observation.seconds)
            count(serving, observation.target.release, sample)

    serving.observers.append(observer)


def count(serving: Serving, release: str, sample: Sample) -> None:
    """One answer of a release's candidate ended."""
    ended = serving.catalog.releases.count(release, sample)
    if ended is not None:
        _LOG.warning("release %s of %s was rolled back: %s", ended.id, ended.label, ended.reason)
        serving.spawn(asyncio.to_thread(serving.catalog.releases.save))
