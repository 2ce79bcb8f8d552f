"""Multi-layer perceptrons in PyTorch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import ClassVar

from fitserve.v1 import algorithm_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from torch import nn

from training.algorithms.base import Problem
from training.algorithms.networks import Network, NetworkFamily, Schedule
from training.spec import Json, effective_parameters


class Family(NetworkFamily):
    """Fully connected layers over standardized features."""

    DEFAULTS: ClassVar[Mapping[str, Json]] = {
        "hidden_sizes": [64],
        "epochs": 50,
        "batch_size": 32,
        "learning_rate": 1e-3,
        "dropout": 0.0,
        "weight_decay": 0.0,
    }

    def __init__(self, hyper_parameters: Message, problem: Problem) -> None:
        """Builds the untrained network."""
        self.parameters = effective_parameters(hyper_parameters, self.DEFAULTS)
        chosen = json_format.ParseDict(self.parameters, algorithm_pb2.TorchMlp())

        widths = [math.prod(problem.feature_shape), *chosen.hidden_sizes, problem.score_count]

        def layers() -> list[nn.Module]:
            made: list[nn.Module] = [nn.Flatten()]
            for before, after in itertools.pairwise(widths[:-1]):
                made += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(chosen.dropout)]
            return [*made, nn.Linear(widths[-2], widths[-1])]

        weight_count = sum(before * after for before, after in itertools.pairwise(widths))
        network = Network(weight_count, layers, (0,), problem, "torch_mlp", "hidden_sizes")
        super().__init__(network, Schedule(chosen.epochs, chosen.batch_size, chosen.learning_rate, chosen.weight_decay))
