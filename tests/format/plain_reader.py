"""A reader of checkpoints in sixty lines, written from docs/format.md alone, with nothing but the standard library."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import Any

Tensors = dict[tuple[str, ...], tuple[str, list[int], bytes]]


def width(dtype: str) -> int:
    return max(1, int((re.findall(r"\d+", dtype) or ["8"])[0]) // 8)


class Reader:
    """Of the run in a folder. It checks no digest, and reads no codec."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, json.loads((root / "run.json").read_bytes())

    def get(self, key: str) -> bytes:
        if not re.fullmatch(r"[a-z0-9._-]+(/[a-z0-9._-]+)*", key) or re.search(r"(^|/)\.", key):
            raise ValueError(f"{key} may lead out of the root")
        return (self.root / key).read_bytes()

    def records(self) -> dict[int, Any]:
        names = [path.name for path in (self.root / "commits").iterdir()]
        found = {int(name[:-5]): name for name in names if re.fullmatch(r"\d{10,}\.json", name)}
        if self.run["mode"] == "fenced":
            parted = {name: name.split("-") for name in names if name.endswith(".ok")}
            found = {int(n[0]) * 10**10 + int(n[1]): name[:-2] + "json" for name, n in parted.items()}
        return {slot: json.loads(self.get(f"commits/{name}")) for slot, name in found.items()}

    def manifest(self) -> dict[str, Any]:
        records = self.records()
        head = records[max(records)]
        listed = [records[slot] for first, last in head["live"] for slot in range(first, last + 1)]
        (latest,) = (record for record in listed if record["seq"] == head["latest"])
        return self.opened(json.loads(self.get(latest["manifest"]["key"])))

    def opened(self, manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["format"] != 1 or "hidden" in manifest:
            raise ValueError("an encrypted manifest")
        return manifest

    def pack(self, pack: dict[str, Any]) -> bytes:
        if pack["codec"] != "none":
            raise ValueError(pack["codec"])
        return self.get(pack["key"])

    def tensors(self) -> Tensors:
        """Of the latest: dtype, shape and row-major bytes by path."""
        manifest, found = self.manifest(), Tensors()
        packs = [self.pack(pack) for pack in manifest["packs"]]
        for t in manifest["tensors"]:
            (box,) = t["boxes"]
            data = [packs[number][offset : offset + length] for number, offset, length, _ in box["extents"]]
            found[tuple(t["path"])] = t["dtype"], t["shape"], b"".join(data)
        for a in manifest["aliases"]:
            shared, size, data = found[tuple(a["of"])][2], width(a["dtype"]), []
            for place in product(*map(range, a["shape"])):
                at = a["offset"] + size * sum(i * step for i, step in zip(place, a["stride"], strict=True))
                data.append(shared[at : at + size])
            found[tuple(a["path"])] = a["dtype"], a["shape"], b"".join(data)
        return found
