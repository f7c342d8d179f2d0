"""Whitening filters for the first convolution of a network (Jordan 2024).

Their outputs are nearly uncorrelated on patches of the train images, which the layer would
otherwise have to learn: 94% on CIFAR-10 in 3.29 Seconds on a Single GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import make_generator

NUM_IMAGES = 1000  # whose patches give the covariance
BATCH = 50
STRIDE = 5  # pixels between patches; coprime to the grids of resized images
EPSILON = 5e-4  # added to the variances, so that noise is not amplified without limit


def whiten(network: nn.Module, train: Split, preprocessing: Preprocessing, seed: int) -> None:
    """Set the filters of the first convolution, and exclude them from training.

    The filters are the eigenvectors of the covariance of train patches, each divided by the
    standard deviation along it: those of the largest variances, and the same with the opposite
    sign, because a ReLU drops one of both. Filters beyond twice the number of eigenvectors keep
    their values.

    Args:
        network: network on the CPU, whose first convolution takes images.
        train: train split.
        preprocessing: preprocessing of the network.
        seed: seed of the choice of images.
    """
    convolution = first_convolution(network)
    size = convolution.kernel_size[0]
    variances, vectors = torch.linalg.eigh(_covariance(train, preprocessing, size, seed))
    filters = (vectors / (variances.clamp(min=0) + EPSILON).sqrt()).T.flip(0).float()
    count = min(len(filters), convolution.out_channels // 2)
    shaped = filters[:count].view(count, *convolution.weight.shape[1:])
    with torch.no_grad():
        convolution.weight[: 2 * count] = torch.cat([shaped, -shaped])
    convolution.weight.requires_grad_(False)


def first_convolution(network: nn.Module) -> nn.Conv2d:
    """Return the first convolution of a network."""
    return next(each for each in network.modules() if isinstance(each, nn.Conv2d))


def _covariance(train: Split, preprocessing: Preprocessing, size: int, seed: int) -> Tensor:
    """Return the second moments of normalised patches of `size` x `size` pixels, D,D float64."""
    generator = make_generator(seed, "whitening")
    chosen = torch.randperm(len(train), generator=generator)[:NUM_IMAGES]
    total, count = torch.zeros(()).double(), 0
    for indices in chosen.split(BATCH):
        images = train.images(indices.tolist())
        crops = torch.cat([preprocessing.crop(image[None]) for image in images])
        patches = functional.unfold(preprocessing.normalize(crops), size, stride=STRIDE)
        rows = patches.permute(0, 2, 1).flatten(0, 1).double()
        total, count = total + rows.T @ rows, count + len(rows)
    return total / count
