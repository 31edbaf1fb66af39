"""``python -m asyncckpt`` is the command line."""

from asyncckpt.cli import main

main()
