"""The least that an asyncio driver can do: answer INIT, then every line after a wait, a bounded number at once.

With `lookup` for a last argument, one more wait of the same length comes first, shared by all lines that are there.
"""

import asyncio
import os
import sys

_, threads, seconds, *lookup = (sys.argv[1] if len(sys.argv) > 1 else "bare 15 0.1").split()


async def main() -> None:
    """Read until the end of input."""
    ended = asyncio.Event()
    slots = asyncio.Semaphore(int(threads))
    tasks: set[asyncio.Task[None]] = set()
    rest = b""
    lookup_task: asyncio.Task[None] | None = None

    async def look_up_once() -> None:
        nonlocal lookup_task
        seen = -1
        while seen < len(tasks):  # as long as more lines come
            seen = len(tasks)
            await asyncio.sleep(0)
        lookup_task = None
        await asyncio.sleep(float(seconds))

    async def answer(line: bytes, shared_lookup: asyncio.Task[None] | None) -> None:
        async with slots:
            if shared_lookup is not None:
                await shared_lookup
            await asyncio.sleep(float(seconds))
        action, vm_id, _payload = line.split()
        os.write(1, b"%s SUCCESS %s -\n" % (action, vm_id))

    def read() -> None:
        nonlocal rest, lookup_task
        data = os.read(0, 262144)
        if not data:
            ended.set()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"INIT":
                os.write(1, b"INIT SUCCESS\n")
            else:
                if lookup and lookup_task is None:
                    lookup_task = asyncio.create_task(look_up_once())
                task = asyncio.create_task(answer(line, lookup_task))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(0, read)
    await ended.wait()


asyncio.run(main())
