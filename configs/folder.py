"""Training from scratch on your own photographs, PATH/train/<class>/ and PATH/test/<class>/, at 224 pixels.

From scratch takes thousands of images; with fewer, start from weights (configs/finetune.py).
Hardware: one GPU or TPU chip; on CPUs add --config.model.width=0.5 and a smaller --config.data.image_size.
Command: python train.py --config configs/folder.py --workdir runs/mine --config.data.name=folder:PATH
Status: reproduced in part on 2 CPU cores: a quarter as wide, 192 photographs of animals and objects, stopped after step
  198 of 240. At step 180 top-1 was 81.2 % on 64 others (standard error 4.9; 59.4 % are objects); the five evaluations
  before it gave 54.7 to 79.7 %. Not run yet as shipped.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.batch_size = 32
    config.duration = "60 epochs"
    config.ema_decay = 0.99  # averages over about 100 steps; the average picks the best checkpoint
    config.log_every = "1 epochs"
    config.eval_every = "5 epochs"
    config.checkpoint_every = "5 epochs"
    config.keep_checkpoints = 2
    config.model.name = "googlenet_bn"
    config.model.bn_decay = 0.9  # a small data set has few steps, so the statistics must adapt fast
    config.data.name = "folder:PATH"
    config.data.image_size = 224
    config.data.augmentation = "inception"
    config.data.crop_area = (0.25, 1.0)  # smaller crops often miss the object
    config.data.photometric = False
    config.loss.label_smoothing = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.05
    config.optimizer.clip_norm = 5.0
    config.schedule.warmup = "5 epochs"
    return config
