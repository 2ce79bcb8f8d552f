"""The message `Inputs`, in any of its forms, to the named tensors that a model takes."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from fitserve.v1 import data_pb2
from google.protobuf import json_format, struct_pb2

from service.domain.entities import Signature
from service.domain.errors import invalid
from service.domain.named_tensors import MAX_TEXTS, Tensor, TensorBatch, TensorSpec, TensorType
from service.domain.nearest import hint
from service.rpc.replies import HAND_TYPED
from service.rpc.tensors import DTYPES, NO_VALUE, bytes_tensor_data, form_of_column, missing_rows

DATA_TYPES: dict[int, TensorType] = {data_pb2.DataType.Value(f"DATA_TYPE_{dtype}"): dtype for dtype in TensorType}
"""The types of tensors by their numbers in the contract."""

NUMPY_TYPES = {DATA_TYPES[number]: dtype for number, dtype in DTYPES.items()}
"""The numeric types as numpy has them."""

MAX_VALUES = 2**21
"""The most values of records, rows and tables, each of which becomes an object of Python."""

MAX_EMPTY = 2**31
"""The lengths of a tensor without data may be so many elements together, but for those that are 0; numpy and Triton count
them, in integers that overflow."""

SHOWN = 100
"""So many names, or characters of one, are shown in a message."""


def batches_for(inputs: data_pb2.Inputs, form: str, signature: Signature, path: str = "inputs") -> list[TensorBatch]:
    """Returns a request as the named tensors of a signature: one batch, or one a record if the model has no rows.

    Args:
        form: What `form_of` says of the inputs.

    Raises:
        ServiceError: INVALID_FIELD naming the part that does not fit.
    """
    path = f"{path}.{form}"
    if form == "tensors":
        return [_batch_of_tensors(inputs.tensors.items(), signature, path)]
    if form in HAND_TYPED:
        check_count(len(getattr(inputs, form)) * len(signature.inputs), MAX_VALUES, path)
    if form == "records":
        return _batches_of_records([dict(record.fields) for record in inputs.records], signature, path)
    if form == "table":
        return _batches_of_records(_records_of_table(inputs.table, path), signature, path)
    if len(signature.inputs) != 1:
        raise invalid(path, f"the model has {len(signature.inputs)} inputs; send tensors or records{_names(signature)}")
    spec = signature.inputs[0]
    if form == "tensor":
        return [batch_of([_tensor(inputs.tensor, spec, signature, path)], signature, path)]
    one_value = math.prod(spec.shape[1:] if signature.max_batch_size else spec.shape) == 1
    rows = [
        row.values[0] if one_value and len(row.values) == 1 else struct_pb2.Value(list_value=row) for row in inputs.rows
    ]
    return _batches_of_records([{spec.name: row} for row in rows], signature, path)


def check_inputs(given: Iterable[str], signature: Signature, path: str) -> None:
    """Checks that the names are those of a signature's inputs, of which optional ones may be missing.

    Raises:
        ServiceError: INVALID_FIELD naming the input that is not known, with the nearest known name, or is missing.
    """
    have, known = set(given), signature.inputs_by_name
    for name in sorted(have - known.keys()):
        left = [one for one in known if one not in have]
        raise invalid(path, f"input {name[:SHOWN]!r} is not known{hint(name, left or known)}{_names(signature)}")
    for spec in signature.inputs:
        if spec.name not in have and not spec.optional:
            raise invalid(path, f"input {spec.name!r} is missing{_names(signature)}")


def check_shape(shape: tuple[int, ...], spec: TensorSpec, path: str) -> None:
    """Checks that a tensor has the shape of a specification. Raises ServiceError INVALID_FIELD."""
    fits = len(shape) == len(spec.shape) and all(
        given >= 0 and wanted in (-1, given) for given, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        wanted = list(spec.shape)
        raise invalid(
            path, f"the shape is {list(shape)[:SHOWN]} and input {spec.name!r} takes {wanted}; -1 is any length"
        )
    if 0 in shape and math.prod(filter(None, shape)) > MAX_EMPTY:
        raise invalid(path, f"the lengths {list(shape)[:SHOWN]} are too large for a tensor without data")


def check_data(tensor: Tensor, path: str) -> None:
    """Checks that the bytes of a tensor are the elements of its shape. Raises ServiceError INVALID_FIELD."""
    try:
        tensor.check()
    except ValueError as error:
        how = "; each text has its length before it, 4 bytes in little-endian order"
        raise invalid(path, f"{error}{how if tensor.dtype is TensorType.BYTES else ''}") from error


def check_count(values: int, limit: int, path: str) -> None:
    """Refuses more values than are worth to be read one by one. Raises ServiceError INVALID_FIELD."""
    if values > limit:
        raise invalid(path, f"{values} values are too many for one request; send {limit} at the most")


def batch_of(tensors: Sequence[Tensor], signature: Signature, path: str) -> TensorBatch:
    """Returns tensors, which fit their specifications, as a batch in the order of the signature.

    Raises:
        ServiceError: INVALID_FIELD; they have different numbers of rows, none, or more than a batch takes without data.
    """
    by_name = {tensor.name: tensor for tensor in tensors}
    ordered = tuple(by_name[spec.name] for spec in signature.inputs if spec.name in by_name)
    if not ordered:
        raise invalid(path, f"there is no input{_names(signature)}")
    if not signature.max_batch_size:
        return TensorBatch(1, ordered)
    rows = ordered[0].shape[0]
    for tensor in ordered:
        if tensor.shape[0] != rows:
            raise invalid(
                path, f"input {tensor.name!r} has {tensor.shape[0]} rows and input {ordered[0].name!r} has {rows}"
            )
    if not rows:
        raise invalid(path, "there are no rows; send at least one")
    batch = TensorBatch(rows, ordered)
    if rows > max(signature.max_batch_size, batch.nbytes):  # they cost the caller nothing, and us a batch for each few
        raise invalid(path, f"there are {rows} rows without data; send at most {signature.max_batch_size} of them")
    return batch


def _names(signature: Signature) -> str:
    names = [f"{spec.name} (optional)" if spec.optional else spec.name for spec in signature.inputs]
    return "; the inputs are " + ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


# -- tensors ---------------------------------------------------------------------------------------------------------


def _batch_of_tensors(tensors: Iterable[tuple[str, data_pb2.Tensor]], signature: Signature, path: str) -> TensorBatch:
    given = dict(tensors)
    check_inputs(given, signature, path)
    specs = signature.inputs_by_name
    read = [_tensor(tensor, specs[name], signature, f"{path}[{name!r}]") for name, tensor in given.items()]
    return batch_of(read, signature, path)


def _tensor(tensor: data_pb2.Tensor, spec: TensorSpec, signature: Signature, path: str) -> Tensor:
    """Returns a tensor of a message. Where a row is one value, [rows] is taken for [rows, 1]."""
    dtype = DATA_TYPES.get(tensor.dtype)
    if dtype is not spec.dtype:
        given = f"DATA_TYPE_{dtype}" if dtype is not None else "DATA_TYPE_UNSPECIFIED, or not known,"
        raise invalid(f"{path}.dtype", f"it is {given} and input {spec.name!r} takes DATA_TYPE_{spec.dtype}")
    shape = tuple(tensor.shape)
    if len(shape) == 1 and signature.max_batch_size and spec.shape[1:] == (1,):
        shape = (*shape, 1)
    check_shape(shape, spec, f"{path}.shape")
    read = Tensor(spec.name, dtype, shape, tensor.data)
    check_data(read, f"{path}.data")
    return read


# -- records ---------------------------------------------------------------------------------------------------------


Record = dict[str, struct_pb2.Value]

_NULL = struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)

_VALUE_FIELDS = {
    "doubles": "number_value",
    "integers": "number_value",
    "booleans": "bool_value",
    "strings": "string_value",
}
"""The kind of google.protobuf.Value that holds the values of each kind of column."""


def _records_of_table(table: data_pb2.Table, path: str) -> list[Record]:
    """Returns the rows of typed columns as records."""
    records: list[Record] = []
    for index, column in enumerate(table.columns):
        place = f"{path}.columns[{index}]"
        form = form_of_column(column, place)
        values = getattr(column, form).values
        if not records:
            check_count(len(values) * len(table.columns), MAX_VALUES, path)
            records = [{} for _ in values]
        if len(values) != len(records) or column.name in records[0]:
            raise invalid(place, f"column {column.name[:SHOWN]!r} is there twice, or has another length than the first")
        field = _VALUE_FIELDS[form]
        missing = set(missing_rows(column, len(values), place).tolist())
        for row, (record, value) in enumerate(zip(records, values, strict=True)):
            record[column.name] = _NULL if row in missing else struct_pb2.Value(**{field: value})
    if not records:
        raise invalid(path, "there are no rows; send at least one")
    return records


def _batches_of_records(records: Sequence[Record], signature: Signature, path: str) -> list[TensorBatch]:
    for index, record in enumerate(records):
        if record.keys() != signature.inputs_by_name.keys():
            check_inputs(record, signature, f"{path}[{index}]")
    if signature.max_batch_size:
        return [_batch_of_records(records, signature, path, 0)]
    return [_batch_of_records([record], signature, path, index) for index, record in enumerate(records)]


def _batch_of_records(records: Sequence[Record], signature: Signature, path: str, first: int) -> TensorBatch:
    """Returns records as a batch; the first of them is the one of this index in the request."""
    tensors = []
    for spec in signature.inputs:
        values = [record.get(spec.name, _NULL) for record in records]
        if spec.optional and all(value.WhichOneof("kind") in NO_VALUE for value in values):
            continue
        if (plain := _plain_tensor(values, spec, signature)) is not None:
            tensors.append(plain)
            continue
        shape = spec.shape[1:] if signature.max_batch_size else spec.shape
        reader = _ValueReader(spec, shape)
        for index, value in enumerate(values, first):
            reader.read(value, f"{path}[{index}].{spec.name}")
        check_count(reader.texts, MAX_TEXTS, path)
        tensors.append(reader.tensor(len(records) if signature.max_batch_size else None))
    return batch_of(tensors, signature, path)


def _plain_tensor(values: Sequence[struct_pb2.Value], spec: TensorSpec, signature: Signature) -> Tensor | None:
    """Returns a tensor of one value a row, as most are, in a tenth of the time; None if a value needs a closer look."""
    if not signature.max_batch_size or spec.shape[1:] != (1,):
        return None
    shape = (len(values), 1)
    if spec.dtype is TensorType.BYTES:
        texts = [value.string_value or _json_of_numbers(value.list_value) for value in values]
        if not all(texts):
            return None
        return Tensor(spec.name, spec.dtype, shape, bytes_tensor_data([text.encode() for text in texts]))
    if spec.dtype is not TensorType.FP64:
        return None
    numbers = [value.number_value for value in values]
    if not all(number or value.HasField("number_value") for number, value in zip(numbers, values, strict=True)):
        return None
    return Tensor(spec.name, spec.dtype, shape, array("d", numbers).tobytes())


def _json_of_numbers(values: struct_pb2.ListValue) -> str:
    """Returns a list of numbers, none of which is 0, as JSON; for all else nothing."""
    numbers = [value.number_value for value in values.values]
    return str(numbers) if numbers and all(numbers) and all(map(math.isfinite, numbers)) else ""


class _ValueReader:
    """Gathers the values of one input, each of one row, and makes a tensor of them.

    A text that stands for a whole row may come as a list or an object: it is written as JSON, so that a model can take
    lists of any length.

    Args:
        spec: The input.
        shape: The shape of one value.
    """

    def __init__(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        self._spec = spec
        self._shape = shape
        self._alone = all(length in (1, -1) for length in shape)
        self._json = spec.dtype is TensorType.BYTES and math.prod(shape) == 1
        self._first: tuple[int, ...] | None = None
        self._seen = 0
        self._texts: list[bytes] = []
        self._numbers: list[float] = []

    @property
    def texts(self) -> int:
        """How many texts were read."""
        return len(self._texts)

    def read(self, value: struct_pb2.Value, path: str) -> None:
        """Adds the value of a row. Raises ServiceError INVALID_FIELD."""
        kind = value.WhichOneof("kind")
        if self._json and kind in ("list_value", "struct_value"):
            self._texts.append(_json_of(value, path).encode())
            shape = self._shape
        elif kind == "list_value":
            shape = self._read_list(value.list_value, path)
        else:
            self._read_one(value, kind, path)
            shape = (1,) * len(self._shape) if self._alone else ()
        self._check(shape, path)

    def _check(self, shape: tuple[int, ...], path: str) -> None:
        fits = len(shape) == len(self._shape) and all(
            wanted in (-1, given) for given, wanted in zip(shape, self._shape, strict=True)
        )
        if not fits:
            raise invalid(path, f"it has the shape {list(shape)} and takes {list(self._shape)}; -1 is any length")
        if self._first is None:
            self._first = shape
        elif shape != self._first:
            raise invalid(path, f"it has the shape {list(shape)} and the first row has {list(self._first)}")

    def _read_list(self, values: struct_pb2.ListValue, path: str) -> tuple[int, ...]:
        self._seen += len(values.values)
        check_count(self._seen, MAX_VALUES, path)
        if self._read_plain(values):
            return (len(values.values),)
        inner: tuple[int, ...] | None = None
        for index, value in enumerate(values.values):
            kind, place = value.WhichOneof("kind"), f"{path}[{index}]"
            if kind == "list_value":
                shape = self._read_list(value.list_value, place)
            else:
                self._read_one(value, kind, place)
                shape = ()
            if inner is not None and shape != inner:
                raise invalid(place, f"it has the shape {list(shape)}, its neighbours have {list(inner)}")
            inner = shape
        return (len(values.values), *(inner or ()))

    def _read_plain(self, values: struct_pb2.ListValue) -> bool:
        """Adds the values of a list that are all of the kind that most are, in a fifth of the time; says if they were."""
        kinds = {value.WhichOneof("kind") for value in values.values}
        if kinds == {"number_value"} and self._spec.dtype.startswith("FP"):
            self._numbers += [value.number_value for value in values.values]
            return True
        if kinds == {"string_value"} and self._spec.dtype is TensorType.BYTES:
            self._texts += [value.string_value.encode() for value in values.values]
            return True
        return False

    def _read_one(self, value: struct_pb2.Value, kind: str | None, path: str) -> None:
        dtype = self._spec.dtype
        if dtype is TensorType.BYTES:
            if kind != "string_value":
                raise invalid(path, f"input {self._spec.name!r} takes texts")
            self._texts.append(value.string_value.encode())
        elif kind in NO_VALUE and self._spec.optional and dtype.startswith("FP"):
            self._numbers.append(math.nan)
        elif kind == "number_value" and dtype is not TensorType.BOOL:
            self._numbers.append(self._checked(value.number_value, path))
        elif kind == "bool_value":
            self._numbers.append(value.bool_value)
        else:
            what = "true or false" if dtype is TensorType.BOOL else "numbers"
            raise invalid(path, f"input {self._spec.name!r} takes {what}")

    def _checked(self, number: float, path: str) -> float:
        if self._spec.dtype.startswith(("INT", "UINT")):
            bounds = np.iinfo(self._spec.dtype.lower())
            if not math.isfinite(number) or number != math.floor(number) or not bounds.min <= number <= bounds.max:
                raise invalid(
                    path, f"{number:g} is no {self._spec.dtype}; send a whole number from {bounds.min} to {bounds.max}"
                )
        return number

    def tensor(self, rows: int | None) -> Tensor:
        """Returns the tensor of all values, without a dimension of rows if that is None."""
        shape = self._first or ()
        if rows is not None:
            shape = (rows, *shape)
        if self._spec.dtype is TensorType.BYTES:
            return Tensor(self._spec.name, self._spec.dtype, shape, bytes_tensor_data(self._texts))
        with np.errstate(over="ignore"):
            data = np.array(self._numbers, NUMPY_TYPES[self._spec.dtype]).tobytes()
        return Tensor(self._spec.name, self._spec.dtype, shape, data)


def _json_of(value: struct_pb2.Value, path: str) -> str:
    """Returns a list or an object as JSON; lists of plain values, which are the most, without a detour.

    Raises:
        ServiceError: INVALID_FIELD; a number in it is NaN or infinite.
    """
    try:
        if value.WhichOneof("kind") == "list_value":
            kinds = [one.WhichOneof("kind") for one in value.list_value.values]
            if all(kind == "number_value" for kind in kinds):
                return json.dumps([one.number_value for one in value.list_value.values], allow_nan=False)
        return json.dumps(json_format.MessageToDict(value), ensure_ascii=False)
    except ValueError as error:
        raise invalid(path, "it has a number that is NaN or infinity, which JSON does not know; send null") from error
