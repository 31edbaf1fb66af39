"""JSON file: a configuration in a file of its own, outside of any run."""

from __future__ import annotations

import logging
import os
import secrets
from contextlib import suppress
from pathlib import Path

from asyncckpt.run.configuration import Source, configuration
from asyncckpt.run.identity import encoded

logger = logging.getLogger("asyncckpt")


def save_config_to_json(config: Source, path: str | os.PathLike[str]) -> bool:
    """Write `config`, secrets masked, to the JSON file at `path`, whole or not at all; folders are made.

    What goes wrong is a warning and False: no training stops for that, and a file that was there stays as it was.
    """
    found = configuration(config)
    for complaint in found.complaints:
        logger.warning("%s", complaint)
    target = Path(path)
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.draft")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("xb") as file:
            file.write(encoded(dict(found.plain)))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except OSError as error:
        logger.warning("the configuration could not be written to %s: %s", target, error)
        return False
    finally:
        with suppress(OSError):  # its folder is a file
            draft.unlink(missing_ok=True)
    return True
