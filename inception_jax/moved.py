"""The new names of what was moved or renamed: importing an old name fails with a message that gives the new one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

MOVED = {  # dotted names below inception_jax, of modules and of what they define: old -> new
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
    "weights.card": "weights.published.card",
    "weights.cards": "weights.published.cards",
    "weights.published_torch": "weights.published.pytorch",
    "weights.published_others": "weights.published.others",
    "weights.names": "weights.naming.names",
    "weights.tf_names": "weights.naming.tf_names",
    "weights.layouts": "weights.naming.layouts",
    "weights.lineages": "weights.naming.lineages",
    "weights.Info": "weights.WeightsInfo",
    "weights.files.Info": "weights.files.WeightsInfo",
    "weights.naming.names.Path": "weights.naming.names.ParamPath",
    "inference.predictor.Class": "inference.predictor.ClassScore",
    "inference.images.open_image": "inference.images.load_rgb",
    "inference.images.opened": "inference.images.loaded_rgb",
    "inference.multi_crop.check_kind": "inference.multi_crop.check_crops",
    "inference.export_onnx.Maps": "inference.export_onnx.Value",
    "data.parts.open_image": "data.parts.open_for_crops",
    "data.parts.opened": "data.parts.opened_for_crops",
    "explain.subnetworks.last_map": "explain.subnetworks.averaged_endpoint",
    "explain.heatmaps.Placed": "explain.heatmaps.PlacedHeatmap",
    "explain.plots.Shown": "explain.plots.DisplayImage",
    "explain.plots.Found": "explain.plots.ClassHeatmap",
    "explain.plots.check_picture": "explain.plots.check_figure",
    "explain.wsol.Located": "explain.wsol.ImageLocalisation",
    "explain.evaluation_plots.draw_located": "explain.evaluation_plots.draw_localisations",
    "explain.feature_visualization.Maximised": "explain.feature_visualization.MaximisedChannel",
}


class _OldModules:
    """Stands last among Python's finders, so it is asked only for modules that no other finder knows."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        package, _, below = name.partition(".")
        if package == "inception_jax" and below in MOVED:
            raise ModuleNotFoundError(_message(below))


class _OldNames:
    """Stands first, and has the modules that once defined an old name loaded by `_Loader`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, below = name.partition(".")
        if package != "inception_jax" or not any(old.rpartition(".")[0] == below for old in MOVED):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.submodule_search_locations is not None or type(spec.loader) is not SourceFileLoader:
            return None  # packages look into MOVED by themselves: see `lazy.submodule`
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module a `__getattr__` that refuses its old names.

    It raises ImportError: `from module import name` would replace an AttributeError by a message of Python's own.
    """

    def exec_module(self, module: ModuleType) -> None:
        below = module.__name__.partition(".")[2]

        def refuse(name: str) -> Any:
            if f"{below}.{name}" in MOVED:
                raise ImportError(_message(f"{below}.{name}"))
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        super().exec_module(module)
        vars(module).setdefault("__getattr__", refuse)


def _message(old: str) -> str:
    return f"inception_jax.{old} is now inception_jax.{MOVED[old]}."


def install() -> None:
    """Adds the messages to Python's search for modules, once."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldNames())
        sys.meta_path.append(_OldModules())
