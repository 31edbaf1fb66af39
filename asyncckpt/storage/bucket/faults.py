"""Faults: what a failed request means, whether it is worth another try, and what a person can do about it."""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from asyncckpt.errors import ObjectExists, ObjectNotFound, StorageDenied, StorageError, TransientError

Kind: TypeAlias = Literal["transient", "missing", "exists", "no_upload", "range", "denied", "other"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One failed attempt."""

    kind: Kind
    reason: str
    """In one word, for counting: ``slow_down``, ``timeout``, ``reset``, ..."""
    message: str
    applied: bool = False
    """Whether it may have been carried out all the same."""

    def error(self, what: str) -> StorageError:
        """The same as this package raises it, about `what`."""
        match self.kind:
            case "transient":
                return TransientError(errno.EAGAIN, f"{what}: {self.message}")
            case "missing":
                return ObjectNotFound(errno.ENOENT, f"{what}: there is no such object")
            case "exists":
                return ObjectExists(errno.EEXIST, f"{what}: there is an object of that name")
            case "denied":
                return StorageDenied(errno.EACCES, f"{what}: {self.message}")
            case _:
                return StorageError(errno.EPROTO, f"{what}: {self.message}")


_SLOW = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "RequestThrottled"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted"}
_DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"}
_MISSING = {"NoSuchKey", "404", "NotFound"}

CREDENTIALS = "give others (storage_options key=, secret=, token=, the environment, or a profile)"
_DENIED = {
    "NoSuchBucket": "there is no bucket of that name; create it, or correct the URL or endpoint_url",
    "InvalidBucketName": "that is no name for a bucket; correct the URL",
    "ExpiredToken": f"the credentials have expired; renew them, or {CREDENTIALS}",
    "TokenRefreshRequired": f"the credentials have expired; renew them, or {CREDENTIALS}",
    "InvalidToken": f"the session token is not valid; {CREDENTIALS}",
    "InvalidAccessKeyId": f"the store does not know this access key; {CREDENTIALS}",
    "SignatureDoesNotMatch": f"the store does not accept this secret key; {CREDENTIALS}",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the store's; set it (NTP)",
    "RequestExpired": "this machine's clock differs too much from the store's; set it (NTP)",
    "AccessDenied": "access denied; let these credentials get, put, list, delete and abort uploads below this root, or "
    "give others",
    "AllAccessDisabled": "the store has disabled all access to this bucket; ask its owner",
    "AccountProblem": "the store refuses this account; ask its owner",
    "QuotaExceeded": "the quota is used up; free some space, have it raised, or keep fewer checkpoints",
    "InsufficientCapacity": "the store is full; free some space, or keep fewer checkpoints",
    "PermanentRedirect": "the bucket is in another region; give storage_options client_kwargs={'region_name': ...}",
    "AuthorizationHeaderMalformed": "the bucket is in another region; give storage_options client_kwargs="
    "{'region_name': ...}",
    "NotImplemented": "the store does not know this request",
}

_ABORTED = "this upload was aborted by somebody else, most likely a newer start of this run, which then owns the run"

RENEWABLE = {"ExpiredToken", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId", "400"}
"""What new credentials end: the next request asks for them. The last is what S3 says of the first to a HEAD, whose
answer has no words.
"""


_SAME = {
    "ContainerNotFound": "NoSuchBucket",
    "BlobNotFound": "NoSuchKey",
    "BlobAlreadyExists": "PreconditionFailed",
    "ServerBusy": "SlowDown",
    "AuthenticationFailed": "SignatureDoesNotMatch",
    "AccountIsDisabled": "AllAccessDisabled",
}
"""Azure's words, in S3's."""


def answered(code: str, status: int, said: str) -> Fault:
    """What the store means that answered with this `status` and, where it named one, this error `code`."""
    code = _SAME.get(code, code)
    said = f"the store answered {code or status}: {said}"
    if code in _SLOW or status == 429 or (status == 503 and code in ("503", "ServiceUnavailable", "")):
        return Fault("transient", "slow_down", said, applied=status == 503)
    if code in _CONFLICT:
        return Fault("transient", "conflict", said)
    if code in _DAMAGED:
        return Fault("transient", "damaged", said)
    if code == "RequestTimeout":
        return Fault("transient", "timeout", said)
    if status >= 500 and code not in _DENIED:
        return Fault("transient", "server_error", said, applied=True)
    return _refused(code, status, said)


_CODE = re.compile(r"<Code>(\w+)</Code>|\(code: (\w+)\)")
_SAID = re.compile(r"<Message>([^<]*)")
_LONGEST = 300


def told(status: int, said: str) -> Fault:
    """What the store means that answered with this `status`; `said` holds the body of the answer."""
    if status in (301, 307):
        return answered("PermanentRedirect", 301, said[:_LONGEST])
    code, message = _CODE.search(said), _SAID.search(said)
    word = code[1] or code[2] if code is not None else str(status)
    return answered(word, status, message[1] if message is not None else said[:_LONGEST])


def _refused(code: str, status: int, said: str) -> Fault:
    if code in _DENIED:
        return Fault("denied", code, f"{_DENIED[code]} ({said})")
    if code in _MISSING or (status == 404 and not code):
        return Fault("missing", "missing", said)
    if code == "NoSuchUpload":
        return Fault("no_upload", code, f"{_ABORTED} ({said})")
    if code == "PreconditionFailed" or status == 412:
        return Fault("exists", "exists", said)
    if code == "InvalidRange" or status == 416:
        return Fault("range", "range", said)
    if status in (401, 403):
        return Fault("denied", "AccessDenied", f"{_DENIED['AccessDenied']} ({said})")
    return Fault("other", code or str(status), said)
