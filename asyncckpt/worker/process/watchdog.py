"""Watchdog: ends a worker that has outlived its trainer and its deadline, though its event loop hangs.

The deadline itself is kept by that loop (`host`), which ends in good order. A call that blocks it, in a store's driver
or in the kernel, must not leave a worker for ever.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time

assert sys.platform == "linux"  # noqa: S101 -- so that type checkers for other systems leave this module out

logger = logging.getLogger("asyncckpt")

GRACE = 10.0
"""Seconds after the deadline for which the loop may take to end by itself."""


def watch(trainer: int, deadline: float) -> None:
    """From now on this process ends `deadline` seconds, and a grace, after the process `trainer`, whatever it does."""
    threading.Thread(target=_outlive, args=(trainer, deadline), name="asyncckpt-watchdog", daemon=True).start()


def _outlive(trainer: int, deadline: float) -> None:
    try:
        watched = os.pidfd_open(trainer)
    except ProcessLookupError:
        pass  # it is dead already
    except OSError as error:
        logger.warning("no watchdog: process %d cannot be watched (%s)", trainer, error)
        return
    else:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        poll.poll()
        os.close(watched)
    time.sleep(deadline + GRACE)
    logger.error("%g s after its trainer died this worker hangs still, and is ended", deadline + GRACE)
    logging.shutdown()
    os._exit(1)
