"""Errors that a user can fix."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

SHORT = 80  # characters of a value that a message repeats


class UserError(ValueError):
    """The message says what is wrong (file, record, field) and what to do; commands print it without a traceback.

    Everything that bad input, a wrong recipe or a missing machine can cause derives from it. A fault of this code does
    not: it ends in a traceback.
    """


def problems(error: "ValidationError", whole: str = "") -> list[str]:
    """What pydantic finds wrong, each as `field: what`; `whole` stands where it is no single field."""
    return [
        f"{'.'.join(map(str, each['loc'])) or whole}: {each['msg'].removeprefix('Value error, ')}{_written(each)}"
        for each in error.errors()
    ]


def _written(fault: "ErrorDetails") -> str:
    """How one text is given where several are wanted: `tracking=wandb` is `[wandb]`."""
    text = fault["input"]
    if not isinstance(text, str) or len(text) >= SHORT:  # a YAML file of a kilobyte can hold a list of gigabytes
        return ""
    return {"list_type": f": [{text}]", "dict_type": f": {{name: {text}}}"}.get(fault["type"], "")
