"""Networks in PyTorch: how they are trained, and how they become ONNX graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn
from torch.optim.adam import adam

from training.algorithms.base import Problem
from training.data import Floats, Rows
from training.errors import invalid_field
from training.export import graph
from training.progress import Progress

_PREDICT_ROWS = 1024
_MOST_WEIGHTS = 500_000_000


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        epochs: The passes over the rows.
        batch_size: The rows of a step.
        learning_rate: The step size of Adam.
        weight_decay: The weight decay of Adam.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


class _Adam:
    """Adam through torch's functional form.

    The class torch.optim.Adam imports torch's compiler, which takes seconds and 160 MB and is not used here.

    Args:
        weights: The weights to train.
        schedule: The step size and the weight decay.
    """

    def __init__(self, weights: list[nn.Parameter], schedule: Schedule) -> None:
        self._weights = weights
        self._schedule = schedule
        self._means = [torch.zeros_like(weight) for weight in weights]
        self._squares = [torch.zeros_like(weight) for weight in weights]
        self._steps = [torch.zeros(()) for _ in weights]

    @torch.no_grad()
    def step(self, loss: Tensor) -> None:
        """Moves the weights against the gradient of `loss`."""
        adam(
            list(self._weights),
            list(torch.autograd.grad(loss, self._weights)),
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self._schedule.learning_rate,
            weight_decay=self._schedule.weight_decay,
            eps=1e-8,
            maximize=False,
        )


class Scale(nn.Module):
    """Computes (x - mean) / deviation.

    Args:
        mean: The mean, in a shape that broadcasts over rows.
        deviation: The standard deviation, in the same shape.
    """

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, values: Tensor) -> Tensor:
        """Returns the scaled values."""
        return (values - self.get_buffer("mean")) / self.get_buffer("deviation")


def scale_of(features: Floats, axes: tuple[int, ...]) -> Scale:
    """Returns the scaling to mean 0 and deviation 1 over `axes`; what is constant is only shifted."""
    mean = features.mean(axis=axes, keepdims=True, dtype=np.float64)
    deviation = features.std(axis=axes, keepdims=True, dtype=np.float64)
    # The mean of equal numbers may be off by a rounding error, which must not become a feature.
    deviation[deviation <= np.abs(mean) * 1e-7] = 1.0
    return Scale(torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(deviation.astype(np.float32)))


class Network:
    """A network with the scaling of its features and targets.

    Args:
        weight_count: The number of weights of the layers, but for the biases.
        layers: Makes the layers, from scaled features to one logit a class or to one scaled value.
        scale_axes: The axes of the features over which they are scaled together.
        problem: What to learn.
        name: The name of the algorithm, for messages.
        size_field: The hyper-parameter that says how large the network is.

    Raises:
        FitError: INVALID_FIELD; the network would be larger than a model file can be.
    """

    def __init__(
        self,
        weight_count: int,
        layers: Callable[[], list[nn.Module]],
        scale_axes: tuple[int, ...],
        problem: Problem,
        name: str,
        size_field: str,
    ) -> None:
        if weight_count > _MOST_WEIGHTS:
            raise invalid_field(
                f"{name}.{size_field}",
                f"the network would have {weight_count} weights, and {_MOST_WEIGHTS} fit into a model; make it smaller",
            )
        torch.manual_seed(problem.seed)
        # Convolutions are faster with the channels last in memory; other layers are not touched.
        self._body = nn.Sequential(*layers()).to(memory_format=torch.channels_last)
        self._scale_axes = scale_axes
        self._problem = problem
        self._name = name
        self._target_mean, self._target_deviation = np.zeros(1), np.ones(1)

    def fit(self, train: Rows, validation: Rows, schedule: Schedule, progress: Progress) -> None:
        """Trains the network and reports the loss on both sets of rows after each epoch.

        Raises:
            FitError: INVALID_FIELD; the loss is no longer finite.
        """
        self._body.insert(0, scale_of(train.features, self._scale_axes))
        if not self._problem.class_count:
            values = train.targets.reshape(len(train), -1).astype(np.float64)
            self._target_mean, deviation = values.mean(axis=0), values.std(axis=0)
            self._target_deviation = np.where(deviation > 0, deviation, 1.0)
        features, targets = torch.from_numpy(train.features), self._targets(train)
        weights = _weights(train)
        kind = nn.CrossEntropyLoss if self._problem.class_count else nn.MSELoss
        loss_of, losses_of = kind(), kind(reduction="none")
        optimizer = _Adam(list(self._body.parameters()), schedule)
        validation_targets = self._targets(validation)
        for epoch in range(1, schedule.epochs + 1):
            loss = self._run_epoch(features, targets, weights, schedule.batch_size, losses_of, optimizer)
            validation_loss = float(loss_of(self._outputs(validation.features), validation_targets))
            if not math.isfinite(loss + validation_loss):
                raise invalid_field(
                    f"{self._name}.learning_rate",
                    f"the training diverged in epoch {epoch}; lower learning_rate, or scale the data",
                )
            progress.step(epoch, schedule.epochs, "epoch", {"loss": loss, "validation_loss": validation_loss})

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        outputs = self._outputs(features)
        if self._problem.class_count:
            return torch.softmax(outputs, 1).double().numpy()
        return outputs.double().numpy() * self._target_deviation + self._target_mean

    def export(self) -> onnx.ModelProto:
        """Returns the network as ONNX."""
        constants: dict[str, NDArray[np.generic]] = {}
        nodes = list(_onnx_nodes(self._body, constants))
        if self._problem.class_count:
            nodes.append(helper.make_node("Softmax", [nodes[-1].output[0]], [graph.SCORES], axis=1))
        else:
            constants["target_deviation"] = self._target_deviation
            constants["target_mean"] = self._target_mean
            nodes += [
                helper.make_node("Cast", [nodes[-1].output[0]], ["doubles"], to=onnx.TensorProto.DOUBLE),
                helper.make_node("Mul", ["doubles", "target_deviation"], ["spread"]),
                helper.make_node("Add", ["spread", "target_mean"], ["moved"]),
                helper.make_node("Cast", ["moved"], [graph.SCORES], to=onnx.TensorProto.FLOAT),
            ]
        return graph.model(nodes, constants, self._problem.feature_shape, self._problem.score_count)

    def _targets(self, rows: Rows) -> Tensor:
        if self._problem.class_count:
            return torch.from_numpy(rows.targets.astype(np.int64))
        scaled = (rows.targets.reshape(len(rows), -1) - self._target_mean) / self._target_deviation
        return torch.from_numpy(scaled.astype(np.float32))

    def _run_epoch(
        self,
        features: Tensor,
        targets: Tensor,
        weights: Tensor,
        batch_size: int,
        losses_of: Callable[[Tensor, Tensor], Tensor],
        optimizer: _Adam,
    ) -> float:
        """Trains on all rows once, in random order; returns the mean loss."""
        self._body.train()
        total = torch.zeros(())
        for rows in torch.split(torch.randperm(len(features)), batch_size):
            losses = losses_of(self._body(features[rows]), targets[rows])
            loss = (losses.reshape(len(rows), -1).mean(1) * weights[rows]).mean()
            optimizer.step(loss)
            total += loss.detach() * len(rows)
        return float(total) / len(features)

    def _outputs(self, features: Floats) -> Tensor:
        """Returns what the body computes for the features, some rows at a time."""
        self._body.eval()
        with torch.inference_mode():
            return torch.cat([self._body(rows) for rows in torch.split(torch.from_numpy(features), _PREDICT_ROWS)])


def _weights(rows: Rows) -> Tensor:
    """Returns what each row counts, one on average."""
    if rows.weights is None:
        return torch.ones(len(rows))
    return torch.from_numpy((rows.weights / rows.weights.mean()).astype(np.float32))


class NetworkFamily:
    """What the families of networks have in common: all but how the network is built.

    Args:
        network: The untrained network.
        schedule: How it is trained.
    """

    LIBRARIES: ClassVar[tuple[str, ...]] = ("torch",)

    def __init__(self, network: Network, schedule: Schedule) -> None:
        self._network = network
        self._schedule = schedule

    def fit(self, train: Rows, validation: Rows, progress: Progress) -> None:
        """Trains the network."""
        self._network.fit(train, validation, self._schedule, progress)

    def predict(self, features: Floats) -> NDArray[np.float64]:
        """Returns the class probabilities or the values."""
        return self._network.predict(features)

    def export(self) -> onnx.ModelProto:
        """Returns the network as ONNX."""
        return self._network.export()


def _onnx_nodes(body: nn.Sequential, constants: dict[str, NDArray[np.generic]]) -> Iterator[onnx.NodeProto]:
    """Yields the operations of the layers in order and puts their weights into `constants`.

    torch.onnx.export would take seconds, more than a small training.
    """
    value = graph.FEATURES
    for number, layer in enumerate(body):
        names = {}
        for kind, tensor in layer.state_dict().items():
            names[kind] = f"layer{number}.{kind}"
            constants[names[kind]] = tensor.numpy().copy()
        result = f"layer{number}"
        match layer:
            case Scale():
                yield helper.make_node("Sub", [value, names["mean"]], [f"{result}.centred"])
                yield helper.make_node("Div", [f"{result}.centred", names["deviation"]], [result])
            case nn.Flatten():
                yield helper.make_node("Flatten", [value], [result])
            case nn.Linear():
                yield helper.make_node("Gemm", [value, names["weight"], names["bias"]], [result], transB=1)
            case nn.ReLU():
                yield helper.make_node("Relu", [value], [result])
            case nn.Conv2d():
                yield helper.make_node(
                    "Conv",
                    [value, names["weight"], names["bias"]],
                    [result],
                    kernel_shape=[3, 3],
                    pads=[1, 1, 1, 1],
                )
            case nn.MaxPool2d():
                yield helper.make_node("MaxPool", [value], [result], kernel_shape=[2, 2], strides=[2, 2])
            case nn.Dropout():
                continue
            case _:
                raise TypeError(f"no ONNX operation is known for the layer {type(layer).__name__}")
        value = result
