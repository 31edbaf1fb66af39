"""Obstore: objects in a bucket of S3, Google Cloud Storage or Azure, through obstore's native client.

It works outside of Python, on threads of its own. ``options`` says what s3fs, gcsfs and adlfs are told in obstore's
words; ``connection`` makes the stores; ``client`` asks them; ``upload`` hands over parts; ``reasons`` says what its
errors mean. The storage contract itself is kept in ``asyncckpt.storage.bucket``.
"""

from __future__ import annotations

from asyncckpt.storage.obstore.options import Untranslatable
from asyncckpt.storage.obstore.store import ObstoreStorage

__all__ = ["ObstoreStorage", "Untranslatable"]
