"""Writes classification metrics of scikit-learn for random labels and predictions."""

import json
from pathlib import Path

import numpy
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

OUT = Path(__file__).parent.parent / "golden" / "metrics.json"


def case(generator, classes, count):
    """Labels and predictions in which some classes may stand nowhere."""
    used = generator.choice(classes, size=generator.integers(1, classes + 1), replace=False)
    gold = generator.choice(used, size=count)
    predicted = generator.choice(classes if generator.random() < 0.5 else used, size=count)
    metrics = {"accuracy": accuracy_score(gold, predicted)}
    for average in ["macro", "weighted"]:
        precision, recall, f1, _ = precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)
        metrics |= {f"precision_{average}": precision, f"recall_{average}": recall, f"f1_{average}": f1}
    of = lambda **choice: precision_recall_fscore_support(gold, predicted, zero_division=0, **choice)[:3]
    # Each class as the positive one of a binary task, and micro averages over all and over all but the first.
    metrics["by_class"] = [list(column) for column in zip(*of(average=None, labels=range(classes)), strict=True)]
    metrics["micro"] = of(average="micro", labels=range(classes))
    metrics["micro_without_first"] = of(average="micro", labels=range(1, classes))
    return {"classes": classes, "gold": gold.tolist(), "predicted": predicted.tolist(), "metrics": metrics}


def main():
    generator = numpy.random.default_rng(7)
    cases = [case(generator, int(generator.integers(2, 7)), int(generator.integers(1, 40))) for _ in range(40)]
    OUT.write_text(json.dumps(cases))


if __name__ == "__main__":
    main()
