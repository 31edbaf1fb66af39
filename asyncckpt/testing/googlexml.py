"""Google XML: the XML interface of Google's store, which obstore speaks, in front of an emulator of the JSON one.

fake-gcs-server answers a put of the XML interface with "invalid uploadType", knows no uploads in parts, and lists from
the beginning whatever it is asked to start after. So this translates, in threads of this process. What is stored,
compared, listed and deleted is the emulator's doing; the parts of an upload are held here until it is completed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import secrets
import sys
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape, unescape

from asyncckpt.testing.servers import HOST

assert sys.platform == "linux"  # so that type checkers for other systems leave this module out

NOBODY = {
    "type": "service_account",
    "disable_oauth": True,
    "client_email": "",
    "private_key": "",
    "private_key_id": "",
}
"""Whom obstore is told to be, so that it asks nobody for a token: it does for each put, also where it is anonymous."""

SMALLEST_PART = 5 << 20
"""Bytes of every part but the last."""

_META = "x-goog-meta-"
_KEPT = {"etag", "last-modified", "content-range", "content-type", "x-goog-generation"}
_PART = re.compile(r"<Part>(.*?)</Part>", re.DOTALL)
_NUMBER = re.compile(r"<PartNumber>(\d+)</PartNumber>")
_ETAG = re.compile(r"<ETag>([^<]*)</ETag>")
_UNMET = "At least one of the pre-conditions you specified did not hold."
_Headers: TypeAlias = Mapping[str, str]


class Refused(Exception):
    """An answer that is an error: its status, its code and what it says."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.status = status
        self.code = code


@dataclass
class _Upload:
    """One in parts, under way."""

    bucket: str
    name: str
    told: dict[str, Any]
    """What the object is to be stored with."""
    parts: dict[int, bytes] = field(default_factory=dict)


class GoogleXml:
    """Serves the XML interface of the emulator at ``127.0.0.1:port``; also a context manager."""

    def __init__(self, port: int) -> None:
        self.emulator = _Emulator(port)
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self.emulator))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="google-xml", daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{HOST}:{self._server.server_port}"

    def options(self, **more: Any) -> dict[str, Any]:
        """Storage options for it."""
        return {"endpoint_url": self.endpoint, "token": NOBODY, **more}

    def __enter__(self) -> GoogleXml:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Emulator:
    """What the XML interface does, in requests of the JSON one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._uploads: dict[str, _Upload] = {}
        self._lock = threading.Lock()

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: _Headers | None = None
    ) -> tuple[int, Message, bytes]:
        with closing(http.client.HTTPConnection(HOST, self._port)) as connection:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    # -- objects -------------------------------------------------------------------------------------------

    def put(self, bucket: str, name: str, told: Mapping[str, Any], data: bytes, match: str | None) -> dict[str, str]:
        """Store an object; with `match` only over what has that generation, 0 for none. Headers of the answer."""
        line = secrets.token_hex(16)
        said = json.dumps({"name": name, **told}).encode()
        kinds = b"Content-Type: application/json", b"Content-Type: application/octet-stream"
        begun = [
            b"--%s\r\n%s\r\n\r\n%s\r\n" % (line.encode(), kind, part)
            for kind, part in zip(kinds, (said, data), strict=True)
        ]
        asked = {"uploadType": "multipart", "name": name} | ({} if match is None else {"ifGenerationMatch": match})
        status, _, answer = self._ask(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode(asked)}",
            b"".join(begun) + b"--%s--\r\n" % line.encode(),
            {"Content-Type": f"multipart/related; boundary={line}"},
        )
        if status != 200:
            raise {
                404: Refused(404, "NoSuchBucket", "The specified bucket does not exist."),
                412: Refused(412, "PreconditionFailed", _UNMET),
            }.get(status, Refused(status, "InternalError", answer.decode(errors="replace")))
        stored = json.loads(answer)
        return {"ETag": f'"{stored["etag"].strip(chr(34))}"', "x-goog-generation": str(stored["generation"])}

    def get(self, method: str, bucket: str, name: str, headers: Message) -> tuple[int, dict[str, str], bytes]:
        """An object, or a range of it."""
        ranged = {"Range": headers["Range"]} if "Range" in headers else {}
        status, found, data = self._ask(method, f"/{bucket}/{quote(name, safe='')}", headers=ranged)
        if status == 404:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")
        if status == 416:
            raise Refused(416, "InvalidRange", "The requested range cannot be satisfied.")
        if "If-Match" in headers and headers["If-Match"].strip('"') != found["ETag"].strip('"'):
            raise Refused(412, "PreconditionFailed", _UNMET)
        kept = {name: value for name, value in found.items() if name.lower() in _KEPT or name.lower().startswith(_META)}
        return status, kept | {"Content-Length": found["Content-Length"]}, data

    def delete(self, bucket: str, name: str) -> None:
        """Remove an object."""
        status, _, _ = self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")
        if status == 404:
            raise Refused(404, "NoSuchKey", "The specified key does not exist.")

    def list(self, bucket: str, asked: Mapping[str, str]) -> str:
        """A page of a bucket, by name."""
        status, _, answer = self._ask(
            "GET", f"/storage/v1/b/{bucket}/o?{urlencode({'prefix': asked.get('prefix', '')})}"
        )
        if status == 404:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        after, most = asked.get("continuation-token") or asked.get("start-after", ""), int(asked.get("max-keys", 1000))
        found = sorted(json.loads(answer).get("items", []), key=lambda item: str(item["name"]).encode())
        found = [item for item in found if item["name"].encode() > after.encode()]
        page = found[:most]
        more = f"<NextContinuationToken>{escape(page[-1]['name'])}</NextContinuationToken>" if page != found else ""
        return f"<ListBucketResult>{''.join(map(_entry, page))}{more}</ListBucketResult>"

    # -- uploads in parts ----------------------------------------------------------------------------------

    def begin(self, bucket: str, name: str, told: dict[str, Any]) -> str:
        """Begin an upload."""
        if self._ask("GET", f"/storage/v1/b/{bucket}")[0] == 404:
            raise Refused(404, "NoSuchBucket", "The specified bucket does not exist.")
        with self._lock:
            self._uploads[upload := secrets.token_hex(16)] = _Upload(bucket, name, told)
        return f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"

    def part(self, upload: str, number: int, data: bytes) -> dict[str, str]:
        """Take a part. Headers of the answer."""
        self._known(upload).parts[number] = data
        return {"ETag": _etag(data)}

    def complete(self, upload: str, said: str) -> str:
        """Store what an upload has brought."""
        begun = self._known(upload)
        named = [(int(_NUMBER.findall(part)[0]), _etag_in(part)) for part in _PART.findall(said)]
        if any(number not in begun.parts or _etag(begun.parts[number]) != etag for number, etag in named):
            raise Refused(400, "InvalidPart", "One or more of the specified parts could not be found.")
        parts = [begun.parts[number] for number, _ in named]
        if any(len(part) < SMALLEST_PART for part in parts[:-1]):
            raise Refused(400, "EntityTooSmall", "Your proposed upload is smaller than the minimum object size.")
        stored = self.put(begun.bucket, begun.name, begun.told, b"".join(parts), None)
        self.forget(upload)
        return f"<CompleteMultipartUploadResult><ETag>{escape(stored['ETag'])}</ETag></CompleteMultipartUploadResult>"

    def forget(self, upload: str) -> None:
        """Give an upload up."""
        self._known(upload)
        with self._lock:
            del self._uploads[upload]

    def _known(self, upload: str) -> _Upload:
        with self._lock:
            if upload not in self._uploads:
                raise Refused(404, "NoSuchUpload", "The requested upload was not found.")
            return self._uploads[upload]


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _etag_in(part: str) -> str:
    return unescape(_ETAG.findall(part)[0], {"&quot;": '"'})


def _entry(item: Mapping[str, Any]) -> str:
    said = {"Key": item["name"], "LastModified": item["updated"], "ETag": item["etag"], "Size": item["size"]}
    return f"<Contents>{''.join(f'<{tag}>{escape(str(value))}</{tag}>' for tag, value in said.items())}</Contents>"


def _handler(emulator: _Emulator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Sent in pieces, each answer would wait for the client's delayed acknowledgement of the first: 40 ms.
        wbufsize = -1

        def handle_request(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            place = urlsplit(self.path)
            _, bucket, *rest = place.path.split("/", 2)
            asked = dict(parse_qsl(place.query, keep_blank_values=True))
            try:
                status, headers, body = self._answered(bucket, unquote(rest[0]) if rest else "", asked, data)
            except Refused as error:
                status, headers = error.status, {"Content-Type": "application/xml"}
                body = f"<Error><Code>{error.code}</Code><Message>{escape(str(error))}</Message></Error>".encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _answered(
            self, bucket: str, name: str, asked: Mapping[str, str], data: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            match self.command, asked:
                case "PUT", {"uploadId": upload, "partNumber": number}:
                    return 200, emulator.part(upload, int(number), data), b""
                case "PUT", _:
                    match = self.headers["x-goog-if-generation-match"]
                    return 200, emulator.put(bucket, name, self._told(), data, match), b""
                case "POST", {"uploads": _}:
                    return 200, {}, emulator.begin(bucket, name, self._told()).encode()
                case "POST", {"uploadId": upload}:
                    return 200, {}, emulator.complete(upload, data.decode()).encode()
                case "DELETE", {"uploadId": upload}:
                    emulator.forget(upload)
                    return 204, {}, b""
                case "DELETE", _:
                    emulator.delete(bucket, name)
                    return 204, {}, b""
                case "GET" | "HEAD", _ if name:
                    return emulator.get(self.command, bucket, name, self.headers)
                case "GET", _:
                    return 200, {}, emulator.list(bucket, asked).encode()
            raise Refused(501, "NotImplemented")

        def _told(self) -> dict[str, Any]:
            """What an object is to be stored with."""
            given = {name.lower(): value for name, value in self.headers.items()}
            meta = {name.removeprefix(_META): value for name, value in given.items() if name.startswith(_META)}
            return {"contentType": given.get("content-type", "application/octet-stream"), "metadata": meta}

        def log_message(self, *said: object) -> None:
            """What was asked is not printed."""

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    return Handler
