"""A stand-in for the X API that streams as fast as it is read: `python -m bench.x_api COUNT SEED DIR`.

It knows one rule, its search finds nothing, and every connect gets all tweets, each in a chunk of its
own as X sends them. Written before the first connect, so that its work disturbs nobody's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

import trustme

from streamapp.sample_tweets import generate

__all__ = ["AUTHORITY"]

#: The file, in the directory given, of the authority to trust.
AUTHORITY = "authority.pem"

_RATE = 5_000.0
_PIECE = 100
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def chunks(count: int, seed: int) -> list[bytes]:
    """The stream's body, some tweets a piece. It begins now: a receiver takes no old ones."""
    written = []
    for tweet in generate(count, seed, start=datetime.now(UTC), rate=_RATE):
        line = json.dumps(tweet, ensure_ascii=False, separators=(",", ":")).encode() + b"\r\n"
        written.append(b"%x\r\n%b\r\n" % (len(line), line))
    return [b"".join(written[at : at + _PIECE]) for at in range(0, count, _PIECE)]


async def serve(count: int, seed: int, directory: Path) -> None:
    """Answer until standard input is closed; print the port when ready."""
    body = chunks(count, seed)
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.twitter.com").configure_cert(context)
    authority.cert_pem.write_to_path(directory / AUTHORITY)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                path = request.split(b" ", 2)[1].partition(b"?")[0]
                if path.endswith(b"/search/stream"):
                    writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
                    for piece in body:
                        writer.write(piece)
                        await writer.drain()
                else:
                    writer.write(_answer(path))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.close()


def _answer(path: bytes) -> bytes:
    content: dict[str, object] = {"meta": {"result_count": 0}}
    if path.endswith(b"/rules"):
        content = {"data": [{"id": "1", "value": "sample"}], "meta": {"result_count": 1}}
    text = json.dumps(content).encode()
    return _HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(text), text)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
