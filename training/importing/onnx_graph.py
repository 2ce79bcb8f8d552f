"""Looks into the graphs of ONNX models, and renames what is in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from training.data import Label
from training.importing import found
from training.importing.labels import Labels, labels_of

_CLASS_ATTRIBUTES = ("classlabels_int64s", "classlabels_ints", "classlabels_strings")
_PASSING = ("Cast", "Identity", "Reshape", "Squeeze", "Flatten")
_COMPARED_TEXTS = ("cats_strings", "keys_strings", "classes_strings")
_COMPARED_INTEGERS = ("cats_int64s", "keys_int64s")
_REALS = (TensorProto.FLOAT, TensorProto.DOUBLE)
_ZIP_MAP = "ZipMap"


@dataclass(frozen=True)
class Scores:
    """The tensor that becomes `scores`.

    Attributes:
        name: Its name.
        type: FLOAT or DOUBLE.
        labels: The labels that the file says, or None.
        labelled: Whether the file gives labels beside the scores, so that these are of classes.
    """

    name: str
    type: int
    labels: Labels | None
    labelled: bool


def scores_of(model: ModelProto) -> Scores:
    """Returns the scores of a model whose values have their types: the one output of real numbers, or what ZipMap makes
    dictionaries of.

    Raises:
        FitError: INVALID_FIELD; it has none, or several.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    reals: list[tuple[str, int]] = []
    labels: list[str] = []
    for output in model.graph.output:
        maker = makers.get(output.name)
        if maker is not None and maker.op_type == _ZIP_MAP:
            reals.append((maker.input[0], TensorProto.FLOAT))
            labels.append(output.name)
        elif types[output.name] in _REALS:
            reals.append((output.name, types[output.name]))
        else:
            labels.append(output.name)
    if len(reals) != 1:
        names = ", ".join(output.name[:80] for output in model.graph.output[:10])
        raise found.refused(
            f"{len(reals)} of its outputs ({names}) are tensors of FP32 or FP64, and one is served; export it with the "
            "probabilities or the value alone, as a tensor (zipmap=False)"
        )
    name, kind = reals[0]
    classes = next((classes for label in labels if (classes := _classes(label, makers, model.graph))), None)
    return Scores(name, kind, labels_of(classes, found.CONTENT) if classes else None, bool(labels))


def _classes(label: str, makers: Mapping[str, NodeProto], graph: GraphProto) -> list[Label] | None:
    """Returns the labels of classes among which an output of labels chooses, or None if that cannot be seen."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for _ in range(len(graph.node)):
        node = makers.get(label)
        if node is None:
            return None
        for attribute in node.attribute:
            if attribute.name in _CLASS_ATTRIBUTES and (attribute.strings or attribute.ints):
                return [value.decode() for value in attribute.strings] or list(attribute.ints)
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in constants:
            array = numpy_helper.to_array(constants[node.input[0]]).ravel().tolist()
            return [value.decode() if isinstance(value, bytes) else value for value in array]
        if node.op_type not in _PASSING:
            return None
        label = node.input[0]
    return None


def is_real(value: ValueInfoProto) -> bool:
    """Whether a value is a tensor of FP32 or FP64."""
    return value.type.tensor_type.elem_type in _REALS


def outputs_of(model: ModelProto) -> list[ValueInfoProto]:
    """Returns the outputs of a model, as tensors those that ZipMap makes dictionaries of."""
    zipped = {name for node in model.graph.node if node.op_type == _ZIP_MAP for name in node.output}
    return [
        helper.make_tensor_value_info(output.name, TensorProto.FLOAT, None) if output.name in zipped else output
        for output in model.graph.output
    ]


def replace_zip_maps(model: ModelProto) -> None:
    """Gives the tensors in the place of the dictionaries that ZipMap makes of them."""
    outputs = outputs_of(model)
    for node in model.graph.node:
        if node.op_type == _ZIP_MAP:
            node.CopyFrom(helper.make_node("Identity", node.input, node.output))
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    need_operators(model)


def need_operators(model: ModelProto) -> None:
    """Lets a model have the operators of ONNX itself, if it has others only."""
    if not any(opset.domain in ("", "ai.onnx") for opset in model.opset_import):
        model.opset_import.add(domain="", version=17)


def compared_values(graph: GraphProto, name: str, texts: bool) -> list[str | int]:
    """Returns the texts, or integers, with which an input is compared first on its way through a graph."""
    wanted = _COMPARED_TEXTS if texts else _COMPARED_INTEGERS
    reached = {name}
    for node in graph.node:  # they stand in the order in which they are computed
        if reached.isdisjoint(node.input):
            continue
        for attribute in node.attribute:
            if attribute.name in wanted and (attribute.strings or attribute.ints):
                return [value.decode() for value in attribute.strings] or list(attribute.ints)
        reached.update(node.output)
    return []


def drop_default_inputs(graph: GraphProto) -> None:
    """Takes those inputs away that have a value in the file: the caller never gives one."""
    constants = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Yields every tensor in the file, wherever it stands."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _nodes(model: ModelProto) -> Iterator[NodeProto]:
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Yields the graph and all that are inside of nodes."""
    waiting = [model.graph, *(one for function in model.functions for node in function.node for one in _inside(node))]
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += [one for node in graph.node for one in _inside(node)]


def _inside(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def set_aside(graph: GraphProto, names: Collection[str]) -> dict[str, str]:
    """Renames the values that have some names, so that these are free; returns the new names by the old ones."""
    new = {name: f"{name}.imported" for name in names}
    waiting = [graph]
    while waiting:
        one = waiting.pop()
        for value in (*one.input, *one.output, *one.value_info):
            value.name = new.get(value.name, value.name)
        for tensor in (*one.initializer, *(sparse.values for sparse in one.sparse_initializer)):
            tensor.name = new.get(tensor.name, tensor.name)
        for node in one.node:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]
            waiting += _inside(node)
    return new
