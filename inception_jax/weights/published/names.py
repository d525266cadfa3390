"""Names of published weights, MODEL.TAG as in timm: `inception_v3.tv_in1k` is the card timm/inception_v3.tv_in1k.

For timm's own sets the name is timm's. For the others MODEL is the network of the zoo, and TAG says who published them
and what they were trained on (in1k: ILSVRC 2012). The first name of a model is its default, as in timm.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from inception_jax.errors import UserError, printable
from inception_jax.models import zoo
from inception_jax.suggestions import hint
from inception_jax.weights.published.cards import CARDS, WeightCard

NAMES = {  # name -> id of the card; the defaults are first
    "googlenet.caffe_in1k": "caffe/bvlc_googlenet",
    "googlenet_torchvision.torchvision_in1k": "torchvision/googlenet",
    "inception_v1_slim.slim_in1k": "slim/inception_v1",
    "bn_inception.cadene_in1k": "cadene/bn_inception",
    "inception_v2.slim_in1k": "slim/inception_v2",
    "inception_v3.tv_in1k": "timm/inception_v3.tv_in1k",
    "inception_v3.tf_in1k": "timm/inception_v3.tf_in1k",
    "inception_v3.tf_adv_in1k": "timm/inception_v3.tf_adv_in1k",
    "inception_v3.gluon_in1k": "timm/inception_v3.gluon_in1k",
    "inception_v3.torchvision_in1k": "torchvision/inception_v3",
    "inception_v3.torchvision_1a9a5a14_in1k": "torchvision/inception_v3_1a9a5a14",
    "inception_v3_tf.keras_in1k": "keras/inception_v3",
    "inception_v3_tf.keras_in1k_notop": "keras/inception_v3_notop",
    "inception_v3_tf.slim_in1k": "slim/inception_v3",
    "inception_v3_tf.slim_adv_in1k": "slim/adv_inception_v3",
    "inception_v3_tf.slim_ens3_adv_in1k": "slim/ens3_adv_inception_v3",
    "inception_v3_tf.slim_ens4_adv_in1k": "slim/ens4_adv_inception_v3",
    "inception_v3_fid.pytorch_fid_2015": "pytorch_fid/inception_v3",
    "inception_v4.tf_in1k": "timm/inception_v4.tf_in1k",
    "inception_v4.cadene_in1k": "cadene/inceptionv4",
    "inception_v4.slim_in1k": "slim/inception_v4",
    "inception_resnet_v1.facenet_pytorch_vggface2": "facenet_pytorch/vggface2",
    "inception_resnet_v1.facenet_pytorch_casia_webface": "facenet_pytorch/casia-webface",
    "inception_resnet_v2.tf_in1k": "timm/inception_resnet_v2.tf_in1k",
    "inception_resnet_v2.tf_ens_adv_in1k": "timm/inception_resnet_v2.tf_ens_adv_in1k",
    "inception_resnet_v2.keras_in1k": "keras/inception_resnet_v2",
    "inception_resnet_v2.keras_in1k_notop": "keras/inception_resnet_v2_notop",
    "inception_resnet_v2.cadene_in1k": "cadene/inceptionresnetv2",
    "inception_resnet_v2.slim_in1k": "slim/inception_resnet_v2",
    "inception_resnet_v2.slim_adv_in1k": "slim/adv_inception_resnet_v2",
    "inception_resnet_v2.slim_ens_adv_in1k": "slim/ens_adv_inception_resnet_v2",
    "xception.keras_in1k": "keras/xception",
    "xception.keras_in1k_notop": "keras/xception_notop",
    "legacy_xception.tf_in1k": "timm/legacy_xception.tf_in1k",
}
TIMM_NAMES = {  # further names of timm for its sets: untagged ones, and those of its earlier versions
    "legacy_xception": "legacy_xception.tf_in1k",
    "tf_inception_v3": "inception_v3.tf_in1k",
    "adv_inception_v3": "inception_v3.tf_adv_in1k",
    "gluon_inception_v3": "inception_v3.gluon_in1k",
    "ens_adv_inception_resnet_v2": "inception_resnet_v2.tf_ens_adv_in1k",
}


def find_card(name: str) -> WeightCard | None:
    """Returns the card with an id or a name; a model of the zoo stands for its default weights.

    Args:
      name: "timm/inception_v3.tv_in1k", "inception_v3.tv_in1k" or "inception_v3".

    Returns:
      None: there is no such card, and `name` may be a file.
    """
    name = TIMM_NAMES.get(name, name)
    if name in CARDS:
        return CARDS[name]
    if name in zoo.MODELS:
        return next((CARDS[id] for id in NAMES.values() if CARDS[id].model == name), None)
    return CARDS.get(NAMES.get(name, ""))


def card_of(name: str) -> WeightCard:
    """Returns the card with an id or a name, as `find_card`.

    Raises:
      UserError: there is none; the message offers the nearest names.
    """
    if card := find_card(name):
        return card
    shown = printable(name)
    if name in zoo.MODELS:
        models = dict.fromkeys(CARDS[id].model for id in NAMES.values())
        raise UserError(f"No weights of {shown} are published. Models with published weights: {', '.join(models)}.")
    raise UserError(f"No published weights are called {shown!r}.{near(name)} `inception-jax weights` lists all.")


def near(name: str) -> str:
    """Returns " Nearest: a, b." of names and ids, for the end of a message; "" if none is like `name`."""
    ids = hint(name, CARDS, cutoff=0.5)
    return ids if "/" in name else hint(name, NAMES, cutoff=0.5) or ids


def list_models(
    filter: str | Iterable[str] = "", *, pretrained: bool = False, exclude_filters: str | Iterable[str] = ""
) -> list[str]:
    """Returns the names of the models, as timm's `list_models` does.

    Args:
      filter: a pattern of `fnmatch`, or several, one of which must match; "": all. With `pretrained`, a pattern without
        a tag also matches the name with any tag.
      pretrained: return the names of published weights instead, MODEL.TAG.
      exclude_filters: patterns of names to leave out.

    Returns:
      The names in the order of the zoo; [] if none matches.
    """
    names = list(NAMES) if pretrained else list(zoo.MODELS)
    wanted, unwanted = (_patterns(each, pretrained) for each in (filter, exclude_filters))
    return [name for name in names if (not wanted or _matches(name, wanted)) and not _matches(name, unwanted)]


def _patterns(filters: str | Iterable[str], tagged: bool) -> list[str]:
    patterns = ([filters] if filters else []) if isinstance(filters, str) else list(filters)
    return patterns + [f"{each}.*" for each in patterns if tagged and "." not in each]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
