"""Layout: where every tensor of a state goes in the packs. Pure: no byte is copied, no arena is needed.

Tensors are planned by storage: each byte range is stored once, and whatever else lies in it (tied weights,
views) becomes an alias in the manifest.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asyncckpt.errors import UnsupportedState
from asyncckpt.format.contents import Alias, Path
from asyncckpt.format.shard import ALIGNMENT, MAX_HEADER, PackedTensor, encode_header, pack_names
from asyncckpt.staging.device import can_be_lazy
from asyncckpt.staging.streams import has_streams
from asyncckpt.state.capture import Source
from asyncckpt.state.dtypes import Stored, logical_name, stored
from asyncckpt.worker.job import Layout, PlannedPack, PlannedTensor

logger = logging.getLogger("asyncckpt")

STORAGE = "$storage"
"""Last component of the path of bytes that several tensors share and none of them covers."""

_HEADER_BYTES_PER_TENSOR = 160
"""A generous guess of one header entry beside its name, for splitting packs in time."""


@dataclass(frozen=True, slots=True)
class Region:
    """Bytes to copy: `offset` in the arena, from `tensor`, row-major in the tensor's own dtype."""

    path: Path
    offset: int
    nbytes: int
    source: Source
    cut: slice | None = None
    """Which part of the tensor at `path` these are, as `cuttable` has it, where they are not all of it."""

    @property
    def lazy(self) -> bool:
        return self.source.lazy and can_be_lazy(self.source.tensor)


@dataclass(frozen=True, slots=True)
class Plan:
    """A layout with the copies that fill it, and the headers that stand in front of each pack."""

    layout: Layout
    regions: tuple[Region, ...]
    """In file order."""
    headers: tuple[tuple[int, bytes], ...]
    """Where each pack starts in the arena, and its first bytes."""

    devices: frozenset[str]
    """The kinds of devices that tensors are copied from on side streams."""


def build(sources: Sequence[Source]) -> Plan:
    """Plan the packs of a state; raises `UnsupportedState` naming the first tensor that cannot be held."""
    for source in sources:
        _check(source)
    stored_sources, aliases = _by_storage(sources)
    return _place(stored_sources, aliases)


def _check(source: Source) -> None:
    tensor, name = source.tensor, ".".join(source.path)
    reason = _refusal(tensor)
    if reason:
        raise UnsupportedState(f"{name}: {reason}")
    try:
        logical_name(tensor.dtype)
    except UnsupportedState as error:
        raise UnsupportedState(f"{name}: {error}") from None


def _refusal(tensor: Tensor) -> str | None:
    kind = type(tensor).__name__
    if kind == "DTensor" or hasattr(tensor, "_local_tensor"):
        return "sharded parameters (DTensor, FSDP) are not supported in this version: use DDP, or save by hand"
    if tensor.is_nested:
        return "nested tensors cannot be held: save a padded one, or its parts (.unbind())"
    if tensor.layout != torch.strided:
        return f"{tensor.layout} tensors cannot be held: save a dense one (.to_dense())"
    if tensor.device.type == "meta":
        return "a tensor on the meta device has no values: materialise the module before it is saved"
    if torch.nn.parameter.is_lazy(tensor):
        return "the parameter has no shape yet: run one forward pass of the lazy module before it is saved"
    if _wraps_others(tensor):
        return f"{kind} keeps its values in other tensors: save those, or convert it to a plain tensor"
    if tensor.numel() and tensor.untyped_storage().nbytes() == 0:
        return "its memory was freed (storage of 0 bytes)"
    return None


def _wraps_others(tensor: Tensor) -> bool:
    return type(tensor) not in (Tensor, torch.nn.Parameter, torch.nn.Buffer) and hasattr(
        type(tensor), "__tensor_flatten__"
    )


# -- shared memory -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Extent:
    """The bytes of its storage that a tensor touches."""

    source: Source
    low: int
    high: int

    @property
    def covers_itself(self) -> bool:
        """Row-major and gap-free: its bytes in memory are its bytes in the file."""
        return self.source.tensor.is_contiguous()

    @property
    def overlaps_itself(self) -> bool:
        return self.source.tensor.nbytes > self.high - self.low


def _by_storage(sources: Sequence[Source]) -> tuple[list[Source], dict[Path, Alias]]:
    kept: list[Source] = []
    aliases: dict[Path, Alias] = {}
    shared: defaultdict[tuple[torch.device, int, bool], list[_Extent]] = defaultdict(list)
    for source in sources:
        tensor = source.tensor
        if tensor.numel() == 0 or tensor.is_conj() or tensor.is_neg():
            kept.append(source)  # nothing to share, or bits in memory that are not the value
        else:
            key = (tensor.device, tensor.untyped_storage().data_ptr(), source.volatile)
            shared[key].append(_extent(source))
    for extents in shared.values():
        kept += [_represent(cluster, aliases) for cluster in _clusters(extents)]
    return kept, aliases


def _extent(source: Source) -> _Extent:
    tensor = source.tensor
    low = int(tensor.storage_offset()) * tensor.itemsize
    return _Extent(source, low, low + (_last(tensor) + 1) * tensor.itemsize)


def _last(tensor: Tensor) -> int:
    """How many elements lie between the first and the last one of `tensor` in its storage."""
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _clusters(extents: list[_Extent]) -> Iterable[list[_Extent]]:
    """Groups of extents of one storage that touch common bytes."""
    if len(extents) == 1:
        yield extents
        return
    extents.sort(key=lambda e: (e.low, -e.high, e.source.path))
    cluster: list[_Extent] = []
    end = 0
    for extent in extents:
        if cluster and extent.low >= end:
            yield cluster
            cluster = []
        end = max(end, extent.high) if cluster else extent.high
        cluster.append(extent)
    yield cluster


def _represent(cluster: list[_Extent], aliases: dict[Path, Alias]) -> Source:
    """The one source whose bytes are stored for `cluster`; everything else in it becomes an alias."""
    low, high = min(e.low for e in cluster), max(e.high for e in cluster)
    # One EAGER member makes the bytes EAGER: they may change before a LAZY copy would read them.
    lazy = all(e.source.lazy for e in cluster)
    volatile = cluster[0].source.volatile
    covering = [e for e in cluster if e.covers_itself and (e.low, e.high) == (low, high)]
    if covering:
        chosen = min(covering, key=lambda e: e.source.path).source
        base = Source(chosen.path, chosen.tensor, lazy, volatile)
    elif len(cluster) == 1 and not cluster[0].overlaps_itself:
        return cluster[0].source  # strided, alone: stored row-major
    else:
        path = min(e.source.path for e in cluster)
        base = Source((*path, STORAGE), _bytes(cluster[0].source.tensor, low, high), lazy, volatile)
    for extent in cluster:
        if extent.source.path != base.path:
            aliases[extent.source.path] = _alias(extent, base.path, low)
    return base


def handed_out(region: Region, tensors: Mapping[Path, Tensor]) -> Tensor:
    """What `region` stands for among the volatile `tensors` of one save; shared bytes are found by a sharer."""
    tensor = tensors[sharer(region, tensors)]
    if region.path in tensors:
        return tensor if region.cut is None else cuttable(tensor)[region.cut]
    low = int(region.source.tensor.storage_offset())
    return _bytes(tensor, low, low + region.nbytes)


def cuttable(tensor: Tensor) -> Tensor:
    """The same memory such that its parts along the first dimension follow one another in the file."""
    plain = tensor.detach()
    return plain.view(-1) if in_file_order(tensor) else plain


def in_file_order(tensor: Tensor) -> bool:
    """Whether its bytes in memory are its bytes in the file."""
    return tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()


def sharer(region: Region, tensors: Mapping[Path, Tensor]) -> Path:
    """The path of the one of `tensors` that has the bytes of `region`."""
    return region.path if region.path in tensors else region.path[:-1]


def _bytes(tensor: Tensor, low: int, high: int) -> Tensor:
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    shared: Tensor = flat.set_(tensor.untyped_storage(), low, (high - low,), (1,))
    return shared


def _alias(extent: _Extent, of: Path, low: int) -> Alias:
    tensor = extent.source.tensor
    return Alias(
        of=of,
        dtype=logical_name(tensor.dtype),
        shape=tuple(tensor.shape),
        stride=tuple(tensor.stride()),
        offset=extent.low - low,
    )


# -- places in the packs -----------------------------------------------------------------------------------


def _place(sources: list[Source], aliases: Mapping[Path, Alias]) -> Plan:
    forms = {s.path: stored(s.tensor.dtype, s.tensor.shape) for s in sources}
    # Wide elements first: without fillers, that is what aligns every tensor.
    ordered = sorted(sources, key=lambda s: (-forms[s.path].itemsize, *_together(s), s.path))
    names = pack_names([s.path for s in ordered])
    packs: list[PlannedPack] = []
    tensors: dict[Path, PlannedTensor] = {}
    regions: list[Region] = []
    headers: list[tuple[int, bytes]] = []
    start = 0
    for members in _split(ordered, names):
        packed = [_packed(s, names[s.path], forms[s.path]) for s in members]
        header = encode_header(packed)
        offset = len(header)
        for source, entry in zip(members, packed, strict=True):
            tensors[source.path] = _planned(source, len(packs), offset, entry)
            regions.append(Region(source.path, start + offset, source.tensor.nbytes, source))
            offset += source.tensor.nbytes
        packs.append(PlannedPack(start, len(header), offset))
        headers.append((start, header))
        start += -(-offset // ALIGNMENT) * ALIGNMENT
    layout = Layout(tuple(packs), tensors, aliases, start, sum(tensor.nbytes for tensor in tensors.values()))
    kinds = {source.tensor.device.type for source in sources}
    return Plan(layout, tuple(regions), tuple(headers), frozenset(filter(has_streams, kinds)))


def _together(source: Source) -> tuple[str, bool]:
    """Apart from the others lies what is copied apart from them: gathered on its device, it is one copy then."""
    device = source.tensor.device
    return (str(device), source.lazy) if has_streams(device.type) else ("", False)


def _split(ordered: list[Source], names: Mapping[Path, str]) -> Iterable[list[Source]]:
    """Packs whose headers stay below the limit of the format. Always at least one, even if it is empty."""
    pack: list[Source] = []
    header = 0
    for source in ordered:
        entry = 2 * len(names[source.path].encode()) + _HEADER_BYTES_PER_TENSOR + 22 * source.tensor.dim()
        if pack and header + entry > MAX_HEADER - ALIGNMENT:
            yield pack
            pack, header = [], 0
        pack.append(source)
        header += entry
    yield pack


def _packed(source: Source, name: str, form: Stored) -> PackedTensor:
    return PackedTensor(name, form.name, form.shape, source.tensor.nbytes)


def _planned(source: Source, pack: int, offset: int, packed: PackedTensor) -> PlannedTensor:
    tensor = source.tensor
    return PlannedTensor(
        dtype=logical_name(tensor.dtype),
        shape=tuple(tensor.shape),
        stride=_dense_stride(tensor),
        pack=pack,
        offset=offset,
        packed=packed,
    )


def _dense_stride(tensor: Tensor) -> tuple[int, ...] | None:
    """The stride of a tensor whose memory is gap-free but not row-major (channels_last, a transpose).

    Row-major is meant to the letter: kernels also look at the strides of dimensions with one element.
    """
    if tensor.is_contiguous() and 1 not in tensor.shape:
        return None
    if tensor.numel() == 0 or not _is_dense(tensor):
        return None
    stride = tuple(tensor.stride())
    return None if stride == torch.empty(tensor.shape, device="meta").stride() else stride


def _is_dense(tensor: Tensor) -> bool:
    """Whether its elements lie side by side, each once, in whatever order of the dimensions."""
    side_by_side = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride != side_by_side:
                return False
            side_by_side *= size
    return True


def announce(plan: Plan) -> None:
    """Say once what a save copies in the call, since that is what it costs the training thread."""
    eager = sorted((region for region in plan.regions if not region.lazy), key=lambda region: -region.nbytes)
    logger.info(
        "a snapshot holds %d tensors, %d bytes; %d of them, %d bytes, are copied in the call (EAGER); largest: %s",
        len(plan.regions),
        plan.layout.bytes,
        len(eager),
        sum(region.nbytes for region in eager),
        ", ".join(".".join(region.path) for region in eager[:3]) or "none",
    )
