"""`python -m streamapp.demo.leash …`: the command line `streamapp …`, on a leash.

Its standard input is a pipe that whoever started it holds. When the pipe closes, the other side is
gone, even by kill -9, and this process ends as abruptly: which is safe, and better than a worker
that nobody knows of.
"""

from __future__ import annotations

import os
import sys
import threading

from streamapp.cli import main


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    main()
