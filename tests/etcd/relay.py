"""A TCP relay before etcd that can be cut, or made slow, while etcd itself is well."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Relay:
    """Forwards connections; use it as an async context.

    Attributes:
        delay: seconds by which what the server says is held back.
    """

    def __init__(self, url: str) -> None:
        self._host, _, self._port = url.rpartition("//")[2].rpartition(":")
        self.delay = 0.0
        self._open = True
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        await self.cut()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def cut(self) -> None:
        """End every connection and refuse new ones."""
        self._open = False
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def mend(self) -> None:
        self._open = True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if not self._open or task is None:
            writer.close()
            return
        self._tasks.add(task)
        upstream = None
        try:
            back, upstream = await asyncio.open_connection(self._host, int(self._port))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, upstream, slow=False))
                group.create_task(self._copy(back, writer, slow=True))
        except* (OSError, EOFError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            if upstream is not None:
                upstream.close()

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, slow: bool
    ) -> None:
        while data := await source.read(65536):
            if slow and self.delay:
                await asyncio.sleep(self.delay)
            sink.write(data)
            await sink.drain()
        raise EOFError
