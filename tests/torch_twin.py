"""The reference's networks and its training step, in PyTorch.

Written from `torch.nn.functional` calls and a state dict in the reference's
names, to compare this project with. A network is a function of the state dict
`w`, an image [b 3 h w] and whether it is in training mode, in which the running
statistics in `w` are updated in place. It returns (predictions, features):
task -> tensor, and task -> tap -> tensor.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

TASKS = ('semantic', 'depth', 'normals')
LAMBDAS = {'semantic': 1.0, 'depth': 1.0, 'normals': 2.0}
EPSILON = 1e-6  # of the alignment


# ---- Layers ------------------------------------------------------------------


def conv(w, name, x, **options):
  return F.conv2d(x, w[f'{name}.weight'], w.get(f'{name}.bias'), **options)


def norm(w, name, x, train):
  return F.batch_norm(
    x,
    w[f'{name}.running_mean'],
    w[f'{name}.running_var'],
    w[f'{name}.weight'],
    w[f'{name}.bias'],
    training=train,
    momentum=0.1,
    eps=1e-5,
  )


def conv_layer(w, name, x, train):
  """3x3 convolution, BatchNorm, ReLU; twice in the 'deep' form."""
  for place in (0, 3):
    if f'{name}.{place}.weight' in w:
      x = conv(w, f'{name}.{place}', x, padding=1)
      x = F.relu(norm(w, f'{name}.{place + 1}', x, train))
  return x


def conv_layers(w, name, level, x, train):
  """The rest of a SegNet level: one layer, or two on the three coarser."""
  if level < 2:
    return conv_layer(w, f'{name}.{level}', x, train)
  for i in range(2):
    x = conv_layer(w, f'{name}.{level}.{i}', x, train)
  return x


def head(w, name, x):
  return conv(w, f'{name}.1', conv(w, f'{name}.0', x, padding=1))


def predictions(w, features):
  """The predictions of all heads that there are weights for."""
  found = {}
  for i, task in enumerate(TASKS, start=1):
    for name in (f'pred_task{i}', 'pred_task'):
      if task in features and f'{name}.0.weight' in w:
        found[task] = head(w, name, features[task]['decoder'])
  return found


# ---- Networks ----------------------------------------------------------------


def trunk(w, x, train):
  """SegNet's maps by level: first, last, pooled; unpooled, decoded."""
  first, last, places = [], [], []
  for level in range(5):
    first.append(conv_layer(w, f'encoder_block.{level}', x, train))
    last.append(conv_layers(w, 'conv_block_enc', level, first[-1], train))
    x, place = F.max_pool2d(last[-1], 2, 2, return_indices=True)
    places.append(place)
  pooled = x
  unpooled, decoded = {}, {}
  for level in reversed(range(5)):
    unpooled[level] = F.max_unpool2d(x, places[level], 2, 2)
    x = conv_layer(w, f'decoder_block.{level}', unpooled[level], train)
    x = decoded[level] = conv_layers(w, 'conv_block_dec', level, x, train)
  return first, last, pooled, unpooled, decoded


def segnet(w, image, train, tasks=TASKS, *, heads=True):
  _, _, pooled, _, decoded = trunk(w, image, train)
  taps = {'bottleneck': pooled, 'decoder': decoded[0]}
  features = dict.fromkeys(tasks, taps)
  return predictions(w, features) if heads else {}, features


def mtan(w, image, train, tasks=TASKS, *, heads=True):
  """Where there is a 'pred_task', its one task is not numbered."""
  first, last, _, unpooled, decoded = trunk(w, image, train)
  single = 'pred_task.0.weight' in w
  features = {}
  for task in tasks:
    i = 0 if single else TASKS.index(task)
    x = None
    for level in range(5):
      seen = first[level] if x is None else torch.cat([first[level], x], 1)
      mask = attention(w, f'encoder_att.{i}.{level}', seen, train)
      x = mask * last[level]
      x = conv_layer(w, f'encoder_block_att.{level}', x, train)
      x = F.max_pool2d(x, 2, 2)
    bottleneck = x
    for level in reversed(range(5)):
      x = F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=True)
      x = conv_layer(w, f'decoder_block_att.{level}', x, train)
      seen = torch.cat([unpooled[level], x], 1)
      mask = attention(w, f'decoder_att.{i}.{level}', seen, train)
      x = mask * decoded[level]
    features[task] = {'bottleneck': bottleneck, 'decoder': x}
  return predictions(w, features) if heads else {}, features


def attention(w, name, x, train):
  x = F.relu(norm(w, f'{name}.1', conv(w, f'{name}.0', x), train))
  return torch.sigmoid(norm(w, f'{name}.4', conv(w, f'{name}.3', x), train))


RESNETS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


def resnet(w, image, train, *, layers, output_stride):
  """The features layer1..layer4, [b c h w]."""
  mean = image.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
  deviation = image.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
  x = conv(w, 'conv1', (image - mean) / deviation, stride=2, padding=3)
  x = F.max_pool2d(F.relu(norm(w, 'bn1', x, train)), 3, 2, padding=1)
  features = {}
  dilation = 1
  for layer, blocks in enumerate(RESNETS[layers], start=1):
    stride = 1 if layer == 1 else 2
    before = dilation
    if 2 ** (layer + 1) > output_stride:
      dilation, stride = 2 * dilation, 1
    for i in range(blocks):
      x = residual(
        w,
        f'layer{layer}.{i}',
        x,
        train,
        stride=stride if i == 0 else 1,
        dilation=before if i == 0 else dilation,
      )
    features[f'layer{layer}'] = x
  return features


def deeplab(w, features, size, train, *, rates):
  """The prediction of a DeepLab head, V3+ where `w` has 'low_level', [b c h w].

  Its features are 'layer4' and, of V3+, 'layer1'; `rates` are the dilations of
  the pyramid. The names in `w` are this project's.
  """

  def block(name, x, **options):
    x = conv(w, f'{name}.conv', x, **options)
    return F.relu(norm(w, f'{name}.norm', x, train))

  def resize(x, size):
    return F.interpolate(x, size=size, mode='bilinear', align_corners=False)

  x = features['layer4']
  branches = [block('aspp_0', x)]
  for i, rate in enumerate(rates, start=1):
    branches.append(block(f'aspp_{i}', x, padding=rate, dilation=rate))
  pooled = block('aspp_pooled', F.adaptive_avg_pool2d(x, 1))
  branches.append(pooled.expand_as(branches[0]))
  x = block('aspp_joined', torch.cat(branches, 1))
  if 'low_level.conv.weight' in w:
    fine = features['layer1']
    low = block('low_level', fine)
    x = torch.cat([resize(x, fine.shape[-2:]), low], 1)
    x = block('conv_1', block('conv_0', x, padding=1), padding=1)
  else:
    x = block('conv', x, padding=1)
  return resize(conv(w, 'out', x), size)


def residual(w, name, x, train, *, stride, dilation):
  wide = {'padding': dilation, 'dilation': dilation}
  if f'{name}.conv3.weight' in w:
    y = conv(w, f'{name}.conv1', x)
    y = F.relu(norm(w, f'{name}.bn1', y, train))
    y = conv(w, f'{name}.conv2', y, stride=stride, **wide)
    y = F.relu(norm(w, f'{name}.bn2', y, train))
    y = norm(w, f'{name}.bn3', conv(w, f'{name}.conv3', y), train)
  else:
    y = conv(w, f'{name}.conv1', x, stride=stride, **wide)
    y = F.relu(norm(w, f'{name}.bn1', y, train))
    y = norm(w, f'{name}.bn2', conv(w, f'{name}.conv2', y, **wide), train)
  if f'{name}.downsample.0.weight' in w:
    x = conv(w, f'{name}.downsample.0', x, stride=stride)
    x = norm(w, f'{name}.downsample.1', x, train)
  return F.relu(y + x)


# ---- Losses and the step -----------------------------------------------------


def task_losses(predicted, labels):
  """Means over the labelled pixels; 0 where there are none."""
  losses = {}
  if 'semantic' in predicted:
    label = labels['semantic']
    total = F.cross_entropy(
      predicted['semantic'], label, ignore_index=-1, reduction='sum'
    )
    losses['semantic'] = total / (label >= 0).sum().clamp(min=1)
  if 'depth' in predicted:
    label = labels['depth']
    mask = label > 0
    total = ((predicted['depth'] - label).abs() * mask).sum()
    losses['depth'] = total / mask.sum().clamp(min=1)
  if 'normals' in predicted:
    label = labels['normals']
    mask = (label != 0).any(1)
    x = predicted['normals']
    direction = x * (x.pow(2).sum(1, keepdim=True) + 1e-12).rsqrt()
    cosine = (direction * label).sum(1)
    losses['normals'] = ((1 - cosine) * mask).sum() / mask.sum().clamp(min=1)
  return losses


def unit(x):
  return x / (x.pow(2).sum(1, keepdim=True) + EPSILON).sqrt()


def alignment(adaptors, student, teacher):
  """Summed over the taps of one task."""
  return sum(
    (unit(F.conv2d(student[tap], kernel)) - unit(teacher[tap]))
    .pow(2)
    .sum(1)
    .mean()
    for tap, kernel in adaptors.items()
  )


class DistilledStep:
  """A student, its adaptors and their two optimisers, and frozen teachers."""

  def __init__(
    self,
    network,
    student: Mapping[str, torch.Tensor],
    teachers: Mapping[str, Mapping[str, torch.Tensor]],
    adaptors: Mapping[str, Mapping[str, torch.Tensor]],
    *,
    learning_rate: float,
    adaptor_learning_rate: float,
    weight_decay: float = 5e-4,
    batch_norm: str = 'running',
    step_size: int | None = None,
  ):
    """Takes over the tensors, which are trained in place.

    Args:
      network: `segnet` or `mtan`.
      student: its state dict.
      teachers: task -> state dict.
      adaptors: task -> tap -> kernel [o i 1 1].
      learning_rate: of the student's Adam.
      adaptor_learning_rate: of the adaptors' Adam.
      weight_decay: of the adaptors' Adam.
      batch_norm: 'running' or 'batch', as teachers are asked.
      step_size: of StepLR, in epochs, at the ends of which `epoch` is called.
    """
    self.network, self.student, self.teachers = network, student, teachers
    self.adaptors, self.batch_norm = adaptors, batch_norm
    self.trained = {
      name: x.requires_grad_()
      for name, x in student.items()
      if name.endswith(('.weight', '.bias'))
    }
    kernels = [
      x.requires_grad_() for a in adaptors.values() for x in a.values()
    ]
    self.optimizer = torch.optim.Adam(self.trained.values(), learning_rate)
    self.adaptor_optimizer = torch.optim.Adam(
      kernels, adaptor_learning_rate, weight_decay=weight_decay
    )
    self.schedule = torch.optim.lr_scheduler.StepLR(
      self.optimizer, step_size or 10**9, 0.5
    )

  def losses(self, batch) -> dict[str, torch.Tensor]:
    """'loss', 'loss/<task>' and 'alignment/<task>' of a batch, as ours."""
    tasks = tuple(self.teachers)
    predicted, features = self.network(
      self.student, batch['image'], True, tasks
    )
    asked = {task: self.ask(task, batch['image']) for task in self.teachers}
    losses = task_losses(predicted, batch)
    aligned = {
      task: alignment(self.adaptors[task], features[task], asked[task])
      for task in asked
    }
    total = sum(losses.values())
    total = total + sum(LAMBDAS[t] * x for t, x in aligned.items())
    named = {f'loss/{t}': x for t, x in losses.items()}
    named |= {f'alignment/{t}': x for t, x in aligned.items()}
    return named | {'loss': total}

  @torch.no_grad()
  def ask(self, task, image):
    weights = self.teachers[task]
    train = self.batch_norm == 'batch'
    if train:  # whose moving statistics nobody reads
      weights = {
        name: x.clone() if 'running' in name else x
        for name, x in weights.items()
      }
    _, features = self.network(weights, image, train, (task,), heads=False)
    return features[task]

  def step(self, batch) -> dict[str, torch.Tensor]:
    """Takes one step; returns the losses before it."""
    losses = self.losses(batch)
    self.optimizer.zero_grad()
    self.adaptor_optimizer.zero_grad()
    losses['loss'].backward()
    self.optimizer.step()
    self.adaptor_optimizer.step()
    return losses

  def epoch(self):
    """Ends an epoch."""
    self.schedule.step()


# ---- Random weights ----------------------------------------------------------


def random_weights(shapes, seed, dtype=torch.float32):
  """A state dict whose every number is its own, activations of order 1.

  Args:
    shapes: name -> shape.
    seed: of the numbers.
    dtype: of the floating-point tensors. They are drawn in float64, so that
      those of another dtype are the same.
  """
  generator = torch.Generator().manual_seed(seed)
  weights = {}
  for name, shape in shapes.items():
    if name.endswith('num_batches_tracked'):
      weights[name] = torch.tensor(0)
      continue
    x = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
    layer, _, leaf = name.rpartition('.')
    if len(shape) == 4:
      x *= (shape[1] * shape[2] * shape[3]) ** -0.5
    elif leaf in ('weight', 'running_var'):
      x = torch.exp(0.2 * x)
    else:
      x *= 0.1
      if leaf == 'bias' and f'{layer}.running_mean' in shapes:
        x += 0.3  # or else all ReLUs of a narrow network may be dead
    weights[name] = x.to(dtype)
  return weights
