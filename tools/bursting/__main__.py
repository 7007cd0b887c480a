"""`tools/burst`: measures how OpenNebula places and starts many VMs, at home and in a cloud."""

from __future__ import annotations

import signal

from tools.bursting.command import command

# A shell or job that ends is as Ctrl-C: what was made is removed then, too.
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler)
command(prog_name="burst")
