"""Errors that a user can fix."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """The message says what is wrong (file, record, field) and what to do; commands print it without a traceback.

    Everything that bad input, a wrong recipe or a missing machine can cause derives from it. A fault of this code does
    not: it ends in a traceback.
    """


def problems(error: "ValidationError", whole: str = "") -> list[str]:
    """What pydantic finds wrong, each as `field: what`; `whole` stands where it is no single field."""
    return [
        f"{'.'.join(map(str, each['loc'])) or whole}: {each['msg'].removeprefix('Value error, ')}"
        for each in error.errors()
    ]
