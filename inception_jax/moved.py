"""Where modules are that had another name once: importing the old one fails with a message that names the new one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

MOVED = {  # below inception_jax
    "models.ops": "ops.convolution_and_pool",
    "models.xla": "ops.xla",
    "models.cpu": "ops.cpu_xla",
    "models.native": "ops.cpu_native",
    "models.tpu": "ops.tpu_pallas",
    "models.pooled": "ops.pooled_convolution",
    "models.pending": "ops.deferred_norm",
    "models.platforms": "ops.platforms",
    "models.fence": "ops.fence",
    "models.derivatives": "ops.derivatives",
    "models.summary": "describe.summary",
    "models.diagram": "describe.diagram",
    "models.pieces": "describe.diagram_pieces",
    "models.layout": "describe.diagram_layout",
    "weights.document": "describe.models_page",
    "inference.rewrite": "inference.fold_and_fuse",
    "inference.crops": "inference.multi_crop",
    "inference.export": "inference.export_stablehlo",
    "inference.onnx_graph": "inference.export_onnx",
    "inference.cam": "explain.cam",
    "inference.split": "explain.subnetworks",
    "inference.heat": "explain.heatmaps",
    "inference.views": "explain.feature_visualization",
    "inference.localisation": "explain.localisation",
    "inference.boxes": "explain.annotations",
    "inference.wsol": "explain.wsol",
    "inference.picture": "explain.plots",
    "inference.sheets": "explain.evaluation_plots",
    "inference.demo": "demo.app",
    "inference.serving": "demo.serving",
    "bench.chips": "plan.chips",
    "bench.tpu": "plan.compile_tpu",
    "bench.hlo": "plan.hlo",
    "bench.traffic": "plan.traffic",
    "bench.plan": "plan.plan",
    "training.room": "training.disk_space",
    "training.outputs": "training.run_files",
    "training.report": "training.curves",
    "data.parts": "data.jpeg_regions",
    "weights.card": "weights.published.card",
    "weights.cards": "weights.published.cards",
    "weights.published_torch": "weights.published.pytorch",
    "weights.published_others": "weights.published.others",
    "weights.names": "weights.naming.names",
    "weights.tf_names": "weights.naming.tf_names",
    "weights.layouts": "weights.naming.layouts",
    "weights.lineages": "weights.naming.lineages",
}

NAMES = {  # below inception_jax: functions and classes; their old module has `__getattr__ = missing_name(__name__)`
    "data.loader.Reading": "data.loader.LoaderOptions",
    "data.transforms.resize_part": "data.transforms.crop_resize",
    "training.disk_space.check_room": "training.disk_space.check_disk_space",
    "training.finetune.run_weights": "training.saved.run_weights",
    "training.finetune.read_classes": "training.provenance.read_classes",
    "training.finetune.write_classes": "training.provenance.write_classes",
    "training.finetune.write_record": "training.provenance.write_record",
}


class _Moved:
    """Stands last among Python's finders of modules, so it is asked for modules that are not there alone."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        package, _, below = name.partition(".")
        if package == "inception_jax" and below in MOVED:
            raise ModuleNotFoundError(f"{name} is now inception_jax.{MOVED[below]}.")


def missing_name(module: str) -> Callable[[str], NoReturn]:
    """Returns the `__getattr__` of a module whose old names fail with a message that gives the new ones."""

    def fail(name: str) -> NoReturn:
        if new := NAMES.get(f"{module}.{name}".partition(".")[2]):
            raise ImportError(f"{module}.{name} is now inception_jax.{new}.")  # `from` hides an AttributeError's words
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return fail


def install() -> None:
    """Adds the messages to Python's search for modules, once."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
