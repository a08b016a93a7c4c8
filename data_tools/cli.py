"""One grammar for all commands: `python -m package.command key=value ...`, with the keys of a pydantic model.

A key of text or of a path takes its value as it is written, whatever characters it has; any other value is read as
YAML (`[a, b]`, `true`, `0.5`). A key of a mapping is a group: `judge=endpoint judge.url=...` gives
`{"name": "endpoint", "url": ...}`. A model that has a field `files` takes plain arguments as its files.
"""

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from data_tools.files import at_home
from rewards.errors import UserError, problems


class UsageError(UserError):
    """A command line that cannot be understood; the message names the argument."""


class Arguments(BaseModel):
    """Base of a command's keys: name, type, default and, by `Field(description=...)`, meaning."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


A = TypeVar("A", bound=Arguments)


def parse(model: type[A], arguments: Sequence[str]) -> A:
    """The arguments of a command line.

    Raises:
        UsageError: an unknown key, a key given twice, a missing or a wrong value.

    Example:
        >>> from pydantic import Field
        >>> class Greeting(Arguments):
        ...     files: list[Path] = []
        ...     to: str = Field("you", description="whom to greet")
        ...     times: int = 1
        >>> parse(Greeting, ["a.txt", "to=x=y, [z]", "times=2"])
        Greeting(files=[PosixPath('a.txt')], to='x=y, [z]', times=2)
    """
    values: dict[str, Any] = {}
    files: list[str] = []
    fields = _fields(model)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if (not equals or key not in fields) and "files" in fields and _names_a_file(argument):
            files.append(argument)
        elif not equals:
            raise UsageError(f"{argument}: write key=value, with a key of {', '.join(fields)}")
        elif key.partition(".")[0] not in fields:
            raise UsageError(f"{key}: unknown key; choose from {', '.join(fields)}")
        elif "." not in key and _is_group(fields[key].annotation) and value != "null" and value[:1] != "{":
            _put(values, f"{key}.name", value)
        else:
            _put(values, key, _value(fields, key, value))
    if files:
        values["files"] = files
    try:
        return model.model_validate(at_home(values))
    except ValidationError as error:
        raise UsageError("; ".join(problems(error, "arguments"))) from error


def _names_a_file(argument: str) -> bool:
    return "=" not in argument or Path(argument).exists()


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for part in above:
        values = values.setdefault(part, {})
    if last in values:
        raise UsageError(f"{key} is given twice")
    values[last] = value


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the key that users write: the alias, where a field has one."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _value(fields: Mapping[str, FieldInfo], key: str, text: str) -> Any:
    if "." not in key and _is_text(fields[key].annotation):
        return None if text == "null" else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{key}={text}: not a YAML value: {' '.join(str(error).split())}") from error


def _is_text(annotation: Any) -> bool:
    """Whether a field is text or a path, or may be null besides."""
    if get_origin(annotation) in (Union, UnionType):
        return all(_is_text(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return all(isinstance(part, str) for part in get_args(annotation))
    return annotation in (str, Path)


def _is_group(annotation: Any) -> bool:
    """Whether a field is a mapping, or may be null besides."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(dict in (part, get_origin(part)) for part in parts)


def usage(model: type[Arguments], text: str) -> str:
    """Help: what the command does, then its keys with type, default and meaning."""
    rows = []
    for name, field in _fields(model).items():
        kind = getattr(field.annotation, "__name__", str(field.annotation)).replace("typing.", "")
        default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)!r}"
        rows.append(f"  {name}={kind}  ({default})  {field.description or ''}".rstrip())
    return "\n".join([text.strip(), "", "keys:", *rows]) + "\n"


def run_command(main: Callable[[A], int | None], model: type[A], text: str) -> None:
    """Parse the command line, run `main`, and exit; an error that a user can fix is one message and exit code 1.

    Args:
        text: of `--help`, usually the module's docstring.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.stdout.write(usage(model, text))
        return
    sys.exit(guarded(lambda: main(parse(model, sys.argv[1:]))))


class Terminated(KeyboardInterrupt):
    """SIGTERM (a scheduler, `kill`) or SIGHUP (a terminal that is gone): ends a command as Ctrl-C does."""


def guarded(work: Callable[[], int | None], after: str = "") -> int:
    """Exit code of `work()`; an error that a user can fix, or a signal, is one message instead of a traceback.

    Args:
        after: said behind "interrupted".
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # an arrow on a console without Unicode ends no stage
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup, and servers, have their own
                signal.signal(number, _terminate)
    try:
        return work() or 0
    except (UserError, OSError, yaml.YAMLError) as error:  # YAML's names the file and the line
        explain(error)
        return 1
    except KeyboardInterrupt as stopped:
        number = stopped.args[0] if isinstance(stopped, Terminated) else signal.SIGINT
        told = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        sys.stderr.write(f"{told}{after}\n")
        return 128 + int(number)


def _terminate(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not end the cleaning up after the first
    raise Terminated(number)


def explain(error: BaseException) -> None:
    """Print an error's message on the standard error stream."""
    import errno

    from data_tools.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print("[bold red]error[/]", end=" ")
    console.print(str(error), markup=False)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        console.print("the disk is full: free some space, then run the same command again; it resumes where it stopped")
