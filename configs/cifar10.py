"""GoogLeNet for 32 pixel images, with batch norm, on CIFAR-10.

Hardware: one GPU or TPU chip, bfloat16. On CPU add --config.model.dtype=float32 and a smaller --config.model.width.
Command: python train.py --config configs/cifar10.py --workdir runs/cifar10 --config.data.data_dir=DIR
Status: not run yet. Expected: at least 95 % top-1 on the test images.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.batch_size = 256
    config.duration = "100 epochs"
    config.ema_decay = 0.999
    config.model.dtype = "bfloat16"
    config.data.name = "cifar10"
    config.data.threads = 16
    config.loss.label_smoothing = 0.1
    config.loss.aux_weights = {"aux_4a": 0.3, "aux_4d": 0.3}
    config.optimizer.learning_rate = 0.2
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 5e-4
    config.schedule.warmup = "5 epochs"
    return config
