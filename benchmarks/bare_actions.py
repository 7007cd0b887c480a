"""The least that an asyncio driver can do: answer INIT, then every line after a wait, a bounded number at once.

With `look` for a last argument, one more wait of the same length comes first, shared by all lines that are there.
"""

import asyncio
import os
import sys

_, threads, seconds, *look = (sys.argv[1] if len(sys.argv) > 1 else "bare 15 0.1").split()


async def main() -> None:
    """Read until the end of input."""
    ended = asyncio.Event()
    slots = asyncio.Semaphore(int(threads))
    tasks: set[asyncio.Task[None]] = set()
    rest = b""
    looking: asyncio.Task[None] | None = None

    async def look_once() -> None:
        nonlocal looking
        seen = -1
        while seen < len(tasks):  # as long as more lines come
            seen = len(tasks)
            await asyncio.sleep(0)
        looking = None
        await asyncio.sleep(float(seconds))

    async def answer(line: bytes, looked: asyncio.Task[None] | None) -> None:
        async with slots:
            if looked is not None:
                await looked
            await asyncio.sleep(float(seconds))
        action, vm_id, _payload = line.split()
        os.write(1, b"%s SUCCESS %s -\n" % (action, vm_id))

    def read() -> None:
        nonlocal rest, looking
        data = os.read(0, 262144)
        if not data:
            ended.set()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"INIT":
                os.write(1, b"INIT SUCCESS\n")
            else:
                if look and looking is None:
                    looking = asyncio.create_task(look_once())
                task = asyncio.create_task(answer(line, looking))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(0, read)
    await ended.wait()


asyncio.run(main())
