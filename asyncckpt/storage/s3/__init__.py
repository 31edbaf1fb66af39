"""S3: objects in a bucket of anything that speaks its protocol, through s3fs's own client.

``client`` asks in its words; ``upload`` is the window of parts; ``reasons`` says what its errors mean. The storage
contract itself is kept in ``asyncckpt.storage.bucket``.
"""

from __future__ import annotations

from asyncckpt.storage.s3.store import S3Storage

__all__ = ["S3Storage"]
