"""torch.distributed.checkpoint's ``async_save``, in a thread and in a process, with its asynchronous stager.

Without pinned memory and non-blocking copies, which need a GPU.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save

from benchmarks.subjects import Subject, state_of, tensors_of
from benchmarks.systems.peer import Peer


class _Dcp(Peer):
    kind: AsyncCheckpointerType

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        super().__init__(subject, root, keep_all)
        shared = self.kind is AsyncCheckpointerType.PROCESS
        self._stager = DefaultStager(StagingOptions(False, shared, True, False))
        self._response: Any = None

    def save(self, step: int) -> None:
        self._response = async_save(
            state_of(self.subject),
            checkpoint_id=self.target(step),
            async_checkpointer_type=self.kind,
            async_stager=self._stager,
        )

    def staged(self) -> None:
        if self._response is not None:
            self._response.staging_completion.result()

    def written(self) -> None:
        self._response.upload_completion.result()

    def load(self) -> Mapping[str, Tensor]:
        state = _empty(state_of(self.subject))
        load(state, checkpoint_id=self.path)
        return tensors_of(state)

    def restore(self) -> None:
        load(state_of(self.subject), checkpoint_id=self.path)

    def close(self) -> None:
        self._stager.close()


class DcpThread(_Dcp):
    """Saves in a thread."""

    kind = AsyncCheckpointerType.THREAD


class DcpProcess(_Dcp):
    """Saves in a process, which gets the state through shared memory."""

    kind = AsyncCheckpointerType.PROCESS

    def __init__(self, subject: Subject, root: Path, keep_all: bool) -> None:
        if not dist.is_initialized():
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
            dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
        super().__init__(subject, root, keep_all)


def _empty(state: Any) -> Any:
    if isinstance(state, Tensor):
        return torch.empty_like(state)
    return {key: _empty(value) for key, value in state.items()} if isinstance(state, dict) else state
