"""Names for arrays in annotations, and the array that a result stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

__all__ = ["BoolArray", "Float32Array", "FloatArray", "Int32Array", "Int64Array", "IntArray", "StoredArray"]

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Float32Array: TypeAlias = npt.NDArray[np.float32]
Int32Array: TypeAlias = npt.NDArray[np.int32]
Int64Array: TypeAlias = npt.NDArray[np.int64]


class _ListIsArray:
    """Nested lists are read as an array of float64, null as NaN."""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # noqa: PLC0415 - 0.15 s, needed to read alone

        return core_schema.no_info_plain_validator_function(_array)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "array", "description": "Nested lists of numbers, one level per axis; null where unknown."}


def _array(value: Any) -> FloatArray:  # noqa: ANN401 - checked by numpy
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"no array of numbers: {error}") from error


StoredArray = Annotated[FloatArray, _ListIsArray()]
"""An array of a `Record`; JSON holds it as nested lists."""
