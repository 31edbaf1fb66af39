"""Reasons: what an error of obstore means. It says most in its message alone: the store's answer, or what broke."""

from __future__ import annotations

import re

from asyncckpt.storage.bucket.faults import CREDENTIALS, Fault, answered, told
from asyncckpt.storage.s3 import reasons

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>|\(code: ")
_BROKE = re.compile(r"HttpError \{\s*kind: (\w+)")
_CAUSE = re.compile(r'message: "([^"]*)"')
_LONGEST = 300
_EMULATED = "this server knows only the other interface of Google's store; give storage_options backend='fsspec'"
"""Emulators do, and say it by an error of that one."""


def fault_of(error: Exception) -> Fault:
    """What `error` means, raised by obstore or on the way to it."""
    said, found, details = str(error).partition("\n\nDebug source:\n")
    if not found:
        return reasons.fault_of(error)
    if "redential provider" in said:
        return Fault("denied", "CredentialRetrievalError", f"the credentials could not be had; {CREDENTIALS} ({said})")
    if "169.254.169.254" in said or "metadata.google.internal" in said:
        return Fault("denied", "NoCredentialsError", f"no credentials were found; {CREDENTIALS} ({said[:_LONGEST]})")
    if "Wanted range starting at" in said:  # Azure answers as if there were one
        return Fault("range", "range", said)
    status = _STATUS.search(said)
    if "redirect without LOCATION" in said:
        return answered("PermanentRedirect", 301, said[:_LONGEST])
    if status is not None or _CODE.search(said) is not None:
        return _answered(0 if status is None else int(status[1]), said)
    return _unanswered(said, details)


def _answered(status: int, said: str) -> Fault:
    if "invalid uploadType" in said:
        return Fault("denied", "NotImplemented", f"{_EMULATED} ({said[:_LONGEST]})")
    return told(status, said)


def _unanswered(said: str, details: str) -> Fault:
    broke, cause = _BROKE.search(details), _CAUSE.search(details)
    said = said[:_LONGEST] + (f": {cause[1]}" if cause is not None else "")
    if "InvalidCertificate" in details:
        return Fault("denied", "SSLError", f"{reasons.UNTRUSTED} ({said})")
    match broke[1] if broke is not None else None:
        case None:
            return Fault("other", "obstore", said, applied=True)
        case "Connect":
            return Fault("transient", "unreachable", f"{said}; check the network, and endpoint_url")
        case "Timeout":
            return Fault("transient", "timeout", f"the store did not answer in time ({said})", applied=True)
        case _ if "body error" in said:
            return Fault("transient", "damaged", f"the answer was cut short: {said}", applied=True)
        case _:
            return Fault("transient", "reset", f"the connection broke: {said}", applied=True)
