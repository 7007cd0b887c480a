"""What the guest of a simulated instance writes to its console: the user data that a real cloud-init would read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from email import message_from_string
from email.message import Message

from one_provider_mad.domain import Instance, InstanceState

_HIDDEN = ("hashed_passwd", "plain_text_passwd", "passwd", "chpasswd")
"""Keys whose values no console shows."""

_MOST_LINES = 40


def console_text(instance: Instance, user_data: str) -> str:
    """Return lines as a guest writes them while it starts; none before it runs.

    Args:
        instance: as the cloud shows it.
        user_data: that of its create, "" for none.
    """
    if instance.state is InstanceState.PENDING:
        return ""
    told = [*told_lines(user_data)]
    more = [f"cloud-init: and {len(told) - _MOST_LINES} more lines"] if len(told) > _MOST_LINES else []
    lines = (
        f"simulated instance {instance.deploy_id} has started",
        *(f"cloud-init: {line}" for line in told[:_MOST_LINES]),
        *more,
        "",
        f"{instance.name or instance.deploy_id} login: ",
    )
    return "\r\n".join(lines)


def told_lines(user_data: str) -> Iterator[str]:
    """Yield the user data for a person: each setting of a cloud-config and each line of a script, passwords left out.

    Args:
        user_data: as `guest/` makes it for cloud-init; of other text only the length is told.
    """
    message = message_from_string(user_data)
    if not message.is_multipart():
        if user_data:
            begun = "takes" if user_data.startswith("#") else "does not read"
            yield f"{begun} user data of {len(user_data)} characters"
        return
    for part in message.walk():
        if not part.is_multipart():
            yield from _told_by_part(part)


def _told_by_part(part: Message) -> Iterator[str]:
    text = str(part.get_payload()).strip()
    if part.get_content_type() != "text/cloud-config":
        yield f"runs {part.get_filename() or 'a script'}"
        yield from (f"  {line}" for line in text.splitlines())
        return
    try:
        settings = json.loads(text.partition("\n")[2])
    except ValueError:
        yield f"takes {part.get_filename() or 'settings'} of the template"
        return
    for name, value in settings.items():
        yield f"{name}: {_shown(value)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        shown = (f"{key} {'(hidden)' if key in _HIDDEN else _shown(each)}" for key, each in value.items())
        return ", ".join(shown)
    if isinstance(value, list):
        return "; ".join(map(_shown, value))
    return value if isinstance(value, str) else json.dumps(value)
