"""Reasons: what a failed request means, whether it is worth another try, and what a person can do about it."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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

_CREDENTIALS = "give others (storage_options key=, secret=, token=, the environment, or a profile)"
_DENIED = {
    "NoSuchBucket": "there is no bucket of that name; create it, or correct the URL or endpoint_url",
    "InvalidBucketName": "that is no name for a bucket; correct the URL",
    "ExpiredToken": f"the credentials have expired; renew them, or {_CREDENTIALS}",
    "TokenRefreshRequired": f"the credentials have expired; renew them, or {_CREDENTIALS}",
    "InvalidToken": f"the session token is not valid; {_CREDENTIALS}",
    "InvalidAccessKeyId": f"the store does not know this access key; {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the store does not accept this secret key; {_CREDENTIALS}",
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

RENEWABLE = {"ExpiredToken", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId"}
"""What new credentials end: the next request asks for them."""


def fault_of(error: Exception) -> Fault:
    """What `error`, raised by the client, means."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _answered(response, error)
    return _unanswered(error)


def _answered(response: dict[str, Any], error: Exception) -> Fault:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = f"the store answered {code or status}: {response.get('Error', {}).get('Message') or error}"
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


def _refused(code: str, status: int, said: str) -> Fault:
    if code in _DENIED:
        return Fault("denied", code, f"{_DENIED[code]} ({said})")
    if code in _MISSING:
        return Fault("missing", "missing", said)
    if code == "NoSuchUpload":
        return Fault("no_upload", code, said)
    if code == "PreconditionFailed" or status == 412:
        return Fault("exists", "exists", said)
    if code == "InvalidRange" or status == 416:
        return Fault("range", "range", said)
    if status in (401, 403):
        return Fault("denied", "AccessDenied", f"{_DENIED['AccessDenied']} ({said})")
    return Fault("other", code or str(status), said)


_UNREACHABLE = {"ConnectTimeoutError", "ProxyConnectionError", "ClientConnectorError", "gaierror"}
_CUT = {
    "ConnectionClosedError", "EndpointConnectionError", "HTTPClientError", "ServerDisconnectedError", "ClientOSError",
    "ClientConnectionError", "ConnectionError", "ResponseParserError",
}  # fmt: skip
_TRUNCATED = {"Truncated", "ResponseStreamingError", "IncompleteReadError", "ClientPayloadError"}
_HELPLESS = {
    "NoCredentialsError": f"no credentials were found; {_CREDENTIALS}, or anon=True",
    "PartialCredentialsError": f"the credentials are not complete; {_CREDENTIALS}",
    "CredentialRetrievalError": f"the credentials could not be had; {_CREDENTIALS}",
    "TokenRetrievalError": f"the credentials could not be had; {_CREDENTIALS}",
    "ProfileNotFound": f"there is no such profile; {_CREDENTIALS}",
    "SSLError": "no trusted TLS connection; correct endpoint_url, or give storage_options client_kwargs={'verify': "
    "'/path/to/ca.pem'}",
    "NoRegionError": "no region is known; give storage_options client_kwargs={'region_name': ...}",
    "ParamValidationError": "the client refuses this request",
}


def _unanswered(error: Exception) -> Fault:
    # The client wraps them; and it calls a connection that broke one that was never made.
    inner = getattr(error, "kwargs", {}).get("error")
    names = {kind.__name__ for kind in (*type(error).__mro__, *type(inner).__mro__)}
    for name in names & _HELPLESS.keys():
        return Fault("denied", name, f"{_HELPLESS[name]} ({error})")
    if names & _UNREACHABLE:
        return Fault("transient", "unreachable", f"{error}; check the network, and endpoint_url")
    is_stuck = isinstance(inner, OSError) and inner.errno == errno.ETIMEDOUT
    if isinstance(error, TimeoutError) or is_stuck or "ReadTimeoutError" in names:
        said = "the store did not answer in time" + (f" ({error})" if str(error) else "")
        return Fault("transient", "timeout", said, applied=True)
    if names & _TRUNCATED:
        return Fault("transient", "damaged", f"the answer was cut short: {error}", applied=True)
    if names & _CUT:
        return Fault("transient", "reset", f"the connection broke: {error}", applied=True)
    return Fault("other", type(error).__name__, f"{type(error).__name__}: {error}", applied=True)
