"""``python -m pygan``: the command line."""

from pygan.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
