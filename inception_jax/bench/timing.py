"""Timing of calls. Engines take turns; a lap is the seconds of one call. Tests pass clocks of their own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Clock = Callable[[], float]
Result = TypeVar("Result")

MINIMUM_CALLS = 3  # in a turn


def timed(function: Callable[[], Result], clock: Clock = time.perf_counter) -> tuple[Result, float]:
    """Returns the result of `function` and the seconds that it took."""
    start = clock()
    result = function()
    return result, clock() - start


def turn(call: Callable[[], Any], seconds: float, clock: Clock = time.perf_counter) -> list[float]:
    """Returns the seconds of each call; calls until they add up to `seconds`, and at least `MINIMUM_CALLS` times.

    One call before these is not counted, because the caches still hold data of the engine whose turn it was.
    """
    call()
    laps: list[float] = []
    while len(laps) < MINIMUM_CALLS or sum(laps) < seconds:
        laps.append(timed(call, clock)[1])
    return laps


def take_turns(turns: Mapping[str, Callable[[], list[float]]], rounds: int) -> dict[str, list[list[float]]]:
    """Returns the laps of each engine by round. Engines alternate (A B A B), so drift of the machine favours none."""
    laps: dict[str, list[list[float]]] = {name: [] for name in turns}
    for _ in range(rounds):
        for name, run in turns.items():
            laps[name].append(run())
    return laps


def busy_cores(seconds: float = 1.0) -> float | None:
    """Returns the CPU cores in use by other processes, while this one sleeps; None where the system does not tell."""
    try:
        before = _worked()
        time.sleep(seconds)
        return (_worked() - before) / os.sysconf("SC_CLK_TCK") / seconds
    except OSError:
        return None


def _worked() -> int:
    """Returns the clock ticks that all cores have been busy since boot."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - sum(ticks[3:5])  # without idle and iowait


def spread(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns median, p10 and p90 of all laps, their number, and the median of each round."""
    import numpy as np  # not above: engine processes import this module before they are bound to their cores

    laps = [lap for laps in rounds for lap in laps]
    p10, p90 = np.percentile(laps, (10, 90))
    return {
        "median": statistics.median(laps),
        "p10": float(p10),
        "p90": float(p90),
        "calls": len(laps),
        "medians_of_rounds": [statistics.median(laps) for laps in rounds],
    }


def ratio(rounds: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]) -> dict[str, float]:
    """Returns the speed of an engine relative to the baseline: median, lowest and highest of the rounds."""
    ratios = [
        statistics.median(theirs) / statistics.median(ours) for ours, theirs in zip(rounds, baseline, strict=True)
    ]
    return {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
