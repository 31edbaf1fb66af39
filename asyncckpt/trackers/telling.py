"""Telling: what somebody has asked to be told, as the log has it, and on stderr where there is no log yet."""

from __future__ import annotations

import logging

logger = logging.getLogger("asyncckpt")


def tell(message: str, *arguments: object) -> None:
    """Log `message` at INFO, and show it on stderr where nobody has configured logging.

    There Python shows warnings alone; what a call has asked for by an argument would be said to nobody.
    """
    logger.info(message, *arguments)
    if logger.level == logging.NOTSET and not logger.hasHandlers():
        record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, message, arguments, None)
        logging.StreamHandler().handle(record)
