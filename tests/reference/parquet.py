"""Writes tests/golden/choices.parquet: three rows with nested columns, in two row
groups, as the hub stores questions with choices."""

from pathlib import Path

import pyarrow
import pyarrow.parquet

rows = [
    {
        "id": f"q{number}",
        "question": f"Where is {number}? č",
        "choices": {"label": ["A", "B"], "text": [f"here {number}", "there"]},
        "answer": answer,
        "grade": number,
        "sure": number % 2 == 1,
    }
    for number, answer in enumerate(["A", None, "B"])
]
table = pyarrow.Table.from_pylist(rows)
out = Path(__file__).parent.parent / "golden" / "choices.parquet"
pyarrow.parquet.write_table(table, out, row_group_size=2)
