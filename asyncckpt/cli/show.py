"""``asyncckpt show``: what one checkpoint holds, from its record and manifest alone."""

from __future__ import annotations

import fnmatch
import json
from datetime import UTC, datetime
from typing import Any

import click

from asyncckpt.catalog import Catalog, CheckpointInfo
from asyncckpt.cli.ls import entry
from asyncckpt.cli.output import print_json, print_table, size
from asyncckpt.cli.select import reading, target
from asyncckpt.format.manifest import Contents, Manifest
from asyncckpt.format.record import Checkpoint


@click.command()
@click.argument("checkpoint")
@click.option("--tensors", metavar="GLOB", is_flag=False, flag_value="*", help="List tensors by name (all of them).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def show(checkpoint: str, tensors: str | None, as_json: bool) -> None:
    """Show what CHECKPOINT (ROOT@latest, @best, @STEP, @ID; the latest where none is named) holds."""
    chosen = target(checkpoint)

    async def act(catalog: Catalog) -> tuple[Checkpoint, CheckpointInfo, Manifest, int | None]:
        listing = await catalog.listing()
        found = listing.find("latest" if chosen.which is None else chosen.which)
        info = next(info for info in listing.infos() if info.seq == found.seq)
        return found, info, await catalog.manifest(found), listing.head.latest if listing.head else None

    found, info, manifest, latest = reading(chosen.root, act)
    if as_json:
        listed = _tensors(manifest.contents, tensors or "*")
        print_json({**entry(info, latest), **_origin(found, manifest), "tensors": listed})
        return
    if tensors is None:
        _print_summary(found, info, manifest)
    else:
        rows = [
            [t["name"], t["dtype"], "x".join(map(str, t["shape"])) or "scalar", size(t["bytes"]), t["alias_of"] or ""]
            for t in _tensors(manifest.contents, tensors)
        ]
        print_table(["TENSOR", "DTYPE", "SHAPE", "SIZE", "SHARES THE BYTES OF"], rows)


def _origin(found: Checkpoint, manifest: Manifest) -> dict[str, Any]:
    own = found.manifest.key.rsplit("/", 1)[0] + "/"
    packs = [{"key": p.key, "length": p.length, "live": p.live, "own": p.key.startswith(own)} for p in found.packs]
    values = {scope: _shortened(value) for scope, value in manifest.contents.values.items()}
    return {
        "run": manifest.run,
        "incarnation": manifest.inc,
        "parent": found.parent,
        "world": found.world,
        "folder": own.removesuffix("/"),
        "packs": packs,
        "values": values,
    }


def _tensors(contents: Contents, pattern: str) -> list[dict[str, Any]]:
    stored = [(path, e.dtype, e.shape, e.nbytes, None) for path, e in contents.tensors.items()]
    shared = [(path, a.dtype, a.shape, 0, ".".join(a.of)) for path, a in contents.aliases.items()]
    return [
        {"name": ".".join(path), "dtype": dtype, "shape": list(shape), "bytes": nbytes, "alias_of": of}
        for path, dtype, shape, nbytes, of in sorted([*stored, *shared])
        if fnmatch.fnmatchcase(".".join(path), pattern)
    ]


def _print_summary(found: Checkpoint, info: CheckpointInfo, manifest: Manifest) -> None:
    origin = _origin(found, manifest)
    shared = sum(pack["live"] for pack in origin["packs"] if not pack["own"])
    facts = {
        "id": info.id,
        "step": str(info.step),
        "epoch": "" if info.epoch is None else str(info.epoch),
        "saved": datetime.fromtimestamp(info.created, UTC).isoformat(timespec="seconds"),
        "size": size(info.size),
        "of older packs": size(shared),
        "metrics": " ".join(f"{name}={value!r}" for name, value in info.metrics.items()),
        "continued from": "" if found.parent is None else f"{found.parent:08d}",
        "ranks": str(found.world),
        "incarnation": str(manifest.inc),
        "folder": origin["folder"],
        "digest": info.digest,
    }
    print_table(["FIELD", "VALUE"], [[name, value] for name, value in facts.items() if value])
    click.echo()
    print_table(["PART", "TENSORS", "SIZE"], _parts(manifest.contents))
    for scope, value in origin["values"].items():
        click.echo(f"\n{scope}: {value}")


def _parts(contents: Contents) -> list[list[str]]:
    counts: dict[str, list[int]] = {}
    for path, entry_ in contents.tensors.items():
        part = counts.setdefault(path[0], [0, 0])
        part[0] += 1
        part[1] += entry_.nbytes
    for path in contents.aliases:
        counts.setdefault(path[0], [0, 0])[0] += 1
    return [[name, str(count), size(nbytes)] for name, (count, nbytes) in sorted(counts.items())]


def _shortened(value: object, limit: int = 600) -> str:
    """Values as they stand in the manifest, tensors as their tags, cut where they get long."""
    text = json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"
