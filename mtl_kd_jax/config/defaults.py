"""Every key, with its meaning, unit and allowed values.

Experiments start from here and change what they need. A printed config is the
whole experiment: nothing is defaulted anywhere else. Any key can be changed on
the command line: --config.epochs=3
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder

from mtl_kd_jax import balancing as balancers
from mtl_kd_jax import distillation


def get_config() -> ConfigDict:
  """The defaults: the paper's settings, on the embedded scenes."""
  config = ConfigDict()
  # Names the default workdir, runs/<name>.
  config.name = 'common'
  # Seeds initial parameters, order of the samples and augmentation.
  config.seed = 0
  # What is learned: some of the labels of the data set ('semantic', 'depth',
  # 'normals'), or tasks of your own that config.task describes.
  config.tasks = ('semantic', 'depth', 'normals')
  # Tasks of your own by name, and what differs in others (docs/own_tasks.md):
  # config.task.road = {'kind': 'classes', 'classes': ('other', 'road')}. What
  # is not learned is ignored.
  config.task = ConfigDict()
  # What is trained, in which stages: 'distill' (single-task networks, the
  # uniformly weighted baseline, the distilled network), 'multi_task' (single-
  # task networks, the baseline, the network of config.balancing) or
  # 'single_task'.
  config.method = 'distill'
  # Length of every stage, in passes over the training split.
  config.epochs = 200
  # Samples in a step, over all devices of all hosts.
  config.batch_size = 2
  # Micro-batches of a step: the network runs on one after another, which takes
  # less memory (but on CPUs), and one more forward pass. Losses, and what
  # balances them, see the whole batch; BatchNorm sees micro-batches.
  config.accumulate = 1
  # What networks compute in while they train: 'float32', or 'bfloat16', with
  # parameters, statistics, losses, balancing and optimizers in float32.
  config.precision = 'float32'
  # Whether activations inside of the backbone's blocks are computed again on
  # the way back, instead of kept: less memory, more time.
  config.remat = False
  # Whether to train the uniformly weighted multi-task network, for comparison.
  config.baseline = True
  # Batches of training over which the statistics of BatchNorm are computed
  # anew, with the final weights, before a network is scored or teaches; 0 keeps
  # the running means of training, as the literature does.
  config.recalibrate = 0
  # Which checkpoint of a stage teaches and is reported: 'last', or 'best' on
  # the split that data.select_split and data.val_fraction say.
  config.select = 'last'

  _add_data(config)
  _add_model(config)
  _add_optim(config)
  _add_balancing(config)
  _add_teacher(config)
  _add_distill(config)
  _add_running(config)
  # A misspelled key in a file that starts from here is an error, not a new key.
  config.lock()
  config.task.unlock()  # has a key for every task
  return config


def _add_data(config):
  config.data = data = ConfigDict()
  # 'scenes' (rendered, no download); 'nyuv2_mat' or 'cityscapes' (the official
  # archives); 'nyuv2' or 'cityscapes_npy' (the literature's .npy files);
  # 'pascal_context', 'taskonomy', 'svhn' or 'omniglot'; or 'folder' (your own
  # data).
  data.name = 'scenes'
  # A data set for each task or domain, in place of the one above (docs/data/
  # sets.md): {'road': {'name': 'folder', ...}, 'depth': {...}}. Entries have
  # keys of config.data, and 'rate', the share of a batch, and 'labels',
  # {'task': 'label'}.
  data.sets = ConfigDict()
  # Height and width in pixels that the pictures of data.sets are brought to; ()
  # if they all have the same.
  data.image_size = ()
  # scenes, cityscapes: where to prepare, '' for TFDS's usual directory.
  # nyuv2, cityscapes_npy: the folder that holds train/ and val/.
  # nyuv2_mat: the folder that holds nyu_depth_v2_labeled.mat.
  # folder: the folder.
  data.data_dir = ''
  # The folder with archives that you downloaded yourself; '' for TFDS's,
  # downloads/manual in its directory.
  data.manual_dir = ''
  # The split that is trained on.
  data.train_split = 'train'
  # The split that is reported.
  data.eval_split = 'val'
  # The share of the training split, below 1, that is held out of training by
  # the seed, as the split 'held_out'; 0 for none. For data whose evaluation
  # split is the test split: checkpoints are then chosen on the held-out share.
  data.val_fraction = 0.0
  # The split that checkpoints are chosen on. '': the held-out share, if there
  # is one, else eval_split (which flatters what is chosen by it).
  data.select_split = ''
  # Which training samples keep their labels, drawn by the seed: a share above 0
  # and up to 1, for all tasks or as {'task': share}; or 'one', for one random
  # label per image. What is hidden is hidden in every epoch and every stage.
  data.label_fraction = FieldReference(1.0, field_type=object)
  # Zoom into random crops by one of these factors; (1.0,) for none.
  data.scales = (1.0,)
  # Mirror half of the samples, at random.
  data.flip = False
  # Processes that read and augment; 0 for threads of the main process, which
  # also read splits of less than 1024 samples when networks are scored.
  data.num_workers = 0
  # Read and check every file once before training.
  data.check = True
  _add_scenes(data)
  _add_cityscapes(data, tasks=config.get_oneway_ref('tasks'))
  _add_nyuv2(data)
  _add_others(data)
  _add_folder(data)


def _add_scenes(data):
  # Options of data.name = 'scenes'.
  data.scenes = scenes = ConfigDict()
  # Height and width in pixels.
  scenes.image_size = (96, 128)
  # Rooms in the split 'train'.
  scenes.num_train = 1024
  # Rooms in the split 'val'.
  scenes.num_val = 128
  # Another seed draws other rooms.
  scenes.seed = 0
  # Whether rooms have labels as a whole, too: 'count' of solids, 'pattern' of
  # the walls and side of the 'light', as in configs/attributes.py.
  scenes.attributes = False


def _add_cityscapes(data, *, tasks):
  # Options of data.name = 'cityscapes'.
  data.cityscapes = cityscapes = ConfigDict()
  # Height and width in pixels: (128, 256), (256, 512) or the full (1024, 2048).
  cityscapes.image_size = (128, 256)
  # 7 (the categories) or 19.
  cityscapes.classes = 7
  # What the task 'depth' is: 'inverse_depth', the raw numbers of the disparity
  # files / 65535 as in the literature; 'disparity' in pixels of the full size;
  # or 'depth' in meters.
  cityscapes.depth = 'inverse_depth'
  # Tasks whose labels are needed: config.tasks until it is set.
  cityscapes.tasks = tasks
  # The folder with the archives: data.manual_dir until it is set.
  cityscapes.manual_dir = data.get_oneway_ref('manual_dir')
  # Options of data.name = 'cityscapes_npy'.
  data.cityscapes_npy = ConfigDict()
  # 7 (its folders label_7) or 19 (label_19).
  data.cityscapes_npy.classes = 7


def _add_others(data):
  # Options of data.name = 'pascal_context'.
  data.pascal_context = pascal = ConfigDict()
  # Height and width in pixels; larger frames are reduced until they fit.
  pascal.image_size = (512, 512)
  # Labels whose files are needed; 'edges' need scikit-image.
  pascal.tasks = ('semantic', 'parts', 'normals', 'saliency', 'edges')
  # Ids of the classes, in LabelMap, of which normals count; () for all.
  pascal.normals_classes = ()
  # Options of data.name = 'taskonomy'.
  data.taskonomy = taskonomy = ConfigDict()
  # Height and width in pixels that frames are reduced to.
  taskonomy.image_size = (256, 256)
  # Labels whose domains are needed.
  taskonomy.tasks = ('semantic', 'depth', 'normals', 'edges', 'keypoints')
  # The folder with lists of buildings, train.txt and val.txt.
  taskonomy.splits = 'splits'
  # Options of data.name = 'svhn': none, digits have 32 x 32 pixels.
  data.svhn = ConfigDict()
  # Options of data.name = 'omniglot'.
  data.omniglot = omniglot = ConfigDict()
  # Height and width in pixels that drawings of 105 x 105 are reduced to.
  omniglot.image_size = (32, 32)
  # 'all' 1623 characters, or the 964 of the 'background' set.
  omniglot.characters = 'all'


def _add_nyuv2(data):
  # Options of data.name = 'nyuv2': none, the files say it all.
  data.nyuv2 = ConfigDict()
  # Options of data.name = 'nyuv2_mat'.
  data.nyuv2_mat = nyuv2_mat = ConfigDict()
  # Height and width in pixels that the frames are reduced to.
  nyuv2_mat.image_size = (288, 384)
  # First row, end row, first column and end column of 480x640 that are kept.
  # The default cuts the white border off; (0, 480, 0, 640) keeps all.
  nyuv2_mat.crop = (45, 471, 41, 601)
  # 13 or 40.
  nyuv2_mat.classes = 13
  # What the archive's labels are: 'raw', the official 894 ids, or 'nyu40', for
  # copies that hold 1 to 40.
  nyuv2_mat.label_ids = 'raw'
  # 'filled', with depth made up where the sensor saw none, or 'raw'.
  nyuv2_mat.depth = 'filled'
  # A folder of normals; '' to compute them from the raw depth.
  nyuv2_mat.normals_dir = ''


def _add_folder(data):
  # Options of data.name = 'folder', your own data (docs/data/folder.md). Files
  # are given as patterns of paths in the folder, in which {frame} stands for
  # the name of a frame and {split} for what is named here for the split.
  data.folder = folder = ConfigDict()
  # Height and width in pixels that all files are brought to; () if they all
  # have the same, which is kept.
  folder.image_size = ()
  # What stands for {split} in the split 'train'; or a file .txt that lists
  # frames, one in a line.
  folder.train = 'train'
  # The same for the split 'val'.
  folder.val = 'val'
  # The same for the split 'test'; '' for none.
  folder.test = ''
  # Images, .png, .jpg or .npy (bytes, or floats in 0..1). Further labels are
  # described in config.task.
  folder.image = '{split}/image/{frame}.png'
  # Whether frames may lack maps: they are unlabeled for that task.
  folder.allow_missing = False
  # A table with one row per picture, .csv or .jsonl, for what is said of whole
  # pictures and for paths that follow no pattern; '' for none.
  folder.rows = ''
  # Its column that names the pictures; '' for the first one.
  folder.picture = ''
  # Annotations in the format of COCO, .json, with {split} if there are several;
  # '' for none. Tasks with 'source': 'coco' are read from them.
  folder.coco = ''
  folder.semantic = ConfigDict()
  # Maps of class ids, .png, .npy or others (docs/own_tasks.md); '' for none.
  folder.semantic.files = ''
  # Names of the classes.
  folder.semantic.classes = ()
  # The id of each class in the files; () for 0, 1, 2 ...
  folder.semantic.ids = ()
  # Ids that mean unlabeled. Any other id is an error.
  folder.semantic.ignore = (-1, 255)
  folder.depth = ConfigDict()
  # Maps of depth, in the same formats; '' for none.
  folder.depth.files = ''
  # 'depth', along the optical axis, or 'disparity', also for inverse depth.
  folder.depth.quantity = 'depth'
  # The unit after scaling, for the tables.
  folder.depth.unit = 'm'
  # What a stored number is multiplied with: 0.001 for millimeters.
  folder.depth.scale = 1.0
  # Stored numbers that mean unlabeled, as NaN and infinity always do.
  folder.depth.invalid = (0,)
  folder.normals = ConfigDict()
  # Unit vectors in .npy, or as colors, v = max / 2 * (n + 1), in .png; '' for
  # none.
  folder.normals.files = ''
  # The stored vector or color that means unlabeled.
  folder.normals.invalid = (0, 0, 0)


def _add_model(config):
  config.model = model = ConfigDict()
  # 'segnet', 'segnet_wide', 'segnet_deep', 'mtan', 'resnet10', 'resnet18',
  # 'resnet34' or 'resnet50'.
  model.backbone = 'segnet'
  # Head of every task: 'dense' (segnet, mtan); or 'aspp' (DeepLabV3),
  # 'deeplabv3plus' or 'fpn' (light), all of them resnet.
  model.head = 'dense'
  # Factor on all channels: of segnet [64, 128, 256, 512, 512].
  model.width = 1.0
  # Image side over side of the coarsest map: 8, 16 or 32 (resnet).
  model.output_stride = 8
  # A file of PyTorch weights, .pth or .safetensors, that the backbone begins
  # with: torchvision's ImageNet weights for a resnet. '' for random numbers.
  model.pretrained = ''


def _add_optim(config):
  config.optim = optim = ConfigDict()
  # Of every network: 'adam' (the paper), 'adamw' or 'sgd'.
  optim.name = 'adam'
  # The learning rate.
  optim.learning_rate = 1e-4
  # Of 'adam' and 'sgd', added to the gradient as weight_decay * parameter (L2);
  # of 'adamw', how fast parameters shrink, times the learning rate.
  optim.weight_decay = 0.0
  # What decays: 'all' parameters, or 'kernels', without biases and
  # normalizations.
  optim.decay_on = 'all'
  # Of 'sgd'; 0 for none.
  optim.momentum = 0.9
  # A longer gradient, over all parameters of the network, is scaled to this
  # length; 0 for none.
  optim.clip_norm = 0.0
  # Factor on the learning rate of the backbone, e.g. of a pretrained one.
  optim.backbone_rate = 1.0
  # Decay of the moving average of the network's parameters, which is then what
  # is scored, exported and teaches, e.g. 0.999; 0 for none.
  optim.ema = 0.0
  # 'step': times decay_rate after every decay_every_epochs; 'cosine': to 0 over
  # the run; 'constant'.
  optim.schedule = 'step'
  # Of 'step': after how many epochs, each time.
  optim.decay_every_epochs = 100
  # Of 'step': the factor.
  optim.decay_rate = 0.5
  # First epochs in which the learning rate grows from 0; also 0.5 for half of
  # one.
  optim.warmup_epochs = 0.0


def _add_balancing(config):
  config.balancing = balancing = ConfigDict()
  # How the tasks of the network 'distilled', or 'balanced' in the method
  # 'multi_task', are balanced (docs/balancing.md); the baseline is always
  # uniform. By losses: 'uniform', 'fixed', 'uncertainty',
  # 'dwa', 'rlw', 'gls', 'scale_invariant', 'stch', 'imtl_l', 'famo'. By
  # gradients: 'mgda', 'pcgrad', 'gradvac', 'graddrop', 'cagrad', 'imtl_g',
  # 'imtl_h', 'gradnorm', 'nash_mtl', 'fairgrad', 'aligned_mtl', 'upgrad',
  # 'dualproj', 'config', 'moco', 'db_mtl', 'excess_mtl'; and, on independent
  # mini-batches, 'sdmgrad', 'modo', 'auto_lambda'.
  balancing.name = 'uniform'
  # How alignment losses enter: added 'outside' (the paper), inside the loss of
  # their 'task', or each as an 'objective' of its own.
  balancing.distillation = 'outside'
  # What gradients are with respect to when they are combined: the backbone's
  # 'parameters' (one backward pass a task), or its 'features' (one in all;
  # shared features only).
  balancing.grad_wrt = 'parameters'
  # Gradients are divided by their norm ('l2'), loss ('loss'), both ('loss+') or
  # nothing ('none') before.
  balancing.normalize = 'none'
  # Weights are scaled to this mean over the objectives, so that alignments
  # outside count for as much as lambda says with any rule; 0 for as they are.
  balancing.mean_weight = 0.0
  # Weights become their exponential moving average with this decay; 0 for none.
  balancing.weight_ema = 0.0
  # Weights from gradients are computed in every so many steps.
  balancing.update_every = 1
  # Lengths of the tasks' gradients and the angles between them are measured in
  # every so many steps, with any balancer; 0 for never.
  balancing.observe_every = 50
  # Options of each rule, config.balancing.<name>: those of its function, which
  # describes them (docs/balancing.md has them all).
  for name in balancers.BALANCERS | balancers.GRADIENT_BALANCERS:
    if options := balancers.options(name):
      balancing[name] = _section(options)
  # Whole epochs; by itself the rule counts steps.
  balancing.dwa.window = 0


def _section(options):
  """Options as a section; a mapping by task may get keys."""
  return ConfigDict(
    {k: ConfigDict() if v == {} else v for k, v in options.items()}
  )


def _add_teacher(config):
  config.teacher = teacher = ConfigDict()
  teacher.model = ConfigDict()
  # Backbone of the single-task networks; the student's until it is set, as all
  # keys of this section.
  teacher.model.backbone = config.model.get_oneway_ref('backbone')
  # Their head.
  teacher.model.head = config.model.get_oneway_ref('head')
  # Factor on their channels.
  teacher.model.width = config.model.get_oneway_ref('width')
  # Image side over side of their coarsest map.
  teacher.model.output_stride = config.model.get_oneway_ref('output_stride')
  # File of PyTorch weights that their backbones begin with.
  teacher.model.pretrained = config.model.get_oneway_ref('pretrained')
  # The workdir of another run or import whose single-task networks teach, and
  # are not trained here; '' to train them.
  teacher.workdir = ''
  # Which network teaches a task: its 'single_task' one (the paper), or the
  # 'best' of that and the baseline, by the split that checkpoints are chosen
  # on. Where sharing helps, that is the baseline. Without one, it is the first.
  teacher.choose = 'single_task'
  # BatchNorm of the frozen teachers: 'running' statistics, frozen like their
  # parameters, or those of the student's 'batch', as the paper's code does.
  teacher.batch_norm = 'running'
  # Whether their outputs for a frame, and for its mirror image, are computed
  # once and kept, in 'memory' or on 'disk', or in every step: 'none'. Needs
  # 'running' statistics, and frames that are not zoomed into.
  teacher.cache = 'none'
  # Of what is kept: 'float32', or 'bfloat16' for half the size.
  teacher.cache_dtype = 'float32'
  # Of 'disk': a folder that all runs with the same teachers and frames share.
  teacher.cache_dir = 'runs/teacher_cache'


def _add_distill(config):
  config.distill = distill = ConfigDict()
  # lambda per task: the weight of its alignment loss; 1 for a task that is not
  # there. Not learned tasks are ignored.
  distill.weights = ConfigDict({'semantic': 1.0, 'depth': 1.0, 'normals': 2.0})
  # What becomes of lambda over a training: 'constant' (the paper), or 'linear'
  # or 'cosine', to 0: teachers are then imitated first and overtaken later
  # (teacher annealing, Clark et al. 2019).
  distill.schedule_lambda = 'constant'
  # The share of the training after which 'linear' and 'cosine' are at 0.
  distill.lambda_until = 1.0
  # What lambda follows: 'none' (the paper); 'baseline', how far the baseline is
  # behind the teacher on the split that checkpoints are chosen on (0 for a task
  # in which it is ahead); 'gap', the same of the network itself, whenever it is
  # scored (report.eval_every_epochs); 'cosine', how far the gradients of a task
  # and its alignment agree in each step (Du et al. 2018); 'cosine_all', how far
  # the alignment agrees with the sum of all tasks; 'baseline+cosine' and the
  # like, the product.
  distill.adapt = 'none'
  # 'baseline' and 'gap' apply all of lambda from this gap on, in percent of the
  # teacher's headline metric.
  distill.full_gap = 10.0
  # Features that are aligned: 'tap', of that name in student and teacher, or
  # 'student tap:teacher tap'. --job=taps lists all there are.
  distill.taps = ('bottleneck', 'decoder')
  # What compares an adapted feature with the teacher's: 'feature_l2', the
  # paper's distance of unit vectors.
  distill.loss = 'feature_l2'
  # Options of each loss, config.distill.<loss>: those of its function.
  for name in distillation.LOSSES:
    distill[name] = _section(distillation.loss_options(name))
  # Learning rate of the adaptors' own Adam.
  distill.learning_rate = 1e-1
  # Its schedule, as optim.schedule; the steps of 'step' are optim's.
  distill.schedule = 'constant'
  # L2 weight decay of the adaptors.
  distill.weight_decay = 5e-4


def _add_running(config):
  config.parallel = ConfigDict()
  # 'jit': batch sharded over all devices; 'pmap': the same under jax.pmap.
  config.parallel.mode = 'jit'
  # Whether parameters and the state of optimizers are sharded over the devices,
  # too ('jit'): less memory on each, more communication.
  config.parallel.fsdp = False
  # Whether to join the other hosts (jax.distributed.initialize); None to join
  # those that are found: on a Cloud TPU slice, under Slurm (srun) and Open MPI,
  # and where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID name
  # them. With True, it is an error if there are none.
  config.parallel.multihost = placeholder(bool)

  config.checkpoint = ConfigDict()
  # A checkpoint is saved after every so many epochs.
  config.checkpoint.every_epochs = 1
  # One is saved after every so many steps, too; 0 for never.
  config.checkpoint.every_steps = 0

  config.report = report = ConfigDict()
  # Where losses and metrics are logged, beside metrics.jsonl, which is always
  # written: some of 'tensorboard', 'wandb', 'mlflow' (docs/tracking.md).
  report.trackers = ('tensorboard',)
  # Log losses every so many steps.
  report.every_steps = 10
  # Score the split that checkpoints are chosen on every so many epochs; 0 for
  # only at the end.
  report.eval_every_epochs = 1
  # Score eval_split after each of so many last epochs, and report the mean
  # beside the chosen checkpoints, as the literature does; 0 for not.
  report.average_epochs = 10
  # Images in predictions.png; with 0, results.html has none either.
  report.images = 4
