"""The linear probe of the paper's protocol: 45 penalties, each to its optimum, then once more on all rows.

`--case 10000x512`: rows and columns. Ten classes overlap; the line has the accuracy, too.
"""

import protocol

CLASSES, SPREAD = 10, 0.25


def make(case, impl):
    """Rows x columns; the only implementation is `star_keras`."""
    import numpy as np

    from star_keras import evaluation

    rows, columns = map(int, case.split("x"))
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=rows + rows // 5)
    # Pooled activations are never negative, and some of their directions are far wider than others.
    mixing = rng.normal(0, 1, (columns, columns)) * np.logspace(0, -2, columns)[:, None]
    drawn = rng.normal(0, SPREAD, (CLASSES, columns))[labels] + rng.normal(size=(len(labels), columns))
    features = np.maximum(drawn @ mixing / np.sqrt(columns), 0).astype("float32")

    facts = {}

    def run():
        found = evaluation.linear_probe(features[:rows], labels[:rows], features[rows:], labels[rows:])
        facts["accuracy"] = found.accuracy

    return run, facts


if __name__ == "__main__":
    protocol.main(make, repetitions=1, warmup=0, budget=1, attempts=1)
