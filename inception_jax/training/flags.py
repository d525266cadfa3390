"""Reads the flags of train.py, which `program` defines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from absl import flags

from inception_jax.errors import UserError, printable
from inception_jax.suggestions import nearest
from inception_jax.training.config import TrainConfig, check_fields

HELP = ("-h", "--h", "-help", "--help")
REQUIRED = {
    "config": "a file such as configs/digits.py",
    "workdir": "the folder of the run, new or begun",
}


def parse_flags(argv: Sequence[str], ours: Iterable[str], environment: Mapping[str, str]) -> bool:
    """Gives `flags.FLAGS` the values of the command line; returns False if it asks for help.

    Args:
      argv: the program's name and its arguments.
      ours: names of the flags of this program, which are suggested.
      environment: values by flag that hold where the command line names none.

    Raises:
      UserError: a flag, a field, a value or the config file is not as needed.
    """
    if any(arg in HELP for arg in argv[1:]):
        return False
    _check_names(argv[1:], list(ours))
    check_fields(arg.split("=")[0].split(".", 1)[1] for arg in argv if arg.startswith(("--config.", "-config.")))
    given = {_name(arg) for arg in argv[1:] if arg.startswith("-")}
    more = [f"--{name}={value}" for name, value in environment.items() if value and name not in given]
    try:
        positional = flags.FLAGS([argv[0], *more, *argv[1:]])
        for name, meaning in REQUIRED.items():
            if flags.FLAGS[name].value is None and name not in given:
                raise UserError(f"--{name} is missing: {meaning}.")
        flags.FLAGS.config.keys()  # a file that did not load says so at its first use
    except UserError:
        raise
    except flags.IllegalFlagValueError as error:
        raise UserError(_bad_value(str(error))) from error
    except Exception as error:  # of a flag, or of the code of the config file
        raise UserError(_words(error, argv)) from error
    if positional[1:]:
        raise UserError(f"Unknown arguments: {printable(' '.join(positional[1:]))}. Flags start with --; see --help.")
    return True


def help_text(description: str, ours: Iterable[str]) -> str:
    """Returns the help of a program: what it does, and its flags."""
    lines = [description.strip(), "", "Flags:"]
    for name in ours:
        flag = flags.FLAGS[name]
        default = "" if flag.default is None else f" Default: {flag.default_as_str}."
        lines.append(f"  --{name}: {flag.help}{default}")
    return "\n".join(lines)


def _check_names(arguments: Sequence[str], ours: list[str]) -> None:
    """Raises a `UserError` with the nearest flags if a name is none."""
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
            flag_names = [*ours, *(f"config.{each}" for each in TrainConfig.model_fields)]
            near = nearest(root, flag_names, limit=2, cutoff=0.6)
            hint = f"nearest: {', '.join(f'--{each}' for each in near)}" if near else "see --help"
            raise UserError(f"--{printable(name)} is unknown; {hint}.")
        takes_value = name.startswith("config.") or not (name in known and _is_boolean(name))
        is_value = "=" not in arg and takes_value


def _is_boolean(name: str) -> bool:
    return name not in flags.FLAGS or bool(flags.FLAGS[name].boolean)  # "noX" is none of its own


def _name(arg: str) -> str:
    return arg.lstrip("-").split("=")[0]


def _bad_value(text: str) -> str:
    """Returns absl's words about a value that does not fit as ours, with what is allowed."""
    found = re.fullmatch(r"flag --([\w.]+)=(.*?): (.*)", text, re.DOTALL)
    if found is None:
        return printable(text)
    name, value, why = found.groups()
    if name in flags.FLAGS:
        allowed = flags.FLAGS[name].parser.syntactic_help or "true or false"
        return f"--{name} is {value!r}; it must be {allowed}."
    return f"--{name} is {value!r}: {printable(why)}."


def _words(error: Exception, argv: Sequence[str]) -> str:
    text = printable(" ".join(str(error).split())[-300:])
    if isinstance(error, AttributeError) and any("config.loss.aux_weights." in arg for arg in argv):
        return f"{type(error).__name__}: {text}; a flag changes the weights of heads that the config file names"
    if missing := re.search(r"No such file or directory: '(.+)'$", str(error)):
        path = Path(missing.group(1))
        files = [str(each) for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = nearest(str(path), files, limit=2, cutoff=0.6)
        hint = f"nearest: {', '.join(near)}" if near else "configs/ holds some"
        return f"--config: {printable(missing.group(0))}; {hint}."
    if isinstance(error, flags.Error):
        return f"{text}; see --help."
    return f"{type(error).__name__}: {text}"
