"""Finds out what the tensors of a file are: whose network, and behind which prefix its names begin."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.weights.naming.layouts import TORCH
from inception_jax.weights.naming.lineages import LINEAGES, Lineage, Tensors
from inception_jax.weights.readers.statement import Statement


class Vocabulary(NamedTuple):
    """The names that tensors of a lineage can have: {name: module} of the body, and all names of auxiliary heads."""

    body: Mapping[str, str]
    aux: frozenset[str]


class Recognised(NamedTuple):
    """The network in a file.

    Attributes:
      lineage: whose it is.
      tensors: by name; the prefix of the network's names is removed.
      left_out: the names of what is no part of the network.
      notes: for the report.
    """

    lineage: Lineage
    tensors: dict[str, np.ndarray]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def origins(model: str | None = None) -> list[str]:
    """Returns the origins whose files can be converted to `model`; None: to any model."""
    return list(dict.fromkeys(lineage.origin for lineage in LINEAGES if model in (None, lineage.model)))


def find_lineage(tensors: Tensors, model: str | None, origin: str | None) -> Lineage:
    """Returns the lineage whose naming these tensors follow, among those of a model and an origin, if given.

    Raises:
      UserError: no lineage fits, or several models do and none is given.
    """
    candidates = [x for x in LINEAGES if model in (None, x.model) and origin in (None, x.origin)]
    if not candidates:
        known = ", ".join(origins(model)) or "none"
        raise UserError(f"No files of {origin or 'any origin'} are known for {model or 'any model'}; known: {known}.")
    matches = {lineage: _match(lineage, tensors) for lineage in candidates}
    best = max(matches.values())
    if best == (0, 0):
        raise UserError(
            f"These tensors ({some(tensors)}) carry none of the names of {model or 'any model'} "
            f"in {origin or ', '.join(origins(model))}.{fitting(tensors)}"
        )
    found = [lineage for lineage, match in matches.items() if match == best]
    models = sorted({lineage.model for lineage in found})
    if len(models) > 1:
        raise UserError(f"These tensors fit {' and '.join(models)}: name the model.")
    return found[0]


def recognise(
    tensors: Tensors, statement: Statement, model: str | None, origin: str | None, key: str | None, shown: str
) -> Recognised:
    """Returns the network in a file: its lineage, and its tensors without a prefix that their names have in common.

    A prefix is what keys of a checkpoint, DataParallel, Lightning, torch.compile or modules around the network put
    before its names, such as "state_dict.module.". What lies in other dictionaries of a checkpoint is left out.

    Args:
      tensors: all tensors of the file.
      statement: of the file.
      model, origin: of the network; None: found by the names.
      key: only what has this key, or this prefix, is looked at: "model_ema", "ema.module"; None: all.
      shown: the name of the file, for messages.

    Raises:
      UserError: no network is found, or several; or nothing has the key.
    """
    chosen = dict(tensors) if key is None else _below(tensors, key, statement, shown)
    lineage = find_lineage(chosen, model, origin)
    prefix = _prefix_of(lineage, chosen, statement, shown)
    container = max((each for each in statement.containers if _holds(each, prefix)), key=len, default="")
    own = {name.removeprefix(prefix) for name in chosen if name.startswith(prefix)}
    inside, left_out = {}, [*statement.left_out]
    for name, tensor in tensors.items():
        if name not in chosen or not _holds(container, name):
            left_out.append(name)
        elif name.startswith(prefix):
            inside[name.removeprefix(prefix)] = tensor
        else:
            beside = name.removeprefix(f"{container}.")
            # What lies beside the network may have the name of something in it: "fc" and "backbone.fc".
            inside[name if beside in own else beside] = tensor
    notes: tuple[str, ...] = (f"the names of the network begin with {prefix!r}, which is removed",) if prefix else ()
    if len(left_out) > len(statement.left_out):
        notes += (f"{len(left_out) - len(statement.left_out)} tensors elsewhere in the file are left out",)
    return Recognised(lineage, inside, tuple(left_out), notes)


@functools.lru_cache(maxsize=64)
def vocabulary(lineage: Lineage) -> Vocabulary:
    """Returns the names of a lineage's tensors, but for those of the classifier."""
    model = zoo.create_model(lineage.model)
    suffixes = set(lineage.layout.leaves.values())
    body: dict[str, str] = {}
    aux: set[str] = set()
    for row, units in lineage.naming(model).items():
        modules = [module for unit in units for module in unit if module]
        if row in model.table or row == "head":
            body |= {module + suffix: module for module in modules for suffix in suffixes}
        elif row != "classifier":
            aux |= {module + suffix for module in modules for suffix in suffixes}
    return Vocabulary(body, frozenset(aux))


def fitting(tensors: Tensors, but: Lineage | None = None) -> str:
    """Returns a sentence that names the models whose bodies these tensors hold, or ""; not those named like `but`."""
    others = LINEAGES if but is None else [x for x in LINEAGES if modules_of_body(x) != modules_of_body(but)]
    found = [x for x in others if _match(x, tensors)[1] == 1]
    models = dict.fromkeys(f"{x.model} (from {x.origin})" for x in found)
    return f" They fit {' and '.join(models)}." if models else ""


def some(names: Iterable[str]) -> str:
    """Returns the first names of many, for a message."""
    names = list(names)
    return ", ".join(map(printable, names[:4])) + (", ..." if len(names) > 4 else "")


def _match(lineage: Lineage, tensors: Tensors) -> tuple[float, float]:
    """Returns how well tensors fit a lineage, 0 ... 1, and the share of its body that they have, by their names.

    The first is that share times the share of the names that the lineage knows: Keras numbers layers, so that all names
    of a small network are names of a large one.
    """
    bodies, others = _by_prefix(lineage, tensors)
    if not bodies:
        return 0.0, 0.0
    prefix = max(bodies, key=lambda each: len(bodies[each]))
    share = len({vocabulary(lineage).body[name] for name in bodies[prefix]}) / len(modules_of_body(lineage))
    return share * (len(bodies[prefix]) + others[prefix]) / len(tensors), share


@functools.lru_cache(maxsize=64)
def modules_of_body(lineage: Lineage) -> frozenset[str]:
    """Returns the names of the modules of the table's rows."""
    model = zoo.create_model(lineage.model)
    named = lineage.naming(model)
    return frozenset(module for row in model.table if row in named for unit in named[row] for module in unit if module)


def _by_prefix(lineage: Lineage, tensors: Tensors) -> tuple[dict[str, set[str]], collections.Counter[str]]:
    """Returns, by prefix, the names of the body, and the number of names of auxiliary heads and of the classifier."""
    known, given = vocabulary(lineage), lineage.without_foreign(tensors)[0]
    separator = "." if lineage.layout is TORCH else "/"
    classifiers = {unit.layer for unit in lineage.naming(zoo.create_model(lineage.model)).get("classifier", ())}
    heads = known.aux | {layer + suffix for layer in classifiers for suffix in set(lineage.layout.leaves.values())}
    bodies: dict[str, set[str]] = {}
    others: collections.Counter[str] = collections.Counter()
    for name in given:
        starts = [0, *(i + 1 for i, letter in enumerate(name) if letter == separator)]
        for start in starts:
            rest = name[start:]
            if rest in known.body:
                bodies.setdefault(name[:start], set()).add(rest)
            elif rest in heads:
                others[name[:start]] += 1
    return bodies, others


def _prefix_of(lineage: Lineage, tensors: Tensors, statement: Statement, shown: str) -> str:
    """Returns the prefix of the network's names.

    Raises:
      UserError: several prefixes stand before whole networks.
    """
    bodies, _ = _by_prefix(lineage, tensors)
    most = max(map(len, bodies.values()))
    whole = [prefix for prefix, names in bodies.items() if len(names) == most]
    if len(whole) > 1:
        keys = [_key_of(prefix, whole, statement) for prefix in whole]
        listed, example = ", ".join(printable(each) or "no key" for each in keys), printable(next(filter(None, keys)))
        words = f"choose one, such as key={example!r} (--key {example})."
        raise UserError(f"{shown} holds {len(keys)} networks, under {listed}: {words}")
    return whole[0]


def _key_of(prefix: str, others: Iterable[str], statement: Statement) -> str:
    """Returns the shortest key that leads to the network behind a prefix, and to no other of them."""
    containers = sorted((each for each in statement.containers if each and _holds(each, prefix)), key=len)
    alone = [each for each in containers if sum(_holds(each, other) for other in others) == 1]
    return alone[0] if alone else prefix.rstrip("./")


def _below(tensors: Tensors, key: str, statement: Statement, shown: str) -> dict[str, np.ndarray]:
    """Returns the tensors that have a key.

    Raises:
      UserError: there are none.
    """
    found = {name: tensor for name, tensor in tensors.items() if _holds(key, name)}
    if not key or not found:
        tops = [each for each in statement.containers if each] or dict.fromkeys(
            name.partition(".")[0] for name in tensors if "." in name
        )
        raise UserError(f"{shown} has nothing under key {printable(key)!r}; it has {some(tops) or 'no keys'}.")
    return found


def _holds(key: str, name: str) -> bool:
    """Returns whether a name, or a prefix with the separator at its end, lies under a key; all lies under ""."""
    return not key or name.startswith((f"{key}.", f"{key}/"))
