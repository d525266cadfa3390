"""The lineages: which origins publish weights of which models, and how their files name and lay out parameters."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from inception_jax.models import inputs, spec, zoo
from inception_jax.models.network import InceptionNet
from inception_jax.weights.naming import layouts, names, tf_names
from inception_jax.weights.naming.layouts import Layout, Shape, Slot, Unit
from inception_jax.weights.naming.names import Names, Naming, ParamPath

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Lineage:
    """How the files of one origin hold the parameters of one model.

    Attributes:
      origin: the value of `--from` and `--to`.
      model: the name in the zoo.
      naming, layout: the names and layouts of the parameters.
      not_ours: a pattern of the names of tensors that our model does not have; they are dropped.
      bgr: the first convolution reads BGR where images have three channels; ours reads RGB.
      numbered: layers are named by order of creation, counted from any number.
      background: class 0 of 1001 outputs is a background, not a class of ImageNet.
      head: the rows between pooling and classifier, which `naming` lists under "head"; a file may have other widths,
        or no head and no classifier.
      preprocess: the preprocessing of the files, unless their card states another.
    """

    origin: str
    model: str
    naming: Naming
    layout: Layout
    not_ours: str = "$^"
    bgr: bool = False
    numbered: bool = False
    background: bool = False
    _: dataclasses.KW_ONLY
    preprocess: inputs.Preprocess
    head: spec.Head = spec.NO_HEAD

    def with_head(self, head: spec.Head, rows: Sequence[Names], classifier: Names | None) -> Lineage:
        """Returns the lineage of a file with another head, given the names of its rows and of its classifier, if any.

        The kernel of a row is that of a linear layer: [outputs, inputs] in PyTorch, [inputs, outputs] in Keras.
        """
        return dataclasses.replace(self, head=head, naming=names.with_head(self.naming, rows, classifier))

    def holds(self, head: spec.Head) -> bool:
        """Returns whether files have such a head, whatever the features of its rows."""
        ours, theirs = ([(row.relu, row.norm) for row in each.rows] for each in (head, self.head))
        return (ours, head.embedding) == (theirs, self.head.embedding)

    def slots(self, model: InceptionNet) -> list[Slot]:
        """Returns the slots of the parameters of `model` that these files hold."""
        named, paths = self.naming(model), names.units(model)
        if not self.holds(model.head):  # then the classifiers do not read the same
            named = {row: of_row for row, of_row in named.items() if row not in ("head", "classifier")}
        units: dict[ParamPath, Unit] = {}
        for row in paths.keys() & named.keys():
            for path, theirs in zip(paths[row], named[row], strict=True):
                units[path] = Unit(theirs, *_facts(model, row))
        shapes = variable_shapes(model)
        slots = [
            self.layout.slot(path, shape, units[unit])
            for path, shape in shapes.items()
            if (unit := _unit_path(path)) in units
        ]
        if self.bgr:
            first = ("params", *paths[next(iter(model.table))][0], "conv", "kernel")
            slots = [slot._replace(flip=2) if (slot.path, model.channels) == (first, 3) else slot for slot in slots]
        return slots

    def without_foreign(self, tensors: Tensors) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Returns the tensors that our model has, and the names of the others."""
        foreign = dict.fromkeys(name for name in tensors if re.search(self.not_ours, name))
        ours = {name: tensor for name, tensor in tensors.items() if name not in foreign}
        return _renumbered(ours) if self.numbered else ours, tuple(foreign)

    def channels_of(self, tensors: Tensors) -> int:
        """Returns the channels of the images that the first convolution in these tensors reads; if unclear, 3."""
        model = zoo.create_model(self.model)
        name, row = next(iter(model.table.items()))
        if not isinstance(row, spec.Conv | spec.SeparableConv):
            return 3
        layer = "conv" if isinstance(row, spec.Conv) else "depthwise"
        kernel = tensors.get(self.naming(model)[name][0].layer + self.layout.leaves[layer, "kernel"])
        shape = () if kernel is None else kernel.shape
        size, channels = (shape[2:], shape[1:2]) if self.layout.outputs_first else (shape[:2], shape[2:3])
        return channels[0] if size == row.kernel and 1 <= channels[0] <= inputs.MAX_CHANNELS else 3

    def head_of(self, tensors: Tensors) -> spec.Head:
        """Returns the head with the widths that it has in these tensors, or `NO_HEAD` if they have none of its rows."""
        named = self.naming(zoo.create_model(self.model)).get("head", [])
        kernels = [tensors.get(unit.layer + self.layout.leaves["linear", "kernel"]) for unit in named]
        if not any(kernel is not None for kernel in kernels):
            return spec.NO_HEAD
        outputs = 0 if self.layout.outputs_first else -1
        rows = tuple(
            row if kernel is None or not kernel.size else row._replace(features=np.atleast_1d(kernel).shape[outputs])
            for row, kernel in zip(self.head.rows, kernels, strict=True)
        )
        return self.head._replace(rows=rows)


@functools.lru_cache(maxsize=64)
def variable_shapes(model: InceptionNet, image_size: int | None = None) -> dict[ParamPath, Shape]:
    """Returns the shape of every variable of `model` by path: (collection, modules ..., leaf).

    The hidden layers of auxiliary heads depend on `image_size`, in pixels; None: the size that the model card states.
    """
    size = init_size(model, image_size)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, model.channels)))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(dict(shapes)).items()}


def init_size(model: InceptionNet, image_size: int | None = None) -> int:
    """Returns the image size at which to initialise a model: `image_size`, or the smallest one for its heads."""
    size = image_size or zoo.model_card(model.name_in_zoo).preprocess.size
    return max(size, model.minimum_input(train=True))


def _unit_path(path: ParamPath) -> ParamPath:
    """Returns the path of the unit of the variable at `path`: a linear layer itself, or the parent of a convolution."""
    return path[1:-1] if path[-2] in ("linear", "hidden") else path[1:-2]


def _facts(model: InceptionNet, row: str) -> tuple[int, int, bool]:
    """Returns the facts about the units of a row, as `Unit` lists them."""
    head = model.aux_heads.get(row.removeprefix("aux_"))
    channels = [each.features for each in head.rows if isinstance(each, spec.Conv)] if head else [1]
    return getattr(model.table.get(row), "multiplier", 1), channels[-1], row == "head"


def _renumbered(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the tensors with their layers renumbered from 1; in a file, the first may be "conv2d_95"."""
    numbered = re.compile(r"^(conv2d|batch_normalization)(?:_(\d+))?/")
    layers = {match[0]: (match[1], int(match[2] or 0)) for name in tensors if (match := numbered.match(name))}
    new: dict[str, str] = {}
    for kind in ("conv2d", "batch_normalization"):
        of_kind = sorted((number, prefix) for prefix, (its_kind, number) in layers.items() if its_kind == kind)
        new |= {prefix: f"{kind}_{i}/" for i, (_, prefix) in enumerate(of_kind, start=1)}
    return {numbered.sub(lambda match: new[match[0]], name): tensor for name, tensor in tensors.items()}


# Counters of batch norms, of averaged models and of profilers; layers of DeepfakeBench that do not run.
_COUNTERS = r"(^|\.)(num_batches_tracked|n_averaged|total_ops|total_params)$|^adjust_channel\."
# Counters, averages and optimizer state, which a training checkpoint holds beside the variables.
_SLOTS = "ExponentialMovingAverage|(RMSProp|Adam|Adadelta|Ftrl)(_1)?|Momentum|Adagrad"
_SLIM_EXTRAS = rf"^global_step$|/({_SLOTS})$|^(beta1|beta2)_power$"

_inception_resnet = functools.partial(names.torch_inception_resnet, ("repeat", "repeat_1", "repeat_2"))
_facenet_pytorch = names.with_head(
    names.torch_inception_resnet(("repeat_1", "repeat_2", "repeat_3"), classifier=""),
    [Names("last_linear", "last_bn")],
    Names("logits"),
)
_aux_v3 = {"Mixed_6e": ("Conv2d_1b_1x1", "Conv2d_2a_5x5", "Conv2d_2b_1x1")}
_aux_v4 = {"Mixed_6h": ("Conv2d_1b_1x1", "Conv2d_2a", "Aux_logits")}
_aux_resnet = {"block17_20": ("Conv2d_1b_1x1", "Conv2d_2a_5x5", "Logits")}
_slim_v1 = tf_names.slim("InceptionV1", "Logits/Conv2d_0c_1x1", irregular=tf_names.SLIM_V1_IRREGULAR)
_slim_v2 = tf_names.slim("InceptionV2", "Logits/Conv2d_1c_1x1")
_slim_v3 = tf_names.slim("InceptionV3", "Logits/Conv2d_1c_1x1", _aux_v3, tf_names.SLIM_V3_IRREGULAR)
_slim_v4 = tf_names.slim("InceptionV4", "Logits/Logits", _aux_v4, tf_names.SLIM_V4_IRREGULAR)
_slim_resnet = tf_names.slim("InceptionResnetV2", "Logits/Logits", _aux_resnet, lone="Conv2d_1x1")
_facenet = names.with_head(
    tf_names.slim("InceptionResnetV1", "", lone="Conv2d_1x1"),
    [Names("InceptionResnetV1/Bottleneck", "InceptionResnetV1/Bottleneck/BatchNorm")],
    Names("Logits"),
)
# The embedding of a face. The classifier of the people in the training set reads the row, before its length is made 1.
_FACE = spec.Head((spec.Conv(512, relu=False),), embedding=True)

_pytorch = functools.partial(Lineage, layout=layouts.TORCH, not_ours=_COUNTERS)
_torchvision, _timm, _cadene = (functools.partial(_pytorch, origin) for origin in ("torchvision", "timm", "cadene"))
_slim = functools.partial(Lineage, "slim", not_ours=_SLIM_EXTRAS, background=True)
_keras = functools.partial(Lineage, "keras", layout=layouts.KERAS, numbered=True, preprocess=inputs.SYMMETRIC_299)
_onnx = functools.partial(Lineage, "onnx", naming=names.by_order, layout=layouts.ONNX)
_SLIM_OF_TORCH = {"background": True, "preprocess": inputs.CADENE_299}  # Cadene's copies keep the background

LINEAGES = (
    _torchvision("googlenet_torchvision", names.torchvision_googlenet, preprocess=inputs.SYMMETRIC_224),
    _torchvision("inception_v3", names.torch_v3, preprocess=inputs.SYMMETRIC_299),
    _timm("inception_v3", names.torch_v3, preprocess=inputs.TIMM_299),
    _timm("inception_v4", names.timm_v4, preprocess=inputs.TIMM_299),
    _timm("inception_resnet_v2", _inception_resnet("classif"), preprocess=inputs.TIMM_299_WIDE),
    _timm("xception_timm", names.timm_xception, preprocess=inputs.TIMM_299_WIDE),
    _cadene("bn_inception", names.cadene_bn_inception, bgr=True, preprocess=inputs.BGR_MEANS),
    _cadene("inception_v4", names.timm_v4, **_SLIM_OF_TORCH),
    _cadene("inception_resnet_v2", _inception_resnet("last_linear"), **_SLIM_OF_TORCH),
    _cadene("xception_timm", names.timm_xception, preprocess=inputs.TIMM_299_WIDE),
    _pytorch("pytorch_fid", "inception_v3_fid", names.torch_v3, preprocess=inputs.FID),
    Lineage("tf_2015", "inception_v3_fid", names.frozen_v3, layouts.FROZEN, preprocess=inputs.FID_OF_TF),
    Lineage("stylegan2_ada", "inception_v3_fid", names.nvidia_v3, layouts.NVIDIA, preprocess=inputs.FID_OF_TF),
    _pytorch(
        "facenet_pytorch",
        "inception_resnet_v1",
        _facenet_pytorch,
        preprocess=inputs.FACES,
        head=_FACE,
    ),
    Lineage("caffe", "googlenet", names.caffe_googlenet, layouts.CAFFE, bgr=True, preprocess=inputs.CAFFE),
    _slim("inception_v1_slim", _slim_v1, layouts.SLIM_1X1, preprocess=inputs.SLIM_224),
    _slim("inception_v2", _slim_v2, layouts.SLIM_1X1, preprocess=inputs.SLIM_224),
    _slim("inception_v3_tf", _slim_v3, layouts.SLIM_1X1, preprocess=inputs.SLIM_299),
    _slim("inception_v4", _slim_v4, layouts.SLIM, preprocess=inputs.SLIM_299),
    _slim("inception_resnet_v2", _slim_resnet, layouts.SLIM, preprocess=inputs.SLIM_299),
    Lineage(
        "facenet",
        "inception_resnet_v1",
        _facenet,
        layouts.SLIM,
        not_ours=f"{_SLIM_EXTRAS}|^centers$",  # those of the centre loss
        preprocess=inputs.FACES,
        head=_FACE,
    ),
    _keras("inception_v3_tf", tf_names.keras_v3),
    _keras("inception_resnet_v2", tf_names.keras_inception_resnet_v2),
    _keras("xception", tf_names.keras_xception),
    Lineage("keras1", "xception", tf_names.keras1_xception, layouts.KERAS, preprocess=inputs.SYMMETRIC_299),
    # Of Caffe2, whose networks are those of Caffe; of PyTorch; of TensorFlow.
    _onnx("googlenet", bgr=True, preprocess=inputs.ONNX_ZOO),
    _onnx("bn_inception", bgr=True, preprocess=inputs.BGR_MEANS),
    _onnx("googlenet_torchvision", preprocess=inputs.IMAGENET),
    _onnx("inception_v3", preprocess=inputs.TIMM_299),
    _onnx("inception_v4", preprocess=inputs.TIMM_299),
    _onnx("inception_resnet_v1", preprocess=inputs.FACES),
    _onnx("inception_resnet_v2", preprocess=inputs.TIMM_299_WIDE),
    _onnx("xception_timm", preprocess=inputs.TIMM_299_WIDE),
    _onnx("inception_v3_fid", preprocess=inputs.FID),
    _onnx("inception_v1_slim", background=True, preprocess=inputs.SLIM_224),
    _onnx("inception_v2", background=True, preprocess=inputs.SLIM_224),
    _onnx("inception_v3_tf", background=True, preprocess=inputs.SLIM_299),
    _onnx("xception", preprocess=inputs.SYMMETRIC_299),
)
