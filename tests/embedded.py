"""The embedded broker as a process of its own, for clients that block the event loop.

Run as `python -m tests.embedded PORT [DATA]`, it prints its address and stays until its input
closes: it goes away with the tests, however they end.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType


class EmbeddedProcess:
    """The embedded broker, killed and started again on one port and one data directory.

    data: where it keeps everything; in memory without. As a context, it runs while it is open.
    """

    bootstrap: str

    def __init__(self, data: Path | None = None) -> None:
        self._data = data
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start, and return when it answers."""
        data = [] if self._data is None else [str(self._data)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.embedded", str(self._port), *data],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().strip()
        if not self.bootstrap:
            raise RuntimeError(f"the embedded broker ended with {self._process.wait()}")
        self._port = int(self.bootstrap.rpartition(":")[2])

    def kill(self) -> None:
        """Stop as `kill -9` does. Nothing happens if it is not running."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        """Stop as a host does that hangs: connections stay, and nothing is read from them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> EmbeddedProcess:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()


async def serve(port: int, data: str | None = None) -> None:
    """Run the embedded broker until the standard input is closed."""
    from streamapp.broker import Broker

    async with Broker(port=port, data=data) as broker:
        print(broker.bootstrap, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
