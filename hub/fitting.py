"""Whether an adapter fits the base that it names, as a hub finds at its publish: from its header and the base's record.

The base is the one with the fingerprint that the manifest has; where no such base is known, one that is called as the
adapter says. One that nobody recorded is unknown, and refuses nothing. Stores nothing (knowledge).
"""

from __future__ import annotations

from adapthub.adapters.base_record import KnownBase
from adapthub.adapters.description import Description
from adapthub.adapters.errors import TensorMismatch
from adapthub.adapters.fingerprint import Fingerprint
from adapthub.adapters.fit import check_fit
from adapthub.hub import bases
from adapthub.hub.registry import UNKNOWN, Fit
from adapthub.hub.store import Store

_NAMESAKES = 8
_REGISTER = "If it was trained on that one, record it here: adapt hub base add."


def fit_of(store: Store, adapter: Description) -> Fit:
    """Raises TensorMismatch, naming the tensor, where one does not land on the base."""
    trained_on = adapter.base_fingerprint
    with store.database.reading() as session:
        same = None if trained_on is None else bases.with_fingerprint(session, trained_on.digest)
        named = (
            () if same or not adapter.base_ref else bases.called(session, adapter.base_ref, most=_NAMESAKES)
        )
    if same is not None:
        check_fit(same, adapter.config, adapter.shapes)
        return Fit("fits", same.fingerprint.digest, ())
    refusal: TensorMismatch | None = None
    for base in named:
        differences = _differences(trained_on, base)
        try:
            check_fit(base, adapter.config, adapter.shapes)
        except TensorMismatch as error:
            refusal = refusal or _of_another(error, differences)
        else:
            return Fit("fits", base.fingerprint.digest, differences)
    if refusal is not None:
        raise refusal
    return UNKNOWN


def _differences(trained_on: Fingerprint | None, base: KnownBase) -> tuple[str, ...]:
    if trained_on is None:
        return ()
    return tuple(trained_on.difference(base.fingerprint, names=("when trained", "here")))


def _of_another(error: TensorMismatch, differences: tuple[str, ...]) -> TensorMismatch:
    """The same error, saying that the adapter was trained on a base of other contents, where it was."""
    if not differences:
        return error
    return TensorMismatch(
        f"{error.message}; it was trained on another base: {'; '.join(differences)}", hint=_REGISTER
    )
