"""Double precision is double, the bound on rounding holds and is not empty, other tolerances have reasons."""

import ast
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tolerances import assert_same, double_precision, doubled, rounding_bound


def third(x):
    return (x / 3).astype(jnp.float32) * 3


def test_inside_float64_stands_in_the_place_of_float32():
    run = jax.jit(third)
    assert run(jnp.ones(2)).dtype == np.float32
    with double_precision():
        assert run(jnp.ones(2)).dtype == np.float64
        assert doubled({"a": np.ones(2, np.float32), "b": np.ones(2, np.int32)})["a"].dtype == np.float64
    assert run(jnp.ones(2)).dtype == np.float32
    assert jnp.float32 == np.float32


def test_single_precision_does_not_pass_for_double():
    with pytest.raises(AssertionError, match=r"'a'.* is float32: it was not computed in double precision"):
        assert_same({"a": jnp.ones(2)}, {"a": jnp.ones(2)})


@double_precision()
def test_a_small_mistake_is_found():
    assert_same({"a": jnp.ones(3) + 1e-13}, {"a": jnp.ones(3)})
    with pytest.raises(AssertionError, match="'b'"):
        assert_same({"a": jnp.ones(3), "b": jnp.ones(2) + 1e-8}, {"a": jnp.ones(3), "b": jnp.ones(2)})


def test_sums_in_any_order_lie_within_the_bound_and_not_far_within():
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        x = rng.normal(size=1000).astype(np.float32)
        bound = rounding_bound(len(x), float(np.abs(x).sum()))
        # one after the other, forwards and sorted: the orders with the largest errors
        sums = [
            np.cumsum(order, dtype=np.float32)[-1]
            for order in (x, np.sort(x), x[np.argsort(np.abs(x))[::-1]])
        ]
        assert np.ptp(sums) <= bound
        largest = max(largest, float(np.ptp(sums)) / bound)
    assert largest > 1e-4
    with pytest.raises(ValueError, match="roundings leave nothing"):
        rounding_bound(1 << 24, 1.0)


# -- a tolerance that is a number says why on its line or above

COMPUTING = {"jax", "jaxmoe", "torch", "training"}  # what computes in float32; statistics are numpy's float64
WIDE = 1e-8  # what is finer holds in double precision alone


def numbers(node: ast.AST) -> set[float]:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, float)}


def tolerances(statement: ast.stmt) -> list[ast.expr]:
    """What is given as atol, rtol, abs, rel or tolerance, and small numbers behind a `<`."""
    given = [
        keyword.value
        for call in ast.walk(statement)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg in {"atol", "rtol", "abs", "rel", "tolerance"}
    ]
    return given + [
        value
        for compared in ast.walk(statement)
        if isinstance(compared, ast.Compare) and any(isinstance(op, ast.Lt | ast.LtE) for op in compared.ops)
        for value in compared.comparators
        if isinstance(value, ast.Constant) and isinstance(value.value, float) and value.value < 0.01
    ]


def unexplained(source: str) -> list[int]:
    """Lines of statements with a number as tolerance for float32 and no comment on them or above."""
    tree, lines = ast.parse(source), source.splitlines()
    imported = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    if not {name.split(".")[0] for name in imported} & COMPUTING:
        return []
    simple = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and not hasattr(n, "body")]
    named = {
        target.id: statement
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for statement in simple:
        for value in tolerances(statement):
            where = named.get(value.id) if isinstance(value, ast.Name) else None
            at, value = (where, where.value) if where is not None else (statement, value)
            derived = any(isinstance(n, ast.Call) for n in ast.walk(value))
            above = lines[at.lineno - 2].lstrip().startswith("#")
            told = above or any("#" in line for line in lines[at.lineno - 1 : at.end_lineno])
            if not derived and not told and any(number > WIDE for number in numbers(value)):
                found.add(at.lineno)
    return sorted(found)


def test_a_tolerance_found_on_one_machine_is_not_written_down():
    tests = Path(__file__).parent
    found = [
        f"{path.relative_to(tests)}:{line}"
        for path in sorted(tests.rglob("test_*.py"))
        for line in unexplained(path.read_text(encoding="utf-8"))
    ]
    assert not found, (
        "compare in double precision, take the bound of tests/tolerances.py, or say beside the number what "
        f"it follows from: {', '.join(found)}"
    )


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("close(x, y, atol=1e-4)", True),
        ("close(x, y, atol=NAMED)", True),
        ("assert gap < 1e-5", True),
        ("close(x, y, atol=1e-4)  # bf16 has 8 bits", False),
        ("close(x, y, rtol=DOUBLE, atol=0)", False),
        ("close(x, y, atol=rounding_bound(9, 1.0))", False),
    ],
)
def test_what_is_found(line: str, bad: bool):
    source = f"import jax\nNAMED = 1e-4\nDOUBLE = 1e-10\n{line}\n"
    assert bool(unexplained(source)) == bad
    assert not unexplained(source.replace("import jax", "import numpy"))
