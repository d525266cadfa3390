"""Clocks, laps and turns. Nothing here knows what is timed, and tests bring clocks of their own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Clock = Callable[[], float]
Result = TypeVar("Result")

MINIMUM_CALLS = 3  # of a turn


def timed(function: Callable[[], Result], clock: Clock = time.perf_counter) -> tuple[Result, float]:
    """Returns what `function` gives, and the seconds that it took."""
    start = clock()
    result = function()
    return result, clock() - start


def turn(call: Callable[[], Any], seconds: float, clock: Clock = time.perf_counter) -> list[float]:
    """Returns the seconds of each of several calls, which take `seconds` together, or are `MINIMUM_CALLS`.

    One call goes before and does not count: another engine has had the machine, and the caches.
    """
    call()
    laps: list[float] = []
    while len(laps) < MINIMUM_CALLS or sum(laps) < seconds:
        laps.append(timed(call, clock)[1])
    return laps


def take_turns(turns: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[list[float]]]:
    """Returns the laps of each engine by round; they run in turns, A B A B: a machine that drifts favours none."""
    laps: dict[str, list[list[float]]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, run in turns.items():
            laps[name].append(run())
    return laps


def spread(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns median, p10 and p90 of all laps, how many there are, and the median of each round."""
    laps = [lap for laps in rounds for lap in laps]
    return {
        "median": statistics.median(laps),
        "p10": percentile(laps, 0.1),
        "p90": percentile(laps, 0.9),
        "calls": len(laps),
        "medians_of_rounds": [statistics.median(laps) for laps in rounds],
    }


def ratio(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> dict[str, float]:
    """Returns how many times as fast as the baseline an engine is: the median over the rounds, and their extremes."""
    ratios = [
        statistics.median(theirs) / statistics.median(ours) for ours, theirs in zip(rounds, baseline, strict=True)
    ]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the value below which a share of the values lie, between two of them by a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
