"""Convolutional networks in PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import ClassVar

from fitserve.v1 import algorithm_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from torch import nn

from training.algorithms.base import Problem
from training.algorithms.networks import Network, NetworkFamily, Schedule
from training.errors import invalid_field
from training.spec import Json, effective_parameters


class Family(NetworkFamily):
    """Blocks of convolution and pooling, then one hidden layer, over images scaled by channel."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "channels": [32, 64],
        "hidden_size": 128,
        "epochs": 10,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "weight_decay": 0.0,
    }

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained network."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        chosen = json_format.ParseDict(self.parameters, algorithm_pb2.TorchCnn())
        depth, height, width = _image_shape(problem, len(chosen.channels))

        blocks = list(itertools.pairwise([depth, *chosen.channels]))
        flat = chosen.channels[-1] * (height >> len(blocks)) * (width >> len(blocks))

        def layers() -> list[nn.Module]:
            made: list[nn.Module] = []
            for before, after in blocks:
                # Pooling before ReLU gives the same values with a quarter of the work.
                made += [nn.Conv2d(before, after, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
            made += [nn.Flatten(), nn.Linear(flat, chosen.hidden_size), nn.ReLU(), nn.Dropout(chosen.dropout)]
            return [*made, nn.Linear(chosen.hidden_size, max(problem.class_count, 1))]

        weight_count = sum(9 * before * after for before, after in blocks) + flat * chosen.hidden_size
        network = Network(weight_count, layers, (0, 2, 3), problem, "torch_cnn", "channels")
        super().__init__(network, Schedule(chosen.epochs, chosen.batch_size, chosen.learning_rate, chosen.weight_decay))


def _image_shape(problem: Problem, blocks: int) -> tuple[int, int, int]:
    """Returns channels, height and width of an image, which `blocks` must be able to halve."""
    if len(problem.feature_shape) != 3:
        raise invalid_field("torch_cnn", "torch_cnn needs images: features of shape [rows, channels, height, width]")
    depth, height, width = problem.feature_shape
    if min(height, width) >> blocks < 1:
        most = min(height, width).bit_length() - 1
        raise invalid_field(
            "torch_cnn.channels",
            f"images of {height} x {width} can be halved {most} times, not {blocks} times; give fewer channels",
        )
    return depth, height, width
