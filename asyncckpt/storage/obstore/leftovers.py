"""Leftovers: uploads that a killed process has left, which obstore itself can neither list nor abort.

It signs a URL of any name below an endpoint, and what an endpoint ends in is up to who gives it: one that ends in a
query makes the name the value of a parameter that no server minds (``x-id``, by which AWS's own clients say what they
ask for). So what is asked for here is signed as obstore signs, by credentials that it alone may have.
"""

from __future__ import annotations

import html
import re
from urllib.parse import quote

from asyncckpt.storage.base import UploadInfo
from asyncckpt.storage.bucket.names import Names
from asyncckpt.storage.bucket.requests import Failed, Requests
from asyncckpt.storage.bucket.signed import LIFETIME
from asyncckpt.storage.bucket.straight import Answered, Straight
from asyncckpt.storage.obstore.connection import Stores

UNSWEPT = "{} that a killed process has left cannot be found here: give the bucket a lifecycle rule that aborts them"

_OK, _NO_CONTENT = 200, 204
_UPLOAD = re.compile("<Upload>(.*?)</Upload>", re.DOTALL)


class Leftovers:
    """Those below the root of `names`; all on one event loop. `weaker` is told where they cannot be found."""

    def __init__(self, requests: Requests, names: Names, weaker: dict[str, str]) -> None:
        self._requests = requests
        self._names = names
        self._weaker = weaker

    async def unfinished(self, prefix: str) -> list[UploadInfo]:
        """See `Client.unfinished`."""
        found: list[UploadInfo] = []
        where = {"prefix": self._names.whole(prefix)}
        while (page := await self._page(where)) is not None:
            uploads = [(_text(upload, "Key"), _text(upload, "UploadId")) for upload in _UPLOAD.findall(page)]
            for name, upload in uploads:
                key = self._names.key(name)
                if key is not None and key.startswith(prefix):
                    found.append(UploadInfo(key, upload))
            if _text(page, "IsTruncated") != "true" or not uploads:
                break
            # Where the next page begins is said by S3, and by SeaweedFS not: after the last one of this.
            after = _text(page, "NextKeyMarker"), _text(page, "NextUploadIdMarker")
            key_marker, upload_marker = after if all(after) else uploads[-1]
            where |= {"key-marker": key_marker, "upload-id-marker": upload_marker}
        return found

    async def _page(self, where: dict[str, str]) -> str | None:
        async def attempt(stores: Stores) -> str | None:
            if stores.straight is None:
                self._weaker["uploads"] = UNSWEPT.format(f"{stores.unfit}: uploads")
                return None
            status, said = await _asked(stores, stores.straight, "GET", "", {"uploads": "", **where})
            if status != _OK or "<ListMultipartUploadsResult" not in said:
                raise Answered(status, said)
            return said

        return await self._requests.make(attempt)

    async def forget(self, upload: UploadInfo) -> None:
        """See `Client.forget`."""

        async def attempt(stores: Stores) -> None:
            if stores.straight is None:
                return
            name = "/" + quote(self._names.whole(upload.key))
            status, said = await _asked(stores, stores.straight, "DELETE", name, {"uploadId": upload.upload})
            if status not in (_OK, _NO_CONTENT):
                raise Answered(status, said)

        try:
            await self._requests.find(attempt)
        except Failed as failed:
            if failed.fault.kind != "no_upload":
                raise


async def _asked(stores: Stores, lines: Straight, method: str, name: str, query: dict[str, str]) -> tuple[int, str]:
    bucket = (await stores.obstore.sign_async(stores.asking, "GET", "x", LIFETIME)).partition("?")[0].removesuffix("/x")
    asked = "".join(f"{each}={quote(value, safe='')}&" for each, value in query.items())
    signing = stores.ending_in(f"{bucket}{name}?{asked}x-id=")
    return await lines.ask(method, await stores.obstore.sign_async(signing, method, "x", LIFETIME))


def _text(xml: str, element: str) -> str:
    found = re.search(f"<{element}>([^<]*)</{element}>", xml)
    return "" if found is None else html.unescape(found[1])
