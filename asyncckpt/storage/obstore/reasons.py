"""Reasons: what an error of obstore means. It says most in its message alone: the store's answer, or what broke."""

from __future__ import annotations

import re

from asyncckpt.storage.bucket.faults import CREDENTIALS, Fault, answered
from asyncckpt.storage.s3 import reasons

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_SAID = re.compile(r"<Message>([^<]*)")
_BROKE = re.compile(r"HttpError \{\s*kind: (\w+)")
_CAUSE = re.compile(r'message: "([^"]*)"')
_LONGEST = 300

_SAME = {
    "ContainerNotFound": "NoSuchBucket",
    "BlobNotFound": "NoSuchKey",
    "BlobAlreadyExists": "PreconditionFailed",
    "ServerBusy": "SlowDown",
    "AuthenticationFailed": "SignatureDoesNotMatch",
    "AccountIsDisabled": "AllAccessDisabled",
}
"""Azure's words, in S3's."""


def fault_of(error: Exception) -> Fault:
    """What `error` means, raised by obstore or on the way to it."""
    said, found, details = str(error).partition("\n\nDebug source:\n")
    if not found:
        return reasons.fault_of(error)
    if "redential provider" in said:
        return Fault("denied", "CredentialRetrievalError", f"the credentials could not be had; {CREDENTIALS} ({said})")
    if "169.254.169.254" in said or "metadata.google.internal" in said:
        return Fault("denied", "NoCredentialsError", f"no credentials were found; {CREDENTIALS} ({said[:_LONGEST]})")
    status, code = _STATUS.search(said), _CODE.search(said)
    if "redirect without LOCATION" in said or (status is not None and status[1] in ("301", "307")):
        return answered("PermanentRedirect", 301, said[:_LONGEST])
    if status is not None or code is not None:
        word = code[1] or code[2] if code is not None else status[1] if status is not None else ""
        message = _SAID.search(said)
        number = int(status[1]) if status is not None else 0
        return answered(_SAME.get(word, word), number, message[1] if message is not None else said[:_LONGEST])
    return _unanswered(said, details)


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
