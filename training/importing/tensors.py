"""Models that take and give tensors by name: what the reader of a format finds, and the manifest of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from training.errors import invalid_field
from training.export.ladder import Exported
from training.importing import found
from training.importing.spec import SIGNATURE, NamedTensor, Spec, Wanted


@dataclass(frozen=True)
class FoundTensors:
    """A model that was read, whose tensors are served by their names.

    Attributes:
        inputs: What it takes. The first length counts the rows, if it has rows.
        outputs: What it gives.
        rows: Whether rows are answered each by itself, so that requests can share a batch.
        exported: What is served, with its proof.
    """

    inputs: tuple[NamedTensor, ...]
    outputs: tuple[NamedTensor, ...]
    rows: bool
    exported: Exported

    @property
    def signature(self) -> dict[str, object]:
        """The signature, as the manifest keeps it."""
        return {
            "shape": [],
            "columns": [],
            "missing_values": False,
            "classes": [],
            "label_kind": "",
            "inputs": [_described(tensor) for tensor in self.inputs],
            "outputs": [_described(tensor) for tensor in self.outputs],
            "rows": self.rows,
        }


def check_said(wanted: Wanted, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Checks that the caller says nothing that only a model of rows of features has.

    Args:
        inputs: The names of the model's inputs.
        outputs: The names of its outputs.

    Raises:
        FitError: INVALID_FIELD.
    """
    said = {
        "task": wanted.task is not None and wanted.labels is None,
        "shape": bool(wanted.shape) and not wanted.columns,
        "columns": bool(wanted.columns),
        "missing_values": wanted.missing_values,
        "classes": wanted.labels is not None,
    }
    field = next((field for field, given in said.items() if given), None)
    if field is not None:
        raise invalid_field(
            f"{SIGNATURE}.{field}",
            f"the model with {len(inputs)} inputs ({_joined(inputs)}) and {len(outputs)} outputs ({_joined(outputs)}) is "
            f"served by the names of these tensors, which have no {field}; leave it out, or export the model with one input "
            "[rows, ...] and one output of scores, both FP32 or FP64",
        )


def check_kept(inputs: Sequence[NamedTensor], outputs: Sequence[NamedTensor], kept: Wanted | None) -> None:
    """Checks that a new version takes and gives what the versions before do.

    Raises:
        FitError: INVALID_FIELD.
    """
    if kept is None:
        return
    for kind, new, old in (("inputs", inputs, kept.inputs), ("outputs", outputs, kept.outputs)):
        if sorted(new, key=_name) != sorted(old, key=_name):
            raise found.refused(
                f"its {kind} are {_listed(new)}, those of the model's versions {_listed(old)}; import it under another "
                "name, or remove the model first"
            )


def check_unnamed(order: Spec) -> None:
    """Checks that neither the caller nor the versions before name tensors of a model that takes rows of features.

    Raises:
        FitError: INVALID_FIELD.
    """
    if order.wanted.inputs or order.wanted.outputs:
        raise invalid_field(
            f"{SIGNATURE}.{'inputs' if order.wanted.inputs else 'outputs'}",
            "only files of ONNX have tensors by name; leave the list out",
        )
    if order.kept is not None and order.kept.inputs:
        raise found.refused(
            f"the model's versions take the tensors {_listed(order.kept.inputs)}, and this one rows of features; name its "
            f"outputs in {SIGNATURE}.outputs, import it under another name, or remove the model first"
        )


def _joined(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:10])


def _listed(tensors: Sequence[NamedTensor]) -> str:
    shown = ", ".join(f"{one.name[:80]} {one.dtype} {list(one.shape)}" for one in tensors[:10])
    return f"({shown}{', ...' if len(tensors) > 10 else ''})" if tensors else "no named tensors"


def _name(tensor: NamedTensor) -> str:
    return tensor.name


def _described(tensor: NamedTensor) -> dict[str, object]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
