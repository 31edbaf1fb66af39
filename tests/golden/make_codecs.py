"""Writes golden runs of every codec: ``python -m tests.golden.make_codecs``. Done once per version, never changed."""

from __future__ import annotations

import shutil
from pathlib import Path

from asyncckpt import AsyncCheckpointer, RetentionPolicy, SavePolicy, keys
from tests.golden.make import Box, draws, seed, tensors, training, values

HERE = Path(__file__).parent / "codecs"

KEY = bytes(range(32))
"""Of the encrypted ones; a secret that everybody knows."""

CODECS = {
    "zstd": "zstd",
    "aes256gcm": "aes256gcm",
    "both": "zstd+aes256gcm",
    "aes256gcm-v2": "aes256gcm",
    "both-v2": "zstd+aes256gcm",
}
"""Folders and what is in them."""

PRESENT = ("aes256gcm-v2", "both-v2")
"""Those of the present version."""


def main() -> None:
    """Two saves in each, of which the second shares what did not change."""
    keys.register(KEY)
    for folder in PRESENT:
        shutil.rmtree(HERE / folder, ignore_errors=True)
        model, optimizer = training()
        with AsyncCheckpointer(
            HERE / folder,
            model=model,
            optimizer=optimizer,
            extra={"values": Box(values()), "tensors": Box(tensors())},
            save=SavePolicy(codec=CODECS[folder]),
            keep=RetentionPolicy(last=1),
        ) as checkpointer:
            for step in (1, 2):
                seed()
                draws()
                checkpointer.save(step).wait()


if __name__ == "__main__":
    main()
