"""Listing: what a bucket holds below a root, page by page, and always asked anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncckpt.storage.base import ObjectInfo, UploadInfo
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Requests


async def objects(requests: Requests, names: Names, prefix: str, start_after: str | None) -> list[ObjectInfo]:
    """The objects whose keys begin with `prefix` and come after `start_after`, sorted. Raises `Failed`."""
    found: list[ObjectInfo] = []
    where = {"Bucket": names.bucket, "Prefix": names.whole(prefix)}
    if start_after and (before := names.before(prefix, start_after)):
        where["StartAfter"] = before
    while True:
        page = await _page(requests, "list_objects_v2", where)
        for entry in page.get("Contents", ()):
            key = names.key(entry["Key"])
            if key is not None and key.startswith(prefix) and (start_after is None or key > start_after):
                found.append(ObjectInfo(key, entry["Size"]))
        if not page.get("IsTruncated"):
            return sorted(found, key=lambda info: info.key)
        where["ContinuationToken"] = page["NextContinuationToken"]


async def unfinished(requests: Requests, names: Names, prefix: str) -> list[UploadInfo]:
    """The multipart uploads for keys that begin with `prefix`. Raises `Failed`."""
    found: list[UploadInfo] = []
    where = {"Bucket": names.bucket, "Prefix": names.whole(prefix)}
    while True:
        page = await _page(requests, "list_multipart_uploads", where)
        uploads = page.get("Uploads", ())
        for entry in uploads:
            key = names.key(entry["Key"])
            if key is not None and key.startswith(prefix):
                found.append(UploadInfo(key, entry["UploadId"]))
        if not page.get("IsTruncated") or not uploads:
            return found
        # Where the next page begins is said by S3, and by SeaweedFS not: after the last one of this.
        last = uploads[-1]
        after = page.get("NextKeyMarker") or last["Key"], page.get("NextUploadIdMarker") or last["UploadId"]
        where |= {"KeyMarker": after[0], "UploadIdMarker": after[1]}


async def _page(requests: Requests, operation: str, where: Mapping[str, str]) -> dict[str, Any]:
    async def attempt(s3: Any) -> dict[str, Any]:
        return dict(await getattr(s3, operation)(**where))

    return await requests.make(attempt)
