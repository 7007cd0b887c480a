"""User data for cloud-init: a cloud-config, START_SCRIPT and the user's own USER_DATA in one message.

Facts: cloud-init's cloudinit/user_data.py, handlers/, mergers/, distros/__init__.py and config/cc_*.py.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from email.message import Message
from typing import Any

from one_provider_mad.guest.effects import sentences
from one_provider_mad.guest.parts import CONFIG, SHELL_SCRIPT, given_part, message, part, unpacked
from one_provider_mad.guest.passwords import hashed
from one_provider_mad.guest.reading import Context

VARIABLES = "/var/lib/one-context/context.sh"
"""File in the guest with the variables of CONTEXT, readable for root only."""

_START = "/var/lib/one-context/start-script"

_MERGE = "dict(no_replace,recurse_array)+list(append)+str()"
"""Values of the user's own cloud-config stay, lists are joined; without this, ours would replace all of its lists."""

_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""Characters that JSON takes as they are, and YAML does not, or takes as line breaks (yaml.org/spec/1.2.2, 5)."""

_READY = r"""#!/bin/sh
# Reports READY=YES to OneGate, in the form of one-context's client, which every release of OneGate takes.
. {variables}
body='data=READY%3DYES&type=1'
report() {{
  if command -v curl >/dev/null; then
    curl -sf -m 30 -o /dev/null -X PUT -H "X-ONEGATE-TOKEN: $ONEGATE_TOKEN" -H "X-ONEGATE-VMID: $VMID" \
      -d "$body" "$ONEGATE_ENDPOINT/vm"
  else
    wget -q -T 30 -O /dev/null --method=PUT --header="X-ONEGATE-TOKEN: $ONEGATE_TOKEN" \
      --header="X-ONEGATE-VMID: $VMID" --header='Content-Type: application/x-www-form-urlencoded' \
      --body-data="$body" "$ONEGATE_ENDPOINT/vm"
  fi
}}
for try in 1 2 3; do
  {condition} && report && exit 0
  [ $try = 3 ] || sleep 10
done
echo 'READY=YES was not reported to OneGate' >&2
exit 1
"""


def cloud_init_data(context: Context, *, purpose: str) -> tuple[bytes, tuple[str, ...]]:
    """Return user data, b"" for none, and sentences about everything that does not reach the guest.

    Args:
        context: what the guest is to get.
        purpose: salt of the password's hash, such as the VM and its STIME.
    """
    faults = [*context.faults, *sentences(context, lambda effect: effect.cloud_init)]
    given = unpacked(context.given)
    own = list(_own_parts(context, purpose=purpose))
    if not own:
        return given, tuple(faults)
    theirs = given_part(given) if given.strip() else None
    if given.strip() and theirs is None:
        faults.append(
            "CONTEXT attribute USER_DATA has no effect in the guest: its first line is none that cloud-init knows, such"
            " as #cloud-config or #!/bin/sh"
        )
    # The user's own comes first: a later part of cloud-config yields to it.
    return message([*([theirs] if theirs else []), *own]), tuple(faults)


def _own_parts(context: Context, *, purpose: str) -> Iterator[Message]:
    is_ready_reported = context.reports_ready and bool(context.variables.get("ONEGATE_TOKEN"))
    has_variables = context.has_own
    config = dict(_config(context, purpose=purpose))
    files = []
    if has_variables:
        files.append(_file(VARIABLES, variables_text(context.variables).encode(), "0600"))
    script = _executable(context.start_script)
    if script and has_variables:
        files.append(_file(_START, script, "0700"))
        script = f"#!/bin/sh\n. {VARIABLES}\nexec {_START}\n".encode()
    if files:
        config["write_files"] = files
    if config:
        yield part(CONFIG, f"#cloud-config\n{_json(config)}\n".encode(), name="one-context.cfg", merge=_MERGE)
    # cloud-init runs scripts in the order of their names: parts without one (part-001), its own runcmd, then these.
    if script:
        yield part(SHELL_SCRIPT, script, name="start-script")
    if is_ready_reported:
        yield part(SHELL_SCRIPT, _ready(context).encode(), name="zz-report-ready")


def _config(context: Context, *, purpose: str) -> Iterator[tuple[str, Any]]:
    yield from _users(context, purpose=purpose)
    if context.hostname:
        # Without fqdn, cloud-init takes the cloud's, which then is the host name on RHEL and its like.
        yield "hostname", context.hostname.split(".")[0]
        yield "fqdn", context.hostname
        yield "preserve_hostname", False
        yield "manage_etc_hosts", "localhost"
    if context.timezone:
        yield "timezone", context.timezone
    if not context.grows_root:
        yield "growpart", {"mode": "off"}
        yield "resize_rootfs", False
    if context.name_servers or context.search_domains:
        resolver = {"nameservers": list(context.name_servers), "searchdomains": list(context.search_domains)}
        yield "manage_resolv_conf", True
        yield "resolv_conf", {name: words for name, words in resolver.items() if words}
        yield "bootcmd", [["sh", "-c", _resolved(context)]]


def _users(context: Context, *, purpose: str) -> Iterator[tuple[str, Any]]:
    password = context.password.hashed or (
        hashed(context.password.plain, purpose=purpose) if context.password.plain else ""
    )
    if context.keys and not context.user:
        yield "ssh_authorized_keys", list(context.keys)
    name = context.user or ("root" if password else "")
    if not name:
        return
    user: dict[str, Any] = {"name": name}
    if name != "root":
        user["shell"] = context.shell or "/bin/bash"
        if context.has_sudo:
            user["sudo"] = "ALL=(ALL) NOPASSWD:ALL"
    if context.keys and context.user:
        user["ssh_authorized_keys"] = list(context.keys)
    if password:
        # `passwd` would count for a new user only.
        user |= {"lock_passwd": False, "hashed_passwd": password}
    yield "users", ["default", user]
    if context.user == "root" and context.keys:
        yield "disable_root", False


def _resolved(context: Context) -> str:
    """Return the command that gives systemd-resolved the name servers; their text is checked, so it needs no quotes."""
    lines = ["[Resolve]"]
    if context.name_servers:
        lines.append(f"DNS={' '.join(context.name_servers)}")
    if context.search_domains:
        lines.append(f"Domains={' '.join(context.search_domains)}")
    words = " ".join(f"'{line}'" for line in lines)
    folder = "/etc/systemd/resolved.conf.d"
    return (
        f"[ -d /etc/systemd ] || exit 0; mkdir -p {folder} && printf '%s\\n' {words} > {folder}/one-context.conf;"
        " systemctl try-restart --no-block systemd-resolved >/dev/null 2>&1 || :"
    )


def _file(path: str, content: bytes, permissions: str) -> dict[str, str]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if not text or "\r" in text or "\0" in text:
        encoded = base64.b64encode(content).decode()
        return {"path": path, "permissions": permissions, "encoding": "b64", "content": encoded}
    return {"path": path, "permissions": permissions, "content": text}


def _executable(script: bytes) -> bytes:
    """Return START_SCRIPT with an interpreter in its first line, which cloud-init needs and one-context does not."""
    if not script.strip() or script.startswith((b"#!", b"\x7fELF")):
        return script.strip() and script
    return b"#!/bin/bash\n" + script


def _ready(context: Context) -> str:
    if path := context.variables.get("READY_SCRIPT_PATH", "").strip():
        condition = _quoted(path)
    elif context.ready_script:
        condition = f"sh -c {_quoted(context.ready_script)}"
    else:
        condition = ":"
    return _READY.format(variables=VARIABLES, condition=condition)


def variables_text(variables: Mapping[str, str]) -> str:
    """Return shell lines that export the variables, and OneGate's token under the name that its client reads too."""
    token = {"TOKENTXT": variables["ONEGATE_TOKEN"]} if "ONEGATE_TOKEN" in variables else {}
    return "".join(f"export {name}={_quoted(value)}\n" for name, value in {**variables, **token}.items())


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=1)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
