"""Fields of a config that a command line changes: one grammar and one parser, for train.py and for the commands.

| form | meaning |
|---|---|
| `--config.FIELD=VALUE`, `--config.FIELD VALUE` | sets a field, such as `--config.model.width=0.5` |
| `--set FIELD=VALUE`, `--set=FIELD=VALUE` | the same |
| `--config.FIELD`, `--noconfig.FIELD` | sets a field that is true or false |

ml_collections parses the value by the type of the field: a text is taken as it is, `None` means none, a tuple is
written as "(0.1, 1.0)" and a dictionary as "{'aux_4a': 0.3}".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from inception_jax.errors import UserError, printable
from inception_jax.training.config import check_fields, field_type

EXAMPLE = "model.aux=False"
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(?:=(.*))?", re.DOTALL)
_SET = re.compile(r"--?set(?:=(.*))?", re.DOTALL)


class _NoneAllowed:
    """A parser that reads "None" as None; whether a field may be None is for `TrainConfig` to check."""

    def parse(self, argument: str) -> Any:
        return None if argument == "None" else super().parse(argument)  # type: ignore[misc]


class _Integer(_NoneAllowed, flags.IntegerParser):  # type: ignore[misc]
    pass


class _Float(_NoneAllowed, flags.FloatParser):  # type: ignore[misc]
    pass


class _Text(_NoneAllowed, flags.ArgumentParser):
    pass


for _type, _parser in ((int, _Integer()), (float, _Float()), (str, _Text())):
    config_flags.register_flag_parser_for_type(_type, _parser)


def rewrite(arguments: Sequence[str], prefix: str) -> list[str]:
    """Returns a command line in which each override is one argument, `prefix` and then FIELD=VALUE.

    Args:
      arguments: without the name of the program.
      prefix: "--config." or "--set=".

    Raises:
      UserError: a field is unknown or has no value; an unknown one comes with the nearest names.
    """
    rewritten: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--":
            return [*rewritten, argument, *left]
        if found := _SET.fullmatch(argument):
            change = found[1] if found[1] is not None else next(left, "")
            if "=" not in change:
                raise UserError(f"{printable(f'--set {change}'.strip())}: it must be FIELD=VALUE, such as {EXAMPLE}.")
            name, _, value = change.partition("=")
            check_fields([name])
        elif found := _OVERRIDE.fullmatch(argument):
            negated, name, value = found.groups()
            check_fields([name])
            if value is None:
                value = _implied(name, negated) or next(left, None)
            if value is None:
                raise UserError(f"{printable(argument)} has no value; write {printable(argument)}=VALUE.")
        else:
            rewritten.append(argument)
            continue
        rewritten.append(f"{prefix}{name}={value}")
    return rewritten


def _implied(name: str, negated: str | None) -> str | None:
    """Returns the value of a field that is named without one; None if the next argument is its value.

    Raises:
      UserError: "no" stands before a field that is not true or false.
    """
    if field_type(name) is bool:
        return "false" if negated else "true"
    if negated:
        raise UserError(f"--noconfig.{printable(name)}: config.{printable(name)} is not true or false.")
    return None


def apply_overrides(config: ml_collections.ConfigDict, changes: Sequence[str]) -> None:
    """Changes fields of `config` in place.

    Args:
      config: what `get_config` of a config file returned.
      changes: FIELD=VALUE.

    Raises:
      UserError: a field is unknown, or a value does not fit its type.
    """
    arguments = ["", *rewrite([f"--set={change}" for change in changes], "--config.")]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(override_error(error, arguments, values)) from error


def override_error(error: Exception, arguments: Sequence[str], values: flags.FlagValues) -> str:
    """Returns in one line what an error of absl or ml_collections means, with what is allowed.

    Args:
      error: as one of them raised it.
      arguments: the command line.
      values: the flags that were parsed.
    """
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", str(error), re.DOTALL)
    if isinstance(error, flags.IllegalFlagValueError) and found is not None:
        name, value, why = found.groups()
        shown = name if name.startswith("config.") else f"--{name}"
        allowed = _allowed(values[name]) if name in values else ""
        return f"{shown} is {value!r}; it must be {allowed}." if allowed else f"{shown} is {value!r}: {printable(why)}."
    text = printable(" ".join(str(error).split())[-300:])
    if isinstance(error, AttributeError | KeyError) and any("config.loss.aux_weights." in each for each in arguments):
        return (
            f"{type(error).__name__}: {text}; an override changes the weights of heads that the config file names. "
            "For other heads give all weights: loss.aux_weights=\"{'aux_4a': 0.3}\""
        )
    return f"{text}; see --help." if isinstance(error, flags.Error) else f"{type(error).__name__}: {text}"


def _allowed(flag: flags.Flag) -> str:
    """Returns the values that a flag takes, in words; empty where absl's own message says more."""
    if isinstance(flag.parser, flags.BooleanParser):
        return "true or false"
    return str(flag.parser.syntactic_help or "")
