"""The least that any driver does for a POLL: read the line, base64, XML, and write a line that tells what was in it."""

import binascii
import os

from lxml import etree


def main() -> None:
    """Read until the end of input."""
    rest = b""
    while data := os.read(0, 262144):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line == b"INIT":
                os.write(1, b"INIT SUCCESS\n")
                continue
            action, vm_id, payload = line.split()
            document = etree.fromstring(binascii.a2b_base64(payload))
            deploy_id = document.findtext("DEPLOY_ID", "").encode()
            os.write(1, b'%s SUCCESS %s STATE=a CPU=1.0 MEMORY=262144 ID="%s"\n' % (action, vm_id, deploy_id))


main()
