"""Every field of a run. The other configs start from this one and change a few lines."""

import ml_collections
from ml_collections.config_dict import placeholder


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    config.seed = 0  # of the initial parameters, the order and augmentation of the images, and dropout
    config.batch_size = 128  # images in a step, over all devices
    config.duration = "40 epochs"  # this and every duration: "<number> steps" or "<number> epochs"
    config.platform = placeholder(str)  # cpu, gpu or tpu: stop if JAX runs on another one; None: any
    config.grad_accum_steps = 1  # microbatches of a step, run one after the other to save memory
    config.ema_decay = placeholder(float)  # of the averaged variables (Polyak); None: no average
    config.log_every = "50 steps"
    config.eval_every = "1 epochs"  # each evaluation is also a checkpoint
    config.checkpoint_every = "1 epochs"  # "0 steps", here and in eval_every: only at the end
    config.keep_checkpoints = 3  # the last ones, in addition to the best

    config.model = _model()
    config.finetune = _finetune()
    config.data = _data()
    config.loss = _loss()
    config.optimizer = _optimizer()
    config.schedule = _schedule()
    config.mesh = _mesh()
    return config


def _model() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "googlenet_cifar"  # see `inception-jax models`
    config.width = 1.0  # multiplies the channels of every layer, which keeps at least 16
    config.aux = True  # auxiliary classifiers in training
    config.dropout = placeholder(float)  # rate before the classifier; None: that of the model
    config.dtype = "float32"  # of the computation: float32, bfloat16; parameters and statistics are float32
    # Images that share batch statistics: a number, "global" (the whole batch), or None (those of one device).
    config.bn_group_size = placeholder(object)
    # Decay of batch norm's running statistics in a step; None: that of the model, up to 0.9997, for long runs.
    config.bn_decay = placeholder(float)
    # Of convolutions, pools and batch norms. auto: C++ on CPUs, XLA elsewhere; or xla, native (C++), pallas (TPUs).
    config.implementation = "auto"
    return config


def _finetune() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    # A file, an id of `inception-jax weights`, or the workdir of a run; None: from scratch.
    config.weights = placeholder(str)
    config.freeze = "none"  # rows that do not train: none, backbone (all but the classifiers), up_to:ENDPOINT
    config.reset_head = False  # draw new classifiers even if the weights have as many classes as the data
    config.unverified = False  # accept a file whose checksum is not on record
    config.key = placeholder(str)  # which of several networks in a checkpoint: state_dict, model_ema, ...
    return config


def _data() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "digits"  # digits, a TFDS name (cifar10, imagenet2012, ...) or folder:PATH
    config.data_dir = placeholder(str)  # where TFDS keeps prepared data; None: its default
    config.train_split = "train"
    config.eval_split = "test"
    config.image_size = placeholder(int)  # pixels; None: that of the model
    config.exif = False  # apply the EXIF orientation; ImageNet's published accuracies are measured without
    config.augmentation = "crop_flip"  # inception (GoogLeNet's sampling), crop_flip, none (as in evaluation)
    config.crop_area = (0.08, 1.0)  # inception: smallest and largest share of the image that a crop covers
    config.crop_pad = 4  # crop_flip: pixels of black border before the random crop
    config.flip = True  # mirror half of the images
    config.photometric = True  # inception: distort brightness, contrast, colour and lighting
    config.mixup = 0.0  # alpha of the Beta distribution; 0: off
    config.cutmix = 0.0  # likewise
    # At a broken image: raise, or skip (leave it out of the loss and count it; mixup and cutmix may still blend it in).
    config.on_error = "raise"
    config.max_skipped = 100  # more skipped images than this stop the run
    config.workers = 0  # processes that decode images; 0: threads of the main process
    config.threads = 4  # threads that read and decode, per worker
    config.buffer = 4  # batches kept ready, per worker (or in the main process); `threads` if that is more
    return config


def _loss() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.label_smoothing = 0.0
    config.aux_weights = {}  # {head: weight} of auxiliary losses that differ from those of the model
    return config


def _optimizer() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "sgd"  # sgd, rmsprop_tf (TensorFlow's semantics), adamw, lars
    config.learning_rate = 0.1  # the peak, for this batch size
    config.momentum = 0.9  # sgd, rmsprop_tf, lars
    config.nesterov = False  # sgd, lars
    config.decay = 0.9  # rmsprop_tf: of the mean square
    config.epsilon = placeholder(float)  # None: 1 in rmsprop_tf (inside the square root), 1e-8 in adamw
    config.beta1 = 0.9  # adamw
    config.beta2 = 0.999  # adamw
    config.weight_decay = 1e-4  # of kernels only; added to the gradient (adamw: to the update)
    config.clip_norm = placeholder(float)  # largest global norm of the gradient; None: no limit
    return config


def _schedule() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.name = "cosine"  # constant, exponential, poly, cosine; all after the warm-up
    config.warmup = "0 steps"  # linear from 0
    config.decay_rate = 0.96  # exponential: factor of each stair
    config.decay_every = "8 epochs"  # exponential: length of a stair
    config.power = 0.5  # poly: (1 - progress)^power
    config.end_factor = 0.0  # poly, cosine: the last learning rate, as a share of the peak
    return config


def _mesh() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.data = -1  # size of the axis "data"; -1: all devices / fsdp
    config.fsdp = 1  # size of the axis "fsdp", over which parameters, their average and optimizer state are sharded
    return config
