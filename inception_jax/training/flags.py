"""Parses the flags of train.py, which `program` defines."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags

from inception_jax.errors import UserError, printable
from inception_jax.suggestions import nearest
from inception_jax.training.config import TrainConfig
from inception_jax.training.overrides import override_error, rewrite

HELP = ("-h", "--h", "-help", "--help")
REQUIRED = {
    "config": "a file such as configs/digits.py",
    "workdir": "the folder of the run, new or begun",
}


def parse_flags(argv: Sequence[str], ours: Iterable[str], environment: Mapping[str, str]) -> bool:
    """Gives `flags.FLAGS` the values of the command line; returns False if it asks for help.

    Args:
      argv: the program's name and its arguments; see `overrides` for those that change the config.
      ours: names of the flags of this program, which are suggested.
      environment: values by flag, used where the command line does not give the flag.

    Raises:
      UserError: a flag, a field, a value or the config file is wrong; the message says which and what is allowed.
    """
    if any(arg in HELP for arg in argv[1:]):
        return False
    arguments = rewrite(argv[1:], "--config.")
    _check_names(arguments, list(ours))
    given = {_name(arg) for arg in arguments if arg.startswith("-")}
    more = [f"--{name}={value}" for name, value in environment.items() if value and name not in given]
    try:
        positional = _parse([argv[0], *more, *arguments])
        for name, meaning in REQUIRED.items():
            if flags.FLAGS[name].value is None and name not in given:
                raise UserError(f"--{name} is missing: {meaning}.")
        flags.FLAGS.config.keys()  # a file that did not load raises at its first use
    except UserError:
        raise
    except Exception as error:  # of a flag, or of the code of the config file
        raise UserError(_explanation(error, arguments)) from error
    if positional[1:]:
        raise UserError(f"Unknown arguments: {printable(' '.join(positional[1:]))}. Flags start with --; see --help.")
    return True


def _parse(argv: list[str]) -> list[str]:
    """Parses a command line and returns what is left of it; ml_collections looks for overrides in `sys.argv`."""
    before, sys.argv = sys.argv, argv
    try:
        return flags.FLAGS(argv)
    finally:
        sys.argv = before


def help_text(description: str, ours: Iterable[str]) -> str:
    """Returns the help of a program: what it does, and its flags."""
    lines = [description.strip(), "", "Flags:"]
    for name in ours:
        flag = flags.FLAGS[name]
        default = "" if flag.default is None else f" Default: {flag.default_as_str}."
        lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)


def _check_names(arguments: Sequence[str], ours: list[str]) -> None:
    """Raises a `UserError` with the nearest flags if an argument is not a flag."""
    known = set(flags.FLAGS)
    known |= {f"no{name}" for name in known if flags.FLAGS[name].boolean}
    is_value = False
    for arg in arguments:
        if arg == "--":
            return
        if is_value or not arg.startswith("-"):
            is_value = False
            continue
        name = _name(arg)
        root = name.split(".")[0]
        if root not in known or (root != "config" and name != root):
            flag_names = [*ours, "set", *(f"config.{each}" for each in TrainConfig.model_fields)]
            near = nearest(root, flag_names, limit=2, cutoff=0.6)
            hint = f"nearest: {', '.join(f'--{each}' for each in near)}" if near else "see --help"
            raise UserError(f"--{printable(name)} is unknown; {hint}.")
        takes_value = name.startswith("config.") or not (name in known and _is_boolean(name))
        is_value = "=" not in arg and takes_value


def _is_boolean(name: str) -> bool:
    return name not in flags.FLAGS or bool(flags.FLAGS[name].boolean)  # of "noX", which FLAGS does not list


def _name(arg: str) -> str:
    return arg.lstrip("-").split("=")[0]


def _explanation(error: Exception, arguments: Sequence[str]) -> str:
    """Returns in one line what an error of absl, of ml_collections or of a config file means."""
    if missing := re.search(r"No such file or directory: '(.+)'$", str(error)):
        path = Path(missing.group(1))
        files = [str(each) for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = nearest(str(path), files, limit=2, cutoff=0.6)
        hint = f"nearest: {', '.join(near)}" if near else "configs/ holds some"
        return f"--config: {printable(missing.group(0))}; {hint}."
    return override_error(error, arguments, flags.FLAGS)
