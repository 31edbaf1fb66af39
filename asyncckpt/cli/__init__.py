"""The command line: one file per command. Reading commands import no torch and change nothing.

Results go to standard output, messages to standard error. Exit codes: 0 all is well, 1 something is damaged,
2 the command line is wrong, 3 there is no such checkpoint, 4 the store cannot be read.
"""

from __future__ import annotations

import atexit
import gc
import sys


def main() -> None:
    """Run the command line; without the extra ``cli``, say how to get it."""
    try:
        from asyncckpt.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.stderr.write("asyncckpt: the command line needs click: pip install 'asyncckpt[cli]'\n")
        sys.exit(2)
    # Of ten thousand records that are read none is garbage, and to look for some among them takes its time.
    gc.set_threshold(250_000)
    atexit.register(gc.freeze)  # nor is any of what is left at the end, where Python would look three times
    app()
