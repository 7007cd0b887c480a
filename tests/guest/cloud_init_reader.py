"""Reads user data with cloud-init's own code, in the Python that has it: a JSON line in, a JSON line out.

`{"data": base64}` is answered with `{"parts": [[type, file, base64]...], "config": {...}, "errors": [...]}`: what
cloud-init makes of it, the cloud-config of all parts together, and everything that it or its schema complains of.
"""

# mypy: ignore-errors

import base64
import json
import logging
import sys
import tempfile

from cloudinit import handlers, helpers, user_data, util
from cloudinit.config.schema import SchemaValidationError, get_schema, validate_cloudconfig_schema
from cloudinit.handlers.cloud_config import CloudConfigPartHandler


class Complaints(logging.Handler):
    """Keeps the messages of warnings and errors."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if not record.getMessage().startswith("No per instance data available"):  # there is no instance here
            self.messages.append(record.getMessage())


def read(data, schema, folder, complaints):
    """Return what cloud-init makes of user data."""
    complaints.messages = []
    paths = helpers.Paths({"cloud_dir": folder, "run_dir": folder})
    message = user_data.UserDataProcessor(paths).process(data)
    merging = CloudConfigPartHandler(paths)
    merging.handle_part(None, handlers.CONTENT_START, None, None, None, None)
    parts = []
    for part in message.walk():
        if part.get_content_maintype() == "multipart":
            continue
        kind, name, payload = part.get_content_type(), part.get_filename(), util.fully_decoded_payload(part)
        text = payload if isinstance(payload, str) else payload.decode("utf-8", "surrogateescape")
        parts.append([kind, name, base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()])
        if kind == "text/cloud-config":
            merging.handle_part(None, kind, name, text, None, dict(part.items()))
    config = merging.cloud_buf or {}
    try:
        validate_cloudconfig_schema(config, schema, strict=True)
    except SchemaValidationError as error:
        complaints.messages += [f"schema: {problem}" for problem in error.schema_errors or ()]
    return {"parts": parts, "config": config, "errors": complaints.messages}


if __name__ == "__main__":
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    schema = get_schema()
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            answer = read(base64.b64decode(json.loads(line)["data"]), schema, folder, complaints)
            sys.stdout.write(f"{json.dumps(answer)}\n")
            sys.stdout.flush()
