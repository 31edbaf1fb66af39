"""``python -m asyncckpt`` is the command line."""

from asyncckpt.cli import main

if __name__ == "__main__":
    main()
