"""CSV files that a spreadsheet does not take for formulas and that come back as they were.

A text that begins like a formula is written with an apostrophe before it, as OWASP advises against CSV injection, and
read without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

_BEGINS_FORMULA = tuple("=+-@\t\r'")  # the apostrophe itself too, so that reading can always take one away


def to_csv(table: pd.DataFrame) -> str:
    """The table's CSV text without its index."""
    return table.map(_escape).to_csv(index=False, lineterminator="\n")


def read_csv(path: Path, dtype: Mapping[str, Any]) -> pd.DataFrame:
    """A table that `to_csv` wrote; an empty cell is an empty text, or NaN among numbers."""
    table = pd.read_csv(path, dtype=dtype, keep_default_na=False, na_values=[""])
    return table.assign(**table.select_dtypes(exclude=["number", "bool"]).map(_plain))


def _escape(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_BEGINS_FORMULA) else value


def _plain(value: object) -> object:
    return value.removeprefix("'") if isinstance(value, str) else ""
