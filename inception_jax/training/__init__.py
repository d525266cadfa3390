"""Training: `train_and_evaluate(config, workdir)`, and the functions that it is made of."""

from typing import TYPE_CHECKING, Any

from inception_jax.lazy import submodule, submodules
from inception_jax.training.agreement import prepare_together as prepare_together
from inception_jax.training.compilation import use_compilation_cache as use_compilation_cache
from inception_jax.training.config import TrainConfig as TrainConfig
from inception_jax.training.experiment import prepare as prepare
from inception_jax.training.loop import train_and_evaluate as train_and_evaluate
from inception_jax.training.saved import read_variables as read_variables
from inception_jax.training.state import TrainState as TrainState
from inception_jax.training.workdir import resolve_workdir as resolve_workdir

if not TYPE_CHECKING:  # a type checker finds modules by itself, and would take any name for one

    def __getattr__(name: str) -> Any:
        return submodule(__name__, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *submodules(__name__)})
