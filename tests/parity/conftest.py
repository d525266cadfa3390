"""Parity tests are collected with `-m parity` only, and then a missing original is an error."""

import numpy as np
import pytest

from inception_jax.ops import implementation

DIFFERENCE = "difference"  # a property of a test, which reaches the terminal from any worker


def pytest_ignore_collect(collection_path, config):
    """Other runs do not even import these tests: what they import need not be there."""
    return True if collection_path.suffix == ".py" and "parity" not in config.option.markexpr else None


def pytest_terminal_summary(terminalreporter):
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [row for report in reports for key, row in report.user_properties if key == DIFFERENCE]
    if rows:
        terminalreporter.section("largest difference / largest value")
        for model, mode, inputs, what, difference in rows:
            terminalreporter.write_line(f"{model:<22} {mode:<5} {inputs:<14} {what:<38} {difference:.1e}")


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Our side runs as on a machine of one device, whose CPU has native ops; the tests see eight devices."""
    monkeypatch.setattr(implementation, "_is_alone", lambda: True)


@pytest.fixture
def record(request):
    """Returns `record(model, mode, input) -> check(what, ours, theirs, tolerance)`; checks end up in the table."""

    def recorder(model, mode, inputs):
        def check(what, ours, theirs, tolerance):
            difference = float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())
            request.node.user_properties.append((DIFFERENCE, (model, mode, inputs, what, difference)))
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
    torch.set_num_threads(1)  # a worker has one core
    return torch
