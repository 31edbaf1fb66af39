"""Backend: what kind of store a root is, in one word of few."""

from __future__ import annotations

OTHER = "other"

_KINDS = {
    "file": "local",
    "memory": "memory",
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "adl", "abfs", "abfss", "azure"), "azure"),
}


def backend_of(url: str) -> str:
    """The kind of the store at `url`: local, memory, s3, gcs, azure or other."""
    scheme, found, _ = url.partition("://")
    return _KINDS.get(scheme.lower(), OTHER) if found else "local"
