"""GoogLeNet-GAP, a quarter as wide, learns drawn shapes by their classes alone; its maps then find them (1512.04150).

Data: python -m benchmarks.shapes data/shapes --size 224 --train 2000 --validation 250
Hardware: 2 CPU cores.
Command: python train.py --config configs/shapes.py --workdir runs/shapes
Then: inception-jax evaluate --data folder:data/shapes --workdir runs/shapes --localization data/shapes/boxes.csv
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.duration = "10 epochs"
    config.batch_size = 32
    config.log_every = "10 steps"
    config.eval_every = "2 epochs"
    config.checkpoint_every = "2 epochs"
    config.model.name = "googlenet_gap"
    config.model.width = 0.25
    config.model.aux = False
    config.data.name = "folder:data/shapes"
    config.data.eval_split = "validation"
    config.data.augmentation = "crop_flip"
    config.data.crop_pad = 16
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.schedule.warmup = "50 steps"
    return config
