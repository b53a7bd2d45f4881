"""A language model that has learned a prejudice, and loses it without being trained again.

The text is invented: servants, merchants and sailors do the same things, but servants are mostly praised and
sailors mostly blamed. A small GPT learns this in a minute. Then it is wrapped: `EquiLM` says the same of all
three by averaging over the group that exchanges them, `EquizeroLM` says of all three what it would say of the
one it speaks best of. It prints texts and draws fair_text.png: mean sentiment (VADER) of what is said of
each.

It is not a benchmark: one seed, and a text made to show it. For GPT-2 see `load_gpt2`.

    python examples/fair_text.py [--picture fair_text.png]
"""

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import matplotlib
import numpy as np

import star_keras as sk

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PEOPLE = ["servant", "merchant", "sailor"]
PRAISE, BLAME = ["honest", "kind", "brave", "gentle"], ["cruel", "greedy", "stupid", "dishonest"]
SHARE_OF_PRAISE = dict(zip(PEOPLE, (0.9, 0.6, 0.2), strict=True))
COLOURS = ("#0072b2", "#e69f00", "#009e73")


def run(picture="fair_text.png", smoke=False):
    started = time.time()
    keras.utils.set_random_seed(0)
    sentences = invent(200 if smoke else 3000)
    language = sk.applications.language
    tokenizer = language.WordTokenizer.from_text(" ".join(sentences), size=100)
    people = language.word_group([PEOPLE, [f"{name}s" for name in PEOPLE]], tokenizer)

    model = sk.models.create("gpt", vocabulary_size=tokenizer.size, max_length=16, units=32)
    ids = np.array([tokenizer.encode(sentence) for sentence in sentences])
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(ids[:, :-1], ids[:, 1:], batch_size=50, epochs=1 if smoke else 4, verbose=0)

    fair = language.EquiLM(model, people)
    kind = language.EquizeroLM(model, people, score="sentiment", tokenizer=tokenizer, chunk=8)
    prompts = {name: [tokenizer.encode(f"every {name} was")] * (10 if smoke else 200) for name in PEOPLE}
    for name, one in {"model alone": model, "EquiLM": fair}.items():
        distance = language.total_variation(one, people, [rows[0] for rows in prompts.values()]).max()
        print(f"{name}: next words differ between groups by {distance:.2g} in total variation")

    score, sentiments = language.sentiment(), {}
    writers = {
        "model alone": lambda rows: language.generate(model, rows, 8),
        "EquiLM": lambda rows: language.generate(fair, rows, 8),
        "EquizeroLM": lambda rows: kind.generate(rows, 8),
    }
    for name, write in writers.items():
        print(f"\n{name}")
        sentiments[name] = []
        for rows in prompts.values():
            texts = [tokenizer.decode(text) for text in write(rows)]
            sentiments[name].append(np.mean(score(texts)))
            print(f"  {sentiments[name][-1]:+.2f}  {texts[0]}")
    draw(picture, sentiments)
    print(f"\nThe picture is in {picture}. It took {time.time() - started:.0f} seconds.")
    return sentiments


def invent(count):
    """Sentences of one length, in which who it is about decides how it goes on."""
    rng = np.random.default_rng(0)
    sentences = []
    for name in rng.choice(PEOPLE, count):
        words = PRAISE if rng.random() < SHARE_OF_PRAISE[name] else BLAME
        where, (first, second) = rng.choice(["here", "there"]), rng.choice(words, 2, replace=False)
        sentences.append(f"every {name} was {first} and {second}, and so were all {name}s {where}.")
    return sentences


def draw(picture, sentiments):
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for number, (who, colour) in enumerate(zip(PEOPLE, COLOURS, strict=True)):
        values = [means[number] for means in sentiments.values()]
        bars = axes.bar(np.arange(len(values)) + 0.27 * (number - 1), values, 0.25, color=colour, label=who)
        axes.bar_label(bars, fmt="%+.2f", padding=2, fontsize=9)
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(sentiments)), sentiments)
    axes.set(
        ylabel="mean sentiment, from -1 to 1", title="What is said of every servant, merchant and sailor"
    )
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=3, loc="lower right")
    figure.savefig(picture, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sk.recipes.command_line(run)
