"""The parameters of EC2's actions, from botocore's description of the service."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from botocore.model import OperationNotFoundError
from botocore.session import Session


@cache
def _service() -> Any:
    return Session().get_service_model("ec2")


def unknown_parameters(action: str, names: Iterable[str]) -> list[str]:
    """Those of the flat names that the action does not have."""
    try:
        shape = _service().operation_model(action).input_shape
    except OperationNotFoundError:
        return []  # the account has no such action either, and says so
    return [name for name in names if name not in ("Action", "Version") and not _is_parameter(shape, name)]


def _is_parameter(shape: Any, name: str) -> bool:
    for part in name.split("."):
        if shape.type_name == "list":
            if not part.isdigit():
                return False
            shape = shape.member
        elif shape.type_name == "structure":
            found = [member for key, member in shape.members.items() if _written(key, member) == part]
            if not found:
                return False
            shape = found[0]
        else:
            return False
    return bool(shape.type_name not in ("list", "structure"))


def _written(key: str, member: Any) -> str:
    """A member's name on the wire, as botocore's serializer for EC2 has it."""
    serialization = member.serialization
    if "queryName" in serialization:
        return str(serialization["queryName"])
    name = str(serialization.get("name", key))
    return name[0].upper() + name[1:]
