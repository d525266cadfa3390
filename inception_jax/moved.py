"""The new names of what was moved or renamed: importing an old name fails with a message that gives the new one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import NoReturn

MOVED = {  # modules, below inception_jax: old -> new
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

NAMES = {  # functions and classes, below inception_jax: old -> new
    "models.spec.explicit_padding": "models.sizes.explicit_padding",
    "models.spec.windows": "models.sizes.windows",
    "models.spec.out_size": "models.sizes.out_size",
    "models.spec.out_channels": "models.sizes.out_channels",
    "models.spec.chain_channels": "models.sizes.chain_channels",
    "models.spec.stride": "models.sizes.stride",
    "models.spec.minimum_input": "models.sizes.minimum_input",
    "models.spec.fits": "models.sizes.fits",
    "models.spec.scale_width": "models.widths.scale_width",
    "models.spec.scale_rows": "models.widths.scale_rows",
    "models.spec.scale_head": "models.widths.scale_head",
    "models.spec.scale_features": "models.widths.scale_features",
    "weights.convert.find_lineage": "weights.recognition.find_lineage",
    "data.loader.Reading": "data.loader.LoaderOptions",
    "data.transforms.resize_part": "data.transforms.crop_resize",
    "training.disk_space.check_room": "training.disk_space.check_disk_space",
    "training.finetune.run_weights": "training.saved.run_weights",
    "training.finetune.read_classes": "training.provenance.read_classes",
    "training.finetune.write_classes": "training.provenance.write_classes",
    "training.finetune.write_record": "training.provenance.write_record",
    "weights.Info": "weights.WeightsInfo",
    "weights.files.Info": "weights.files.WeightsInfo",
    "weights.naming.names.Path": "weights.naming.names.ParamPath",
    "inference.predictor.Class": "inference.prediction.ClassScore",
    "inference.forward.log_mean": "inference.prediction.log_mean",
    "inference.images.open_image": "inference.images.load_rgb",
    "inference.images.opened": "inference.images.loaded_rgb",
    "inference.multi_crop.check_kind": "inference.multi_crop.check_crops",
    "inference.export_onnx.Maps": "inference.export_onnx.Value",
    "explain.subnetworks.last_map": "explain.subnetworks.averaged_endpoint",
    "explain.heatmaps.Placed": "explain.heatmaps.PlacedHeatmap",
    "explain.plots.Shown": "explain.plots.DisplayImage",
    "explain.plots.Found": "explain.plots.ClassHeatmap",
    "explain.plots.check_picture": "explain.plots.check_figure",
    "explain.wsol.Located": "explain.wsol.ImageLocalisation",
    "explain.evaluation_plots.draw_located": "explain.evaluation_plots.draw_localisations",
    "explain.feature_visualization.Maximised": "explain.feature_visualization.MaximisedChannel",
}


def message(old: str) -> str | None:
    """Returns the error message for an old name, such as "inception_jax.models.ops"; None: it is not an old name."""
    below = old.partition(".")[2]
    new = MOVED.get(below) or NAMES.get(below)
    return f"{old} is now inception_jax.{new}." if new else None


def missing_name(module: str) -> Callable[[str], NoReturn]:
    """Returns a `__getattr__` for a module that refuses its old names with `message`.

    It raises ImportError for them: `from module import name` would replace the words of an AttributeError.
    """

    def fail(name: str) -> NoReturn:
        if text := message(f"{module}.{name}"):
            raise ImportError(text)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return fail


class _OldModules:
    """Stands last among Python's finders, so it is asked only for modules that no other finder knows."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        if text := message(name):
            raise ModuleNotFoundError(text)


class _HomesOfOldNames:
    """Stands first among Python's finders, and has the modules that once defined an old name loaded by `_Loader`."""

    modules = frozenset(f"inception_jax.{old.rpartition('.')[0]}" for old in NAMES)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name in self.modules else None
        if spec is None or spec.submodule_search_locations is not None or type(spec.loader) is not SourceFileLoader:
            return None  # a package asks `message` by itself: see `lazy.submodule`
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Gives a module `missing_name` as its `__getattr__`."""

    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        vars(module).setdefault("__getattr__", missing_name(module.__name__))


def install() -> None:
    """Adds the messages to Python's search for modules, once."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _HomesOfOldNames())
        sys.meta_path.append(_OldModules())
