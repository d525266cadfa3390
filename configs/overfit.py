"""Any model, a quarter as wide and without auxiliary heads, overfits 32 digits: a check that it can learn at all.

Hardware: 2 CPU cores.
Command: python train.py --config configs/overfit.py --workdir runs/overfit-NAME --config.model.name=NAME
Status: reproduced: a training loss below 0.04 with every model. Without batch norm the learning rate was lower
(googlenet 1e-3; googlenet_naive 5e-4 and 200 steps), and googlenet_cifar read 32 pixels.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.duration = "100 steps"
    config.batch_size = 32
    config.log_every = "10 steps"
    config.eval_every = "0 steps"
    config.checkpoint_every = "0 steps"
    config.model.width = 0.25
    config.model.aux = False
    config.model.dropout = 0.0
    config.data.train_split = "train[:32]"
    config.data.eval_split = "train[:32]"
    config.data.image_size = 96
    config.data.augmentation = "none"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.weight_decay = 0.0
    config.schedule.warmup = "10 steps"
    return config
