"""GoogLeNet for small images, a quarter as wide, on scikit-learn's digits: the run of `make train`.

Hardware: 2 CPU cores.
Command: python train.py --config configs/digits.py --workdir runs/digits
Status: reproduced: 99.2 % top-1 on the 360 test images (98.3 to 99.7 % by seed and rounding), 1:25 minutes.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.duration = "12 epochs"
    config.batch_size = 64
    config.ema_decay = 0.98
    config.log_every = "1 epochs"
    config.model.width = 0.25
    config.model.dropout = 0.2
    config.data.image_size = 16
    config.data.flip = False  # a mirrored digit is not a digit
    config.data.crop_pad = 1
    config.loss.aux_weights = {"aux_4a": 0.3, "aux_4d": 0.3}
    config.optimizer.learning_rate = 0.05
    config.optimizer.nesterov = True
    config.schedule.warmup = "2 epochs"
    return config
