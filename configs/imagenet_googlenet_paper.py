"""GoogLeNet as the paper and Caffe's solver describe it (arXiv 1409.4842, section 6): LRN, biases, aux heads.

The paper gives momentum 0.9, a learning rate times 0.96 every 8 epochs, the sampling of crops, and Polyak averaging.
It does not give batch size, learning rate, weight decay and length: these are those of Caffe's first solver.
Hardware: one GPU or TPU chip holds the batch.
Command: python train.py --config configs/imagenet_googlenet_paper.py --workdir DIR --config.data.data_dir=DIR
Status: not run yet. Published: 89.9 % top-5 (1 model, 1 crop), trained asynchronously on DistBelief.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    config = default.get_config()
    config.batch_size = 32
    config.duration = "250 epochs"
    config.ema_decay = 0.9999
    config.log_every = "500 steps"
    config.model.name = "googlenet"
    config.data.name = "imagenet2012"
    config.data.eval_split = "validation"
    config.data.augmentation = "inception"
    config.data.threads = 16
    config.loss.aux_weights = {"aux_4a": 0.3, "aux_4d": 0.3}  # section 5
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 2e-4
    config.schedule.name = "exponential"
    return config
