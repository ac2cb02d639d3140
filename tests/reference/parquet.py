"""Writes the Parquet files under tests/golden: three rows with nested columns, in two row
groups (choices.parquet), and, in hub/, a few rows in the columns of the data sets that
configs name at the hub.

    python tests/reference/parquet.py
"""

from pathlib import Path

import pyarrow
import pyarrow.parquet

OUT = Path(__file__).parent.parent / "golden"


def write(name, rows, **options):
    path = OUT / name
    path.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)


choices = [
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
write("choices.parquet", choices, row_group_size=2)

commonsenseqa = [
    {
        "id": f"c{number}",
        "question": f"Where would you keep the number {number}?",
        "question_concept": "number",
        "choices": {"label": list("ABCDE"), "text": ["drawer", "cellar", "head", "river", "oven"]},
        "answerKey": answer,
    }
    for number, answer in enumerate(["C", "A", "C"])
]
write("hub/commonsenseqa.parquet", commonsenseqa)
write("hub/commonsenseqa_test.parquet", [{**row, "answerKey": ""} for row in commonsenseqa])

slovene = [
    {"idx": number, "label": number != 1, "passage": f"Led &ndash; &quot;Led&quot; {number} je trden.", "question": f"je led {number} trden"}
    for number in range(3)
]
write("hub/boolq_slovene.parquet", slovene)

english = [
    {"question": f"is ice {number} solid", "answer": number != 1, "passage": f"Ice {number} is solid water."}
    for number in range(3)
]
write("hub/boolq_english.parquet", english)

xsum = [
    {"document": f"The {number} cats sat on the mat.\nThey slept.", "summary": f"There were {number} cats.", "id": str(number)}
    for number in range(3)
]
write("hub/xsum.parquet", xsum)
