"""What the servers in this folder have in common: a port of their own choice, told in the first line, and an end when
whoever started them has ended."""

import asyncio
import sys


async def until_stdin_ends(told=lambda line: None):
    """Hands on each line from stdin, until there are no more."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        told(line.decode().strip())


async def serve(handle, told=lambda line: None, **options):
    """Serves each connection with `handle(reader, writer)`."""
    running = set()

    async def guarded(reader, writer):
        task = asyncio.current_task()
        running.add(task)
        try:
            await handle(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the other side may leave whenever it wants
        finally:
            running.discard(task)
            writer.close()

    server = await asyncio.start_server(guarded, "127.0.0.1", 0, backlog=1024, **options)
    print(server.sockets[0].getsockname()[1], flush=True)
    await until_stdin_ends(told)
    server.close()
    for task in running:
        task.cancel()


def main(handle, **options):
    asyncio.run(serve(handle, **options))
