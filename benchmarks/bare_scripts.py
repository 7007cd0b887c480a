"""The least that an asyncio driver of scripts can do: a script for each line, a bounded number at once."""

import asyncio
import os
import sys
from base64 import b64decode
from subprocess import PIPE

_, threads, script = sys.argv[1].split()


async def main() -> None:
    """Read until the end of input."""
    ended = asyncio.Event()
    slots = asyncio.Semaphore(int(threads))
    tasks = set()
    rest = b""

    async def answer(line: bytes) -> None:
        action, vm_id, payload = line.split()
        async with slots:
            process = await asyncio.create_subprocess_exec(script, vm_id, stdin=PIPE, stdout=PIPE, stderr=PIPE)
            output, _ = await process.communicate(b64decode(payload))
        result = b"FAILURE" if process.returncode else b"SUCCESS"
        os.write(1, b"%s %s %s %s\n" % (action, result, vm_id, output.strip() or b"-"))

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
