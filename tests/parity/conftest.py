"""Parity tests run with `-m parity` only, and then a missing original is an error; else they count as deselected."""

import numpy as np
import pytest

DIFFERENCES = pytest.StashKey[list[tuple[str, str, str, str, float]]]()


def pytest_configure(config):
    config.stash[DIFFERENCES] = []


def pytest_collection_modifyitems(config, items):
    if "parity" in config.option.markexpr:
        return
    parity = [item for item in items if item.get_closest_marker("parity")]
    config.hook.pytest_deselected(items=parity)
    items[:] = [item for item in items if item not in parity]


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[DIFFERENCES]
    if rows:
        terminalreporter.section("largest difference / largest value")
        for model, mode, inputs, what, difference in rows:
            terminalreporter.write_line(f"{model:<22} {mode:<5} {inputs:<14} {what:<38} {difference:.1e}")


@pytest.fixture
def record(request):
    """Returns `record(model, mode, input) -> check(what, ours, theirs, tolerance)`; checks end up in the table."""

    def recorder(model, mode, inputs):
        def check(what, ours, theirs, tolerance):
            difference = float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
            request.config.stash[DIFFERENCES].append((model, mode, inputs, what, difference))
            assert difference <= tolerance, what

        return check

    return recorder


@pytest.fixture(scope="session")
def torch():
    import torch

    register = torch.library.register_fake
    # torchvision registers shapes for compiled operators of its own, which this build of it need not have.
    torch.library.register_fake = lambda op, *args, **kwargs: (
        (lambda function: function) if str(op).startswith("torchvision::") else register(op, *args, **kwargs)
    )
    torch.manual_seed(0)
    torch.set_num_threads(2)
    return torch
