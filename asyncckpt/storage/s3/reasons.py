"""Reasons: what an error of the client means that s3fs uses, which is known by its names alone."""

from __future__ import annotations

import errno
from typing import Any

from asyncckpt.storage.bucket.faults import CREDENTIALS, Fault, answered, told
from asyncckpt.storage.bucket.straight import Answered


def fault_of(error: Exception) -> Fault:
    """What `error`, raised by the client, means."""
    if isinstance(error, Answered):
        return told(error.status, error.body)
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return _answered(response, error)
    return _unanswered(error)


def _answered(response: dict[str, Any], error: Exception) -> Fault:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return answered(code, status, str(response.get("Error", {}).get("Message") or error))


_UNREACHABLE = {"ConnectTimeoutError", "ProxyConnectionError", "ClientConnectorError", "gaierror"}
_CUT = {
    "ConnectionClosedError", "EndpointConnectionError", "HTTPClientError", "ServerDisconnectedError", "ClientOSError",
    "ClientConnectionError", "ConnectionError", "ResponseParserError",
}  # fmt: skip
_TRUNCATED = {"Truncated", "ResponseStreamingError", "IncompleteReadError", "ClientPayloadError"}
UNTRUSTED = (
    "the TLS connection is not to be trusted; correct endpoint_url, or give storage_options "
    "client_kwargs={'verify': '/path/to/ca.pem'}"
)
_HELPLESS = {
    "NoCredentialsError": f"no credentials were found; {CREDENTIALS}, or anon=True",
    "PartialCredentialsError": f"the credentials are not complete; {CREDENTIALS}",
    "CredentialRetrievalError": f"the credentials could not be had; {CREDENTIALS}",
    "TokenRetrievalError": f"the credentials could not be had; {CREDENTIALS}",
    "ProfileNotFound": f"there is no such profile; {CREDENTIALS}",
    "SSLError": UNTRUSTED,
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
