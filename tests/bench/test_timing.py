"""Where seconds end up: compilation in its phase alone, and turns that favour nobody. Clocks here are fakes."""

import itertools

import pytest

from inception_jax.bench import timing


class Machine:
    """A clock that only work moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def work(self, seconds):
        self.now += seconds


def test_turns_alternate_and_keep_rounds_apart():
    order, numbers = [], itertools.count()

    def engine(name):
        return lambda: order.append(name) or [float(next(numbers))]

    laps = timing.take_turns({"a": engine("a"), "b": engine("b")}, rounds=3)
    assert order == ["a", "b"] * 3
    assert laps == {"a": [[0.0], [2.0], [4.0]], "b": [[1.0], [3.0], [5.0]]}


def test_a_turn_does_not_count_its_first_call():
    machine, durations = Machine(), itertools.chain([100.0], itertools.repeat(2.0))
    laps = timing.turn(lambda: machine.work(next(durations)), seconds=9.0, clock=machine)
    assert laps == [2.0] * 5


def test_a_turn_has_a_few_calls_however_slow_they_are():
    machine = Machine()
    assert len(timing.turn(lambda: machine.work(50.0), 1.0, machine)) == timing.MINIMUM_CALLS


def test_cores_that_work_for_others():
    cores = timing.busy_cores(0.05)
    assert cores is None or 0 <= cores < 4096


def test_spread_and_ratio():
    rounds, baseline = [[1.0, 2.0, 3.0], [4.0, 5.0]], [[4.0], [9.0, 9.0]]
    found = timing.spread(rounds)
    assert (found["median"], found["calls"], found["medians_of_rounds"]) == (3.0, 5, [2.0, 4.5])
    assert (found["p10"], found["p90"]) == (pytest.approx(1.4), pytest.approx(4.6))
    assert timing.ratio(rounds, baseline) == {"median": 2.0, "lowest": 2.0, "highest": 2.0}
    assert timing.ratio([[1.0], [1.0], [1.0]], [[1.0], [4.0], [2.0]]) == {"median": 2.0, "lowest": 1.0, "highest": 4.0}
