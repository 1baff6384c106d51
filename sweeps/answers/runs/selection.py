"""`--where`: an expression over the columns of a table of runs, read and never executed."""

import ast
import operator
from typing import Any

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.file.plugins import unknown
from sweeps.file.trials import AXES

COMPARE = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def where(runs: pd.DataFrame, expression: str) -> pd.DataFrame:
    """Return the runs for which an expression holds, such as `model == "scgpt" and test_macro_f1 > 0.5`.

    Allowed: column names, numbers, text in quotes, comparisons, in, and, or, not. Nothing is executed. RequestError for
    anything else, and if no run, or no finished one, is left though there were some, naming what the columns hold.
    """
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except SyntaxError as error:
        raise RequestError(f"--where {expression!r}: {error.msg}; {_WAY_OUT}") from None
    found = runs[_holds(tree, runs, expression)]
    if found.empty and len(runs):
        raise RequestError(f"--where {expression!r}: no run is like that; {_known(tree, runs)}")
    finished = runs[runs["status"] == "FINISHED"] if "status" in runs else found
    if len(finished) and not set(found.index) & set(finished.index):
        known = _known(tree, finished)
        raise RequestError(
            f"--where {expression!r}: none of these {len(found)} runs is finished; of the finished, {known}"
        )
    return found


def _known(tree: ast.AST, runs: pd.DataFrame) -> str:
    """Return what the columns that an expression asks about hold."""
    names = dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
    return "; ".join(f"{name} is {_holding(runs[name].dropna())}" for name in names)


def _holding(values: pd.Series) -> str:
    if values.empty:
        return "not known yet"
    if pd.api.types.is_numeric_dtype(values):
        return f"from {values.min():.4g} to {values.max():.4g}"
    return f"one of {', '.join(map(str, sorted(values.unique())[:12]))}"


_WAY_OUT = 'write it like: model == "scgpt" and strategy in ("none", "oversample") and test_macro_f1 > 0.5'


def _holds(node: ast.AST, runs: pd.DataFrame, text: str) -> pd.Series:
    if isinstance(node, ast.BoolOp):
        parts = [_holds(value, runs, text) for value in node.values]
        found = parts[0]
        for part in parts[1:]:
            found = found & part if isinstance(node.op, ast.And) else found | part
        return found
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_holds(node.operand, runs, text)
    if isinstance(node, ast.Compare):
        return _compared(node, runs, text)
    raise RequestError(f"--where {text!r}: {ast.unparse(node)!r} is not a comparison; {_WAY_OUT}")


def _compared(node: ast.Compare, runs: pd.DataFrame, text: str) -> pd.Series:
    found = pd.Series(True, index=runs.index)
    left = _value(node.left, runs, text)
    for kind, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node, runs, text)
        found &= _one(kind, left, right, runs, text)
        left = right
    return found


def _one(kind: ast.cmpop, left: Any, right: Any, runs: pd.DataFrame, text: str) -> pd.Series:
    if isinstance(kind, ast.In | ast.NotIn):
        if not isinstance(left, pd.Series) or not isinstance(right, list):
            raise RequestError(f"--where {text!r}: `in` needs a column and a list; {_WAY_OUT}")
        inside = left.isin([str(value) for value in right] if left.dtype == object else right)
        return inside if isinstance(kind, ast.In) else ~inside
    if type(kind) not in COMPARE:
        raise RequestError(f"--where {text!r}: `is` is not allowed; use ==")
    for one, other in ((left, right), (right, left)):  # split and seed are text in MLflow
        if isinstance(one, pd.Series) and one.dtype == object and isinstance(other, int | float):
            numbers = pd.to_numeric(one, errors="coerce")
            left, right = (numbers, right) if one is left else (left, numbers)
    try:
        found = COMPARE[type(kind)](left, right)
    except TypeError:
        raise RequestError(f"--where {text!r}: compares text with a number; {_WAY_OUT}") from None
    return found if isinstance(found, pd.Series) else pd.Series(bool(found), index=runs.index)


def _value(node: ast.AST, runs: pd.DataFrame, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, runs, text)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(item, runs, text) for item in node.elts]
    if isinstance(node, ast.Name):
        if node.id not in runs.columns:
            raise RequestError(f"--where {text!r}: {_no_column(node.id, runs)}")
        return runs[node.id]
    raise RequestError(f"--where {text!r}: {ast.unparse(node)!r} is not allowed; {_WAY_OUT}")


def _no_column(name: str, runs: pd.DataFrame) -> str:
    holder = next((axis for axis in AXES if axis in runs and name in set(runs[axis].astype(str))), None)
    if holder is not None:
        return f'{name} is a {holder}, not a column; text wants quotes: {holder} == "{name}"'
    listed = f"{', '.join(AXES)} and more, metrics as `cellskew results NAME --metric list` has them"
    return unknown("column", name, runs.columns, listed)
