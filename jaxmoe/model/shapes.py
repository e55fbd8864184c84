"""The letters that name dimensions, and short names for array types.

B batch            T position          S cache position     D model width
F feed-forward     N query heads       M key/value heads    H head size
E experts          K experts chosen    R rank               L layers
V vocabulary       I input width       O output width       Z samples packed in a row

A variable's suffix spells its axes (`hidden_BTD`); a file may add letters in its own docstring.
Masks are 1 where something counts.
"""

from typing import TYPE_CHECKING, Any

from jax import Array
from jaxtyping import Bool, Float, Int

if TYPE_CHECKING:
    PyTree = Any  # arrays in dictionaries, tuples and records of any nesting; jaxtyping's name is not a type
else:
    from jaxtyping import PyTree

__all__ = ["Array", "Bool", "Float", "Int", "PyTree", "Weight"]

Weight = Any  # a jax.Array, a numpy array, or a QuantizedKernel, which has no base class in common with them
