"""A TCP relay that holds back what the server says, as `python slow_relay.py HOST PORT TO FILE`.

FILE holds the seconds; it is read anew for each piece, so writing it begins and ends the slowness.
Order is kept, and pieces wait side by side, as on a long way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

_PIECE = 1 << 16


class SlowRelay:
    """Forwards connections to a port of the same host.

    Args:
        host: address to listen on and to connect to.
        to: the server's port.
        file: holds the seconds of delay.
    """

    def __init__(self, host: str, to: int, file: Path) -> None:
        self._host, self._to, self._file = host, to, file

    async def serve(self, port: int) -> None:
        """Forward for ever; prints `ready` once it listens."""
        server = await asyncio.start_server(self._take, self._host, port)
        print("ready", flush=True)
        await server.serve_forever()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ExceptionGroup):
            back, upstream = await asyncio.open_connection(self._host, self._to)
            pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._forward(reader, upstream))
                    group.create_task(self._collect(back, pieces))
                    group.create_task(self._hand_out(pieces, writer))
            finally:
                upstream.close()
        writer.close()

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(_PIECE):
            sink.write(data)
            await sink.drain()
        raise ConnectionResetError

    async def _collect(
        self, source: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        data = b"-"
        while data:
            data = await source.read(_PIECE)
            delay = float(self._file.read_text() or 0)
            pieces.put_nowait((asyncio.get_running_loop().time() + delay, data))

    async def _hand_out(
        self, pieces: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            if not data:
                raise ConnectionResetError
            sink.write(data)
            await sink.drain()


if __name__ == "__main__":
    asyncio.run(SlowRelay(sys.argv[1], int(sys.argv[3]), Path(sys.argv[4])).serve(int(sys.argv[2])))
