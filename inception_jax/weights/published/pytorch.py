"""Weights published for PyTorch: torchvision, timm, Cadene, pytorch-fid, facenet-pytorch."""

from __future__ import annotations

import dataclasses
import functools

from inception_jax.models import inputs
from inception_jax.weights.published.card import WeightCard

_PYTORCH = "https://download.pytorch.org/models"
_CADENE = "http://data.lip6.fr/cadene/pretrainedmodels"
_FACENET = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9"
_CADENE_README = "README of pretrained-models.pytorch 0.7.4"

_torchvision = functools.partial(WeightCard, lineage="torchvision")
_cadene = functools.partial(WeightCard, lineage="cadene", origin=_CADENE_README)
_facenet = functools.partial(
    WeightCard, model="inception_resnet_v1", lineage="facenet_pytorch", preprocess=inputs.FACES
)
_FACES = "For images of faces, cut out and 160 x 160: an embedding of 512, and a classifier of the people in training."


def _timm(
    name: str, model: str, top1: float, top5: float, preprocess: inputs.Preprocess = inputs.TIMM_299, notes: str = ""
) -> WeightCard:
    """Returns the card of weights on timm's hub."""
    return WeightCard(
        id=f"timm/{name}",
        model=model,
        lineage="timm",
        url=f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors",
        preprocess=preprocess,
        top1=top1,
        top5=top5,
        origin="timm's results-imagenet.csv at 0173a13",
        licence="Apache-2.0",
        notes=notes,
    )


_TIMM_XCEPTION = dataclasses.replace(
    _timm("legacy_xception.tf_in1k", "xception_timm", 79.040, 94.382, inputs.TIMM_299_WIDE),
    url="https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-cadene/xception-43020ad28.pth",
    mirrors=(f"{_CADENE}/xception-43020ad28.pth",),
    hashes=("sha256:43020ad28",),
    notes="Keras's weights, run with other max pools and epsilon. Cadene's xception is the same file.",
)
_PADDED = "Trained where average pools do not count padding; timm's do, and so does this model."

PUBLISHED = (
    _torchvision(
        id="torchvision/googlenet",
        model="googlenet_torchvision",
        url=f"{_PYTORCH}/googlenet-1378be20.pth",
        preprocess=inputs.SYMMETRIC_224,
        hashes=("sha256:1378be20",),
        megabytes=49.731,
        top1=69.778,
        top5=89.530,
        origin="torchvision 0.28",
        notes="The auxiliary heads in the file are not trained.",
    ),
    _torchvision(
        id="torchvision/inception_v3",
        model="inception_v3",
        url=f"{_PYTORCH}/inception_v3_google-0cc3c7bd.pth",
        preprocess=inputs.SYMMETRIC_299,
        hashes=("sha256:0cc3c7bd",),
        megabytes=103.903,
        top1=77.294,
        top5=93.450,
        origin="torchvision 0.28",
    ),
    _torchvision(
        id="torchvision/inception_v3_1a9a5a14",
        model="inception_v3",
        url=f"{_PYTORCH}/inception_v3_google-1a9a5a14.pth",
        preprocess=inputs.SYMMETRIC_299,
        hashes=("sha256:1a9a5a14f40645a370184bd54f4e8e631351e71399112b43ad0294a79da290c8",),
        size=108_857_766,
        top1=77.294,
        top5=93.454,
        origin=_CADENE_README,
        notes="The file of earlier releases of torchvision; its size and whole hash as in Open Model Zoo.",
    ),
    _timm("inception_v3.tv_in1k", "inception_v3", 77.434, 93.474, notes="torchvision's weights, with auxiliary head."),
    _timm("inception_v3.tf_in1k", "inception_v3", 77.862, 93.644, notes=f"TF-slim's weights of 2016_08_28. {_PADDED}"),
    _timm(
        "inception_v3.tf_adv_in1k",
        "inception_v3",
        77.592,
        93.730,
        notes=f"TF-slim's adversarially trained weights of 2017_08_18. {_PADDED}",
    ),
    _timm(
        "inception_v3.gluon_in1k",
        "inception_v3",
        78.806,
        94.374,
        preprocess=dataclasses.replace(inputs.TIMM_299, mean=inputs.IMAGENET.mean, std=inputs.IMAGENET.std),
        notes="From GluonCV.",
    ),
    _timm("inception_v4.tf_in1k", "inception_v4", 80.156, 94.968, notes="TF-slim's weights, without background class."),
    _timm(
        "inception_resnet_v2.tf_in1k",
        "inception_resnet_v2",
        80.462,
        95.308,
        inputs.TIMM_299_WIDE,
        "TF-slim's weights of 2016_08_30, without background class.",
    ),
    _timm(
        "inception_resnet_v2.tf_ens_adv_in1k",
        "inception_resnet_v2",
        79.978,
        94.946,
        inputs.TIMM_299_WIDE,
        "TF-slim's adversarially trained weights of 2017_08_18, without background class.",
    ),
    _TIMM_XCEPTION,
    _cadene(
        id="cadene/bn_inception",
        model="bn_inception",
        url=f"{_CADENE}/bn_inception-52deb4733.pth",
        preprocess=inputs.BGR_MEANS,
        channels="BGR",
        hashes=("sha256:52deb4733",),
        top1=73.524,
        top5=91.562,
    ),
    _cadene(
        id="cadene/inceptionv4",
        model="inception_v4",
        url=f"{_CADENE}/inceptionv4-8e4777a0.pth",
        preprocess=inputs.CADENE_299,
        outputs=1001,
        label_offset=1,
        hashes=("sha256:8e4777a0",),
        top1=80.062,
        top5=94.926,
        notes="TF-slim's weights.",
    ),
    _cadene(
        id="cadene/inceptionresnetv2",
        model="inception_resnet_v2",
        url=f"{_CADENE}/inceptionresnetv2-520b38e4.pth",
        preprocess=inputs.CADENE_299,
        outputs=1001,
        label_offset=1,
        hashes=("sha256:520b38e4",),
        top1=80.170,
        top5=95.234,
        notes="TF-slim's weights.",
    ),
    WeightCard(
        id="pytorch_fid/inception_v3",
        model="inception_v3_fid",
        lineage="pytorch_fid",
        url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        preprocess=inputs.FID,
        outputs=1008,
        hashes=("sha256:6726825d",),
        notes="The graph of 2015. Its outputs follow the label map of that year: they are not in the order of ILSVRC "
        "2012, whose first class, n01440764, is output 449, and some are no class.",
    ),
    _facenet(
        id="facenet_pytorch/vggface2",
        url=f"{_FACENET}/20180402-114759-vggface2.pt",
        megabytes=107,
        outputs=8631,
        notes=f"{_FACES} Accuracy on LFW: 99.65 %, as listed by facenet.",
    ),
    _facenet(
        id="facenet_pytorch/casia-webface",
        url=f"{_FACENET}/20180408-102900-casia-webface.pt",
        megabytes=111,
        outputs=10575,
        notes=f"{_FACES} Accuracy on LFW: 99.05 %, as listed by facenet.",
    ),
)
