"""GoogLeNet with batch norm (true 5x5) and a modern recipe: large batch, warm-up, cosine, label smoothing, averaging.

Hardware: 8 GPUs or TPU chips with 128 images each, bfloat16.
Command: python train.py --config configs/imagenet_googlenet.py --workdir DIR --config.data.data_dir=DIR
Status: not run yet. For comparison, torchvision publishes 69.8 % top-1 for its GoogLeNet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.batch_size = 1024
    config.duration = "120 epochs"
    config.ema_decay = 0.9999
    config.log_every = "100 steps"
    config.model.name = "googlenet_bn"
    config.model.dtype = "bfloat16"
    config.data.name = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.augmentation = "inception"
    config.data.photometric = False
    config.data.workers = 8
    config.loss.label_smoothing = 0.1
    config.loss.aux_weights = {"aux_4a": 0.3, "aux_4d": 0.3}
    config.optimizer.learning_rate = 0.4
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-5
    config.schedule.warmup = "5 epochs"
    return config
