"""Weights published for Keras, TF-slim and Caffe.

Sizes in bytes, SHA-256 and SHA-384 are those that Open Model Zoo lists for the same addresses.
"""

from __future__ import annotations

from inception_jax.models import inputs
from inception_jax.weights.published.card import WeightCard

_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications"
_KERAS_MIRROR = "https://github.com/fchollet/deep-learning-models/releases/download"
_CROP = "Evaluated on one centre crop; the resize before it is not stated, 299 / 0.875 is a guess of ours."


def _keras(
    name: str,
    model: str,
    megabytes: float,
    md5s: tuple[str, str],
    errors: tuple[float, float],
    licence: str,
    release: str,
    lineage: str = "keras",
) -> tuple[WeightCard, WeightCard]:
    """Returns the cards of the files with and without the classifier, from hashes and errors in that order."""
    file = f"{name}_weights_tf_dim_ordering_tf_kernels"
    stem, mirror = f"{_KERAS}/{name}/{file}", f"{_KERAS_MIRROR}/{release}/{file}"
    top = WeightCard(
        id=f"keras/{name}",
        model=model,
        lineage=lineage,
        url=f"{stem}.h5",
        mirrors=(f"{mirror}.h5",),
        preprocess=inputs.SYMMETRIC_299,
        hashes=(f"md5:{md5s[0]}",),
        megabytes=megabytes,
        top1=round(100 - errors[0], 3),
        top5=round(100 - errors[1], 3),
        origin="README of keras-applications, as errors",
        licence=licence,
        notes=_CROP,
    )
    no_top = WeightCard(
        id=f"keras/{name}_notop",
        model=model,
        lineage=lineage,
        url=f"{stem}_notop.h5",
        mirrors=(f"{mirror}_notop.h5",),
        preprocess=inputs.SYMMETRIC_299,
        outputs=None,
        hashes=(f"md5:{md5s[1]}",),
        licence=licence,
        notes="Without the classifier.",
    )
    return top, no_top


_KERAS_CARDS = (
    *_keras(
        "inception_v3",
        "inception_v3_tf",
        megabytes=92,
        md5s=("9a0d58056eeedaa3f26cb7ebd46da564", "bcbd6486424b2319ff4ef7d526e38f63"),
        errors=(22.102, 6.280),
        licence="Apache-2.0",
        release="v0.5",
    ),
    *_keras(
        "inception_resnet_v2",
        "inception_resnet_v2",
        megabytes=215,
        md5s=("e693bd0210a403b3192acc6073ad2e96", "d19885ff4a710c122648d3b5c3b684e4"),
        errors=(19.744, 4.748),
        licence="Apache-2.0",
        release="v0.7",
    ),
    *_keras(
        "xception",
        "xception",
        megabytes=88,
        md5s=("0a58e3b7378bc2990ea3b43d5981f1f6", "b0042744bf5b25fce3cb969f33bebb97"),
        errors=(20.994, 5.548),
        licence="MIT",
        release="v0.4",
        lineage="keras1",
    ),
)

_SLIM = "http://download.tensorflow.org/models"
_SLIM_MIRROR = "https://storage.googleapis.com/download.tensorflow.org/models"  # the same bucket, over TLS


def _slim(
    name: str,
    date: str,
    model: str,
    accuracy: tuple[float, float] | None = None,
    preprocess: inputs.Preprocess = inputs.SLIM_299,
    hashes: tuple[str, ...] = (),
    size: int | None = None,
    notes: str = "",
) -> WeightCard:
    """Returns the card of an archive that holds a TensorFlow checkpoint."""
    return WeightCard(
        id=f"slim/{name}",
        model=model,
        lineage="slim",
        url=f"{_SLIM}/{name}_{date}.tar.gz",
        mirrors=(f"{_SLIM_MIRROR}/{name}_{date}.tar.gz",),
        preprocess=preprocess,
        outputs=1001,
        label_offset=1,
        hashes=hashes,
        size=size,
        top1=accuracy and accuracy[0],
        top5=accuracy and accuracy[1],
        origin=accuracy and "README of TF-slim",
        notes=notes,
    )


_ARCHIVE = "The archive holds {}; hash and size are the archive's."
_ADVERSARIAL = "Trained on adversarial images, too, made with {}. No accuracy on clean images is reported."

_SLIM_CARDS = (
    _slim(
        "inception_v1",
        "2016_08_28",
        "inception_v1_slim",
        (69.8, 89.6),
        inputs.SLIM_224,
        hashes=("sha256:7a620c430fcaba8f8f716241f5148c4c47c035cce4e49ef02cfbe6cd1adf96a6",),
        size=24_642_554,
        notes=_ARCHIVE.format("inception_v1.ckpt"),
    ),
    _slim(
        "inception_v2",
        "2016_08_28",
        "inception_v2",
        (73.9, 91.8),
        inputs.SLIM_224,
        hashes=(
            "sha384:c0b2efbae8fc5e237ae67637dca3f311d4b4f7da576b56067e83d95c398a2fccd50baff9cc0de64335f4d7b78e1adb07",
        ),
        size=41_577_079,
        notes=_ARCHIVE.format("inception_v2.ckpt"),
    ),
    _slim("inception_v3", "2016_08_28", "inception_v3_tf", (78.0, 93.9), notes="The archive holds inception_v3.ckpt."),
    _slim("inception_v4", "2016_09_09", "inception_v4", (80.2, 95.2), notes="The archive holds inception_v4.ckpt."),
    _slim(
        "inception_resnet_v2",
        "2016_08_30",
        "inception_resnet_v2",
        (80.4, 95.3),
        notes="The archive holds inception_resnet_v2_2016_08_30.ckpt.",
    ),
    *(
        _slim(name, date, model, notes=_ADVERSARIAL.format(by))
        for name, date, model, by in (
            ("adv_inception_v3", "2017_08_18", "inception_v3_tf", "itself"),
            ("ens3_adv_inception_v3", "2017_08_18", "inception_v3_tf", "an ensemble of 3 models"),
            ("ens4_adv_inception_v3", "2017_08_18", "inception_v3_tf", "an ensemble of 4 models"),
            ("adv_inception_resnet_v2", "2017_12_18", "inception_resnet_v2", "itself"),
            ("ens_adv_inception_resnet_v2", "2017_08_18", "inception_resnet_v2", "an ensemble of 3 models"),
        )
    ),
)

_CAFFE_CARDS = (
    WeightCard(
        id="caffe/bvlc_googlenet",
        model="googlenet",
        lineage="caffe",
        url="http://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel",
        preprocess=inputs.CAFFE,
        channels="BGR",
        hashes=(
            "sha1:405fc5acd08a3bb12de8ee5e23a96bec22f08204",
            "sha256:6f7101e3a2183738a7125a0c5021ba82a1feb4228c5ca0924d991b6daf6f6fad",
        ),
        size=53_533_754,
        top1=68.7,
        top5=88.9,
        origin="README of the model in Caffe",
        licence="unrestricted",
        notes="Holds the auxiliary heads, too.",
    ),
)

PUBLISHED = _KERAS_CARDS + _SLIM_CARDS + _CAFFE_CARDS
