"""The one exception tree of AdaptHub.

    AdaptHubError
    ├── InvalidInput (ValueError)             the caller's own words, files or options
    │   ├── InvalidReference                  `[hub::]namespace/name[@revision]` that does not parse
    │   ├── InvalidExpression                 `0.7*a + 0.3*b` that does not parse, or whose terms cannot be summed
    │   ├── InvalidData                       a data file: names file, line, column, label
    │   └── InvalidSettings                   an option, a hyperparameter, a quantisation that does not work here
    ├── NotFound (LookupError)
    │   ├── BaseNotFound                      no such base model
    │   ├── AdapterNotFound                   no such namespace/name in this hub
    │   ├── RevisionNotFound                  the name exists, the version, alias or commit does not
    │   └── EntryNotFound                     the revision exists, this file of it does not
    ├── Conflict (FileExistsError)            a name, version or folder that is taken
    ├── ArtifactError (ValueError)            an adapter folder that cannot be used
    │   ├── AdmissionError                    outside the policy: file, field, header, bound, path
    │   ├── IntegrityError                    bytes differ from their digest
    │   ├── SignatureError                    not signed by a key that is trusted, or not these files
    │   ├── TensorMismatch                    a tensor left over, missing, or of another shape
    │   ├── BaseMismatch                      trained on another base than the one loaded
    │   └── UnsupportedAdapter                a method or field that this runtime does not compute
    ├── OutOfMemory (MemoryError)             device or host memory: says what to change
    ├── Overloaded (RuntimeError)             more requests than the queue takes: try again later
    ├── Unauthorized (PermissionError)        no key, or one that is unknown, expired or revoked
    ├── Forbidden (PermissionError)           a known caller that may not do this
    ├── RateLimited (RuntimeError)            a tenant's requests or tokens a minute: says when to try again
    │   └── QuotaExceeded                     a tenant's tokens a month
    ├── StorageError (OSError)                disk full, read-only, unreachable: nothing was half-written
    │   └── Unreachable                       a hub that does not answer, or not in time
    ├── SamplingError (RuntimeError)          logits or a grammar that leave no token to choose
    ├── TrainingError (RuntimeError)          a run that cannot work or went wrong (no gradient, NaN loss)
    ├── TrainingInterrupted (RuntimeError)    Ctrl-C: the checkpoint is kept and named
    └── MissingDependency (ImportError)       an optional library, and how to install it

Every message says what was wrong, where, and what to do. The command line prints it as one line with exit code 2;
servers answer it as JSON. This module does not log, translate or decide exit codes.
"""

from __future__ import annotations


class AdaptHubError(Exception):
    """Base of every error that AdaptHub raises on purpose.

    `message` says what was wrong and where; `hint`, if given, says what to do. `str()` joins them into one line.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        self.message = message
        self.hint = hint
        super().__init__(message if hint is None else f"{message.rstrip('.')}. {hint}")


class InvalidInput(AdaptHubError, ValueError):
    """The caller's own words, files or options."""


class InvalidReference(InvalidInput):
    """A reference that does not parse."""


class InvalidExpression(InvalidInput):
    """An expression that does not parse, or whose terms cannot be summed."""


class InvalidData(InvalidInput):
    """A data file that cannot be used; the message names file and line."""


class InvalidSettings(InvalidInput):
    """An option or hyperparameter that cannot work."""


class NotFound(AdaptHubError, LookupError):
    """Something named that is not there."""


class BaseNotFound(NotFound):
    """No such base model."""


class AdapterNotFound(NotFound):
    """No such adapter in this hub."""


class RevisionNotFound(NotFound):
    """The adapter exists; this version, alias or commit does not."""


class EntryNotFound(NotFound):
    """The revision exists; this file of it does not. `commit`: the 40 hex digits that the revision means, where known."""

    def __init__(self, message: str, *, commit: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.commit = commit


class Conflict(AdaptHubError, FileExistsError):
    """A name, version or folder that is already taken."""


class ArtifactError(AdaptHubError, ValueError):
    """An adapter folder that cannot be used."""


class AdmissionError(ArtifactError):
    """An artifact outside the admission policy."""


class IntegrityError(ArtifactError):
    """Bytes that differ from their recorded digest."""


class SignatureError(ArtifactError):
    """A signature that is missing, damaged, by a key that is not trusted, or over other files."""


class TensorMismatch(ArtifactError):
    """A tensor that is left over, missing, or of another shape."""


class BaseMismatch(ArtifactError):
    """An adapter trained on another base than the one loaded."""


class UnsupportedAdapter(ArtifactError):
    """A method or configuration field that this runtime does not compute."""


class OutOfMemory(AdaptHubError, MemoryError):
    """Device or host memory ran out; the hint says what to change."""


class Overloaded(AdaptHubError, RuntimeError):
    """More requests wait than the queue takes; the same request may be sent again later."""


class Unauthorized(AdaptHubError, PermissionError):
    """No key, or one that is unknown, expired or revoked."""


class Forbidden(AdaptHubError, PermissionError):
    """A known caller that may not do this."""


class RateLimited(AdaptHubError, RuntimeError):
    """A tenant asked for more than its share; `retry_after`: seconds until the same request may pass."""

    def __init__(self, message: str, *, retry_after: float = 1.0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class QuotaExceeded(RateLimited):
    """A tenant used all tokens of this month."""


class StorageError(AdaptHubError, OSError):
    """The disk or blob store failed; nothing was half-written."""


class Unreachable(StorageError):
    """A hub that does not answer, or not in time; what is in the cache still works."""


class SamplingError(AdaptHubError, RuntimeError):
    """Logits or a grammar that leave no token to choose: this request ends, others go on."""


class TrainingError(AdaptHubError, RuntimeError):
    """A training run that cannot work or went wrong."""


class TrainingInterrupted(AdaptHubError, RuntimeError):
    """Training was interrupted; the checkpoint is kept and the message says how to resume."""


class MissingDependency(AdaptHubError, ImportError):
    """An optional library that is not installed."""
