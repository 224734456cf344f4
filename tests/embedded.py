"""The embedded broker as a process of its own, for clients that block the event loop.

Run as `python -m tests.embedded`, it prints its address and stays until its input closes: it
goes away with the tests, however they end.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import TracebackType


class EmbeddedProcess:
    """A context: the embedded broker runs while it is open."""

    bootstrap: str

    def __enter__(self) -> EmbeddedProcess:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.embedded"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().strip()
        if not self.bootstrap:
            raise RuntimeError(f"the embedded broker ended with {self._process.wait()}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


async def serve() -> None:
    """Run the embedded broker until the standard input is closed."""
    from streamapp.broker import Broker

    async with Broker(port=0) as broker:
        print(broker.bootstrap, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
