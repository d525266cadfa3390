"""Guards for every test: eight virtual CPU devices, and no rank promotion. Warnings are errors (pyproject.toml).

Also the data that tests of several folders read.

Most of the time of the tests is compilation, of programs that run once on a few pixels. So XLA optimises little here,
also in the processes that tests start.
"""

import errno
import gc
import os
import signal
import sys
from pathlib import Path

import jax
import pytest

from inception_jax import cli
from inception_jax.data import jpeg_regions
from inception_jax.data.sources import open_source
from inception_jax.models import zoo
from inception_jax.ops import cpu_native
from tests.data import stand_ins
from tests.short import SHORT

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 12):  # later ones do not know the flag, and end at one that they do not know
    os.environ["XLA_FLAGS"] = "--xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # after `nohup ... &`; processes that tests start inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def _loopback_only(event, arguments):
    """Lets tests reach servers on this machine and no other; a socket of the file system has a text for its address."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect":
        host = arguments[1][0] if isinstance(arguments[1], tuple) else None
    else:
        return
    if host is not None and not str(host).startswith(LOOPBACK):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")


sys.addaudithook(_loopback_only)

LONGEST = (
    "test_pods.py", "test_network.py", "test_loop.py", "test_family_golden.py", "test_interruptions.py",
    "test_train.py", "test_step.py", "test_derivatives.py", "test_fold_and_fuse.py", "test_tpu_pallas.py",
    "test_bench.py", "test_originals.py", "test_torchvision.py",  # of tests/parity
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Runs the longest files first, so that no worker is left alone with one of them."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_collection_finish():
    """Spares the garbage collector the modules, and most of its runs: tracing makes many objects and little garbage."""
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


REAL_DATA = Path(__file__).parents[2] / "shared" / "data"


def need_native(built: bool, name: str) -> None:
    """Skips a test of an extension that was not built; fails it where INCEPTION_JAX_REQUIRE_NATIVE asks for it."""
    if not built:
        required = os.environ.get("INCEPTION_JAX_REQUIRE_NATIVE", "") not in ("", "0")
        (pytest.fail if required else pytest.skip)(f"{name} was not built (a compiler, headers of jaxlib and libjpeg)")


@pytest.fixture
def kernels_built() -> None:
    """Needs the kernels in C++."""
    need_native(not cpu_native.missing(), "inception_jax.ops._native")


@pytest.fixture
def jpeg_built() -> None:
    """Needs the decoder of parts of JPEGs, in C."""
    need_native(jpeg_regions.decodes_regions(), "inception_jax.data._jpeg")


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> str:
    """A data_dir with the digits in it."""
    data_dir = str(tmp_path_factory.mktemp("tfds"))
    open_source("digits", "train", data_dir)
    return data_dir


@pytest.fixture(scope="session")
def generated_data(tmp_path_factory) -> str:
    """The data_dir of stand-ins for cifar10 and imagenet2012."""
    data_dir = str(tmp_path_factory.mktemp("generated"))
    stand_ins.write(data_dir)
    return data_dir


@pytest.fixture(scope="session", params=["generated", *(["real"] if (REAL_DATA / "imagenet2012").is_dir() else [])])
def image_data(request) -> str:
    """The data_dir of cifar10 and imagenet2012: of stand-ins, and of real images where they are beside the project."""
    return str(REAL_DATA) if request.param == "real" else request.getfixturevalue("generated_data")


@pytest.fixture
def run(monkeypatch, capsys):
    """Returns a function that runs the command line at a width and gives (exit code, stdout, stderr)."""

    def runner(*arguments, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["inception-jax", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        out, err = capsys.readouterr()
        return exit_info.value.code or 0, out, err

    return runner


@pytest.fixture(scope="module")
def short_network():
    """Puts a short network into the zoo, as "short", for the tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(zoo.MODELS, "short", SHORT)
        yield
