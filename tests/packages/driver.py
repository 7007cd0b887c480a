"""An action driver in a root, started through the link in OpenNebula's drivers folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.packages.debian_root import MADS, Root

NAME = "cloud"


class Driver:
    """A running action driver, and the lines it has written."""

    def __init__(self, root: Root, process: subprocess.Popen[str]) -> None:
        """Take the process, which has answered INIT."""
        self._root, self._process = root, process

    def send(self, action: str, vm_id: int, *options: str) -> None:
        """Send the request of OpenNebula that `one-provider encode` writes."""
        line = self._root.run("one-provider", "encode", action, f"--vm-id={vm_id}", f"--type={NAME}", *options)
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def reply(self, action: str, vm_id: int) -> str:
        """Return the rest of the reply to that request: what follows SUCCESS and the VM's number."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            words = line.rstrip("\n").split(" ", 3)
            if words[0] == action and words[2] == str(vm_id):
                assert words[1] == "SUCCESS", line
                return words[3] if len(words) > 3 else ""
        raise AssertionError(f"the driver ended without a reply to {action} of VM {vm_id}")

    def perform(self, action: str, vm_id: int, *options: str) -> str:
        """Send a request, and return its reply."""
        self.send(action, vm_id, *options)
        return self.reply(action, vm_id)

    def release(self) -> str:
        """Return the path of the Python that it runs: argv[0] of the program that runuser has started."""
        found = self._root.run("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -a releases/.*/bin/python")
        return found.strip()


@contextmanager
def driver(root: Root) -> Iterator[Driver]:
    """Start the driver as oned does, and end it as oned does, which it has to survive with exit code 0."""
    with root.start(f"{MADS}/one_vmm_provider", f"-t 15 -r 3 {NAME}") as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("INIT\n")
            process.stdin.flush()
            assert process.stdout.readline() == "INIT SUCCESS\n"
            yield Driver(root, process)
            process.stdin.write("FINALIZE\n")
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


def configure(root: Root, text: str = "") -> None:
    """Write the cloud's configuration: the simulated one, with further settings of it."""
    path = root.file(f"/etc/one/one_provider_mad/{NAME}.toml")
    lines = ['provider = "simulated"', 'owner = "one-test"', f'hypervisor = "{NAME}"', "[simulated]", text, ""]
    path.write_text("\n".join(lines))
