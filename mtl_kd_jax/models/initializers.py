"""Initial values of kernels."""

import flax.linen as nn

# PyTorch's xavier_normal_, which the reference code uses. Flax's xavier_normal
# truncates the normal distribution.
xavier_normal = nn.initializers.variance_scaling(1.0, 'fan_avg', 'normal')

# As torchvision initializes its ResNets: 'fan_out' preserves the variance of
# gradients through ReLUs.
kaiming_normal = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
