"""The least that an asyncio driver can do: answer INIT, then every line after a wait, a bounded number at once."""

import asyncio
import os
import sys

_, threads, seconds = (sys.argv[1] if len(sys.argv) > 1 else "bare 15 0.1").split()


async def main() -> None:
    """Read until the end of input."""
    ended = asyncio.Event()
    slots = asyncio.Semaphore(int(threads))
    tasks = set()
    rest = b""

    async def answer(line: bytes) -> None:
        async with slots:
            await asyncio.sleep(float(seconds))
        action, vm_id, _payload = line.split()
        os.write(1, b"%s SUCCESS %s -\n" % (action, vm_id))

    def read() -> None:
        nonlocal rest
        data = os.read(0, 262144)
        if not data:
            ended.set()
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"INIT":
                os.write(1, b"INIT SUCCESS\n")
            else:
                task = asyncio.create_task(answer(line))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_reader(0, read)
    await ended.wait()


asyncio.run(main())
