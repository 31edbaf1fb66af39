"""Raised: what an exception means that one of fsspec's implementations raised, of whatever library is below it.

Of a request that shows an object only an answer says for certain that nothing was stored. These libraries try again by
themselves, and of what they raise in the end some know that they got no answer and some do not say: so everything that
is no refusal leaves open whether the object is there, and whoever asked has to read it to find out.
"""

from __future__ import annotations

import errno

from asyncckpt.errors import ObjectExists, ObjectNotFound, OutcomeUnknown, StorageDenied, StorageError, TransientError
from asyncckpt.storage.bucket.faults import Fault, answered
from asyncckpt.storage.reasons import Around, translate

_REFUSED = (ObjectExists, ObjectNotFound, StorageDenied)
_FORBIDDEN = "Forbidden"
_END = "\n"

_LOST = frozenset(
    {
        "ChunkedEncodingError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "ContentDecodingError",
        "IncompleteReadError",
        "ServiceRequestError",
        "ServiceResponseError",
        "Timeout",
        "TimeoutError",
        "TransportError",
    }
)
"""What aiohttp, requests and the clouds' own clients call a connection that failed; none of them is imported here."""


def translated(what: str, *, shows: bool = False) -> Around:
    """Around calls about `what`: whatever an implementation raises is raised as an error of this package.

    With `shows` the call may have an object appear, and is `OutcomeUnknown` unless it was refused.
    """

    def meant(error: BaseException) -> StorageError | None:
        if isinstance(error, StorageError) or not isinstance(error, Exception):
            return None
        found, is_refused = _meant(error, what)
        if not shows or is_refused:
            return found
        return OutcomeUnknown(errno.EIO, f"{what}: whether it was stored is not known: {_said(error)}")

    return Around(meant)


def _meant(error: Exception, what: str) -> tuple[StorageError, bool]:
    """The same as this package raises it, and whether it says for certain that nothing was done."""
    cause = error.__cause__
    if type(error) in (RuntimeError, ValueError) and isinstance(cause, Exception):  # as adlfs has it
        return _meant(cause, what)
    if (fault := _answer(error)) is not None:
        return fault.error(what), not fault.applied
    if _LOST & {kind.__name__ for kind in type(error).__mro__}:
        return TransientError(errno.EAGAIN, f"{what}: {_said(error)}"), False
    if isinstance(error, OSError):
        meant = _error_of(error, what)
        return meant, isinstance(meant, _REFUSED)
    return StorageError(errno.EPROTO, f"{what}: {_said(error)}"), False


def _answer(error: Exception) -> Fault | None:
    """What the store has answered, where `error` holds its status: as Azure's client has it, gcsfs, or aiohttp."""
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "code"):
            status = getattr(holder, name, None)
            if isinstance(status, str) and status.isdigit():
                status = int(status)
            if isinstance(status, int) and 400 <= status < 600:
                return answered(str(getattr(error, "error_code", None) or ""), status, _said(error))
    return None


def _error_of(error: OSError, what: str) -> StorageError:
    """As `translate`, also where the implementation gave no number."""
    match error:
        case FileNotFoundError():
            return ObjectNotFound(errno.ENOENT, f"{what}: there is no such object")
        case FileExistsError():
            return ObjectExists(errno.EEXIST, f"{what}: there is an object of that name")
        case PermissionError():
            return StorageDenied(errno.EACCES, f"{what}: access denied ({error}); give other credentials, or rights")
        case OSError(errno=None) if str(error).startswith(_FORBIDDEN):  # as gcsfs has it
            return StorageDenied(errno.EACCES, f"{what}: access denied ({error}); give other credentials, or rights")
        case OSError(errno=None | errno.EIO):  # what an implementation makes of any answer that it does not know
            return StorageError(errno.EPROTO, f"{what}: {error}")
        case _:
            return translate(error, what)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(_END)[0]}"
