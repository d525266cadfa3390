"""Every field of a run. The other configs start from this one and change a few lines."""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of the parameters, the order of the images, their augmentation, and dropout
    config.batch_size = 128  # images in a step, over all devices
    config.duration = "40 epochs"  # this and every duration: "<number> steps" or "<number> epochs"
    config.platform = placeholder(str)  # cpu, gpu or tpu: stop unless JAX runs there; None: anywhere
    config.grad_accum_steps = 1  # parts of a batch that run one after the other, to save memory
    config.ema_decay = placeholder(float)  # of the averaged parameters (Polyak); None: no average
    config.log_every = "50 steps"
    config.eval_every = "1 epochs"  # each evaluation is also a checkpoint
    config.checkpoint_every = "1 epochs"
    config.keep_checkpoints = 3  # the last ones; the best is kept besides

    config.model = ml_collections.ConfigDict()
    config.model.name = "googlenet_cifar"  # see `inception-jax models`
    config.model.width = 1.0  # multiplies the features of every layer, at least 16 each
    config.model.aux = True  # auxiliary classifiers, in training
    config.model.dropout = placeholder(float)  # before the classifier; None: the model's own
    config.model.dtype = "float32"  # of the computation: float32, bfloat16; parameters and statistics are float32
    config.model.bn_group_size = placeholder(int)  # images that share batch statistics; None: the whole batch

    config.data = ml_collections.ConfigDict()
    config.data.name = "digits"  # digits, a TFDS name (cifar10, imagenet2012, ...) or folder:PATH
    config.data.data_dir = placeholder(str)  # where TFDS keeps prepared data; None: its default
    config.data.train_split = "train"
    config.data.eval_split = "test"
    config.data.image_size = placeholder(int)  # pixels; None: the model's own
    config.data.augmentation = "crop_flip"  # inception (GoogLeNet's sampling), crop_flip, none (as in evaluation)
    config.data.crop_area = (0.08, 1.0)  # inception: share of the image that a patch covers
    config.data.crop_pad = 4  # crop_flip: pixels of black border before the random crop
    config.data.flip = True  # mirror half of the images
    config.data.photometric = True  # inception: distort brightness, contrast, colour and lighting
    config.data.mixup = 0.0  # alpha of the Beta distribution; 0: off
    config.data.cutmix = 0.0  # likewise
    config.data.on_error = "raise"  # at a broken image: raise, or skip (leave it out of the loss and count it)
    config.data.max_skipped = 100  # more skipped images than this stop the run
    config.data.workers = 0  # processes that decode images; 0: threads of the main process
    config.data.threads = 4  # that read and decode, per worker
    config.data.buffer = 4  # batches kept ready, per worker

    config.loss = ml_collections.ConfigDict()
    config.loss.label_smoothing = 0.0
    config.loss.aux_weights = {"4a": 0.3, "4d": 0.3}  # loss = main + sum of weight * auxiliary loss, by tap

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "sgd"  # sgd, rmsprop_tf (TensorFlow's semantics), adamw, lars
    config.optimizer.learning_rate = 0.1  # the peak, for this batch size
    config.optimizer.momentum = 0.9  # sgd, rmsprop_tf, lars
    config.optimizer.nesterov = False  # sgd, lars
    config.optimizer.decay = 0.9  # rmsprop_tf: of the mean square
    config.optimizer.epsilon = 1.0  # rmsprop_tf (inside the square root), adamw
    config.optimizer.beta1 = 0.9  # adamw
    config.optimizer.beta2 = 0.999  # adamw
    config.optimizer.weight_decay = 1e-4  # of kernels only; added to the gradient (adamw: to the update)
    config.optimizer.clip_norm = placeholder(float)  # largest global norm of the gradient; None: no limit

    config.schedule = ml_collections.ConfigDict()
    config.schedule.name = "cosine"  # constant, exponential, poly, cosine; all after the warm-up
    config.schedule.warmup = "0 steps"  # linear from 0
    config.schedule.decay_rate = 0.96  # exponential: factor of each stair
    config.schedule.decay_every = "8 epochs"  # exponential: length of a stair
    config.schedule.power = 0.5  # poly: (1 - progress)^power
    config.schedule.end_factor = 0.0  # poly, cosine: the last learning rate, as a share of the peak

    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # devices that share the batch; -1: all that are left
    config.mesh.fsdp = 1  # devices that also shard parameters, their average and optimizer state

    return config
