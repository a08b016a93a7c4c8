"""Command lines of `key=value`, as the recipes have them."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml


class UsageError(ValueError):
    """A command line that says too little, or something unknown; the message says what to write."""


def key_values(arguments: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Plain arguments in order, and `key=value` ones as texts. A key that ends in a dot allows any below it, as YAML.

    Raises:
        UsageError: an unknown key, or one that stands twice.
    """
    plain: list[str] = []
    options: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            plain.append(argument)
            continue
        below = any(known.endswith(".") and key.startswith(known) and key != known for known in keys)
        if not below and (key not in keys or key.endswith(".")):
            raise UsageError(f"{argument}: unknown key; choose of {', '.join(keys)}")
        if key in options:
            raise UsageError(f"{key} is given twice")
        options[key] = yaml.safe_load(value) if below else value
    return plain, options


def whole_number(options: Mapping[str, str], key: str, default: int) -> int:
    """An option that is 0 or more.

    Raises:
        UsageError: it is no such number.
    """
    text = options.get(key, str(default))
    if not text.isdecimal():
        raise UsageError(f"{key}={text}: give a whole number from 0 on")
    return int(text)


def truth(options: Mapping[str, str], key: str) -> bool:
    """An option that is true or false; false where it is not given.

    Raises:
        UsageError: it is neither.
    """
    text = options.get(key, "false")
    if text not in ("true", "false"):
        raise UsageError(f"{key}={text}: give true or false")
    return text == "true"
