"""Initial values of kernels."""

import flax.linen as nn

# Xavier's variance with an untruncated normal, as PyTorch's xavier_normal_ and
# so the reference; flax's own xavier_normal cuts the tails off.
xavier_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')

# What a ReLU halves on the way back, as torchvision initializes its ResNets.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
