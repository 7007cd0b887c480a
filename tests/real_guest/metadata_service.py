"""An instance's metadata service, for one instance; runs in the guest's namespaces, with the guest's own Python.

As EC2's (docs.aws.amazon.com, "Use IMDS"): a session token by PUT, and 401 for a GET without one where it is required.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "c2Vzc2lvbg=="
IDENTITY = {
    "accountId": "123456789012",
    "region": "eu-west-1",
    "availabilityZone": "eu-west-1a",
    "version": "2017-09-30",
}


class Service(BaseHTTPRequestHandler):
    """Serves the files of a folder as /latest/... of any version; READY=YES to /vm is kept, as OneGate would."""

    folder: Path
    is_token_required: bool
    address: str

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        if self.path == "/vm":
            seen = {name.lower(): value for name, value in self.headers.items()}
            (self.folder / "onegate").write_text(json.dumps({"body": body, **seen}))
            self.answer(200, b"")
        elif self.path.endswith("/api/token"):
            self.answer(200, TOKEN.encode())
        else:
            self.answer(404, b"")

    def do_GET(self) -> None:
        if self.is_token_required and self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
            self.answer(401, b"")
            return
        pages = self.pages()
        path = self.path.strip("/").partition("/")[2].rstrip("/")
        below = sorted(
            {
                name.removeprefix(path).strip("/").split("/")[0]
                + ("/" if "/" in name.removeprefix(path).strip("/") else "")
                for name in pages
                if name.startswith(f"{path}/")
            }
        )
        if path in pages:
            self.answer(200, pages[path])
        elif below:
            self.answer(200, "\n".join(below).encode())
        else:
            self.answer(404, b"")

    def pages(self) -> dict[str, bytes]:
        told = self.folder / "user-data"
        name = f"ip-{self.address.replace('.', '-')}.eu-west-1.compute.internal".encode()
        return {
            **({"user-data": told.read_bytes()} if told.exists() else {}),
            "meta-data/ami-id": b"ami-0abc",
            "meta-data/instance-id": (self.folder / "instance-id").read_bytes(),
            "meta-data/instance-type": b"t3.small",
            "meta-data/local-hostname": name,
            "meta-data/hostname": name,
            "meta-data/local-ipv4": self.address.encode(),
            "meta-data/placement/availability-zone": b"eu-west-1a",
            "meta-data/security-groups": b"default",
            "dynamic/instance-identity/document": json.dumps(IDENTITY).encode(),
        }

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be silent."""


if __name__ == "__main__":
    Service.folder = Path(sys.argv[1])
    Service.is_token_required = sys.argv[2] == "required"
    Service.address = sys.argv[3]
    ThreadingHTTPServer(("169.254.169.254", 80), Service).serve_forever()
