"""Command lines for Hydra: values as a shell gives them, quoted where Hydra would read something else."""

from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from launch.recipe import Recipe

QUOTING = (
    "Quote a text inside a list or a dictionary for Hydra, and the whole for the shell: "
    """'data.files={sft: "~/a b.jsonl"}'"""
)


def quoted(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, each value that Hydra does not read as the text it is in Hydra's quotes.

    Hydra's own syntax stays: quoted values, lists, dictionaries, interpolations and, with `-m`, sweeps. Quoting twice
    changes nothing.

    Example:
        >>> quoted(["data.media_root=~/clips (2)", "seed=1", "name=2024", "prompt.system=Yes, or no?"])
        ["data.media_root='~/clips (2)'", 'seed=1', "name='2024'", "prompt.system='Yes, or no?'"]
        >>> quoted(["-m", "reward.format_weight=0.0,0.1", "runs=/a,/b"])
        ['-m', 'reward.format_weight=0.0,0.1', 'runs=/a,/b']
    """
    sweeps = bool({"-m", "--multirun"} & set(arguments))
    return [one if one.startswith("-") or "=" not in one else _quoted(one, sweeps) for one in arguments]


def _quoted(argument: str, sweeps: bool) -> str:
    key, _, value = argument.partition("=")
    kinds = _kinds(key.lstrip("+"))
    text_only = bool(kinds) and kinds <= {str, type(None)}
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        as_is = value.startswith(("[", "{")) and not text_only  # Hydra's error says where it is wrong
    else:
        as_is = _means_itself(override, sweeps, str in kinds, text_only)
    return argument if as_is else f"{key}={QuotedString(value, Quote.single).with_quotes()}"


def _means_itself(override: Override, sweeps: bool, takes_text: bool, text_only: bool) -> bool:
    """Whether Hydra reads the value as the user means it."""
    read = override._value
    if isinstance(read, ChoiceSweep) and read.simple_form:
        return sweeps or not takes_text
    return not text_only or read is None or override.is_sweep_override() or isinstance(read, str | QuotedString)


def _kinds(key: str) -> set[Any]:
    """The types that the recipe allows for a dotted key; none where it does not know the key."""
    annotation: Any = Recipe
    for part in key.split("."):
        for member in _members(annotation):
            if isinstance(member, type) and issubclass(member, BaseModel) and part in member.model_fields:
                annotation = member.model_fields[part].annotation
                break
            if get_origin(member) is dict:
                annotation = get_args(member)[1]
                break
        else:
            return set()
    return _members(annotation)


def _members(annotation: Any) -> set[Any]:
    return set(get_args(annotation)) if get_origin(annotation) in (Union, UnionType) else {annotation}


def hydra_message(error: HydraException) -> str:
    """What Hydra says is wrong with a command line or a recipe, and how to quote what it could not read."""
    lines = str(error).partition("\nConfig search path")[0].splitlines()
    if isinstance(error.__cause__, OmegaConfBaseException):
        lines.append(str(error.__cause__))
    if isinstance(error, OverrideParseException):
        lines.append(QUOTING)
    # Of no use to whoever typed the command: Hydra's grammar, OmegaConf's own names, a "+" that the recipe refuses
    # (unless the key is an engine's, or of an evaluation set).
    noise = ["See https://hydra.cc", "    full_key:", "    object_type="]
    takes_more = any(keys in str(error) for keys in (".engine.", "eval.sets."))
    noise += [] if takes_more else ["To append to your config use"]
    told = "\n".join(line for text in lines for line in text.splitlines())
    return "\n".join(line for line in told.splitlines() if line.strip() and not line.startswith(tuple(noise)))
