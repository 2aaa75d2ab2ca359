"""An SMP server of ours on a TCP port, for answers that Zephyr never gives: lies, silence, noise, a shell that makes keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from provisioning.codec.cbor import Value
from provisioning.codec.smp import LineReader, Message, Op, to_lines

Body = Mapping[int | str, Value]


@asynccontextmanager
async def answering(answer: Callable[[Message], Body | bytes | None]) -> AsyncIterator[str]:
    """The address of a server that answers each request with a body, with raw octets, or not at all."""

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = LineReader()
        try:
            while octets := await reader.read(4096):
                for message in lines.feed(octets):
                    request = Message.decode(message)
                    body = answer(request)
                    if isinstance(body, bytes):
                        writer.write(body)
                    elif body is not None:
                        op = Op(request.op + 1)
                        reply = Message(op, request.group, request.command, request.sequence, body)
                        writer.write(to_lines(reply.encode()))
                    await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(session, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
