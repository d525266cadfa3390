"""Training: `train_and_evaluate(config, workdir)`, and its parts."""

from inception_jax.training.agreement import prepare_together as prepare_together
from inception_jax.training.compilation import use_compilation_cache as use_compilation_cache
from inception_jax.training.config import TrainConfig as TrainConfig
from inception_jax.training.experiment import prepare as prepare
from inception_jax.training.loop import train_and_evaluate as train_and_evaluate
from inception_jax.training.saved import read_variables as read_variables
from inception_jax.training.state import TrainState as TrainState
from inception_jax.training.workdir import resolve_workdir as resolve_workdir
