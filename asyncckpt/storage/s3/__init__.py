"""S3: objects in a bucket of anything that speaks its protocol, through s3fs's own client.

``store`` keeps the storage contract; ``requests`` makes one request reliable; ``upload`` is the window of parts;
``reasons`` says what a failure means.
"""

from __future__ import annotations

from asyncckpt.storage.s3.store import S3Storage

__all__ = ["S3Storage"]
