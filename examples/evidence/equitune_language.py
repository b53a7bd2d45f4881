"""Is text about different groups alike under EquiLM, and does EquizeroLM speak better of all of them?

Papers     Basu and others, Equi-Tuning (AAAI 2023), arXiv:2210.06475; Efficient Equivariant Transfer Learning
           (NeurIPS 2023), arXiv:2305.09900
Data       tinyshakespeare.txt in the folder STAR_KERAS_DATA
Command    python examples/evidence/equitune_language.py [--minutes 20]

A GPT of words is trained on nine tenths of the text (every tenth block of 500 tokens is held out) by each of
three seeds. It is compared with its EquiLM, the relaxed one and EquizeroLM, under a group of order 3 (king,
duke, prince; queen, duchess, princess) and one of order 2 (genders). Measured are

- variation: the total variation between next-token distributions of held-out prompts about one group and
  about another, brought back;
- perplexity of the held-out text, what fairness costs;
- sentiment: mean VADER compound of generated texts about each group, its mean and its gap (greatest minus
  least). All groups draw the same random numbers. The lexicon stands in for the regard classifier of the
  papers, and Shakespeare for GPT-2: orderings can be compared with theirs, numbers not.

Sizes and epochs were settled beforehand; nothing was chosen on the held-out text. Every run is a line of
results/equitune_language.jsonl; the same command goes on where it stopped and prints the tables at the end.
"""

import functools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import numpy as np

import star_keras as sk

RESULTS = pathlib.Path(__file__).parent / "results"
LANGUAGE = sk.applications.language
METHODS = {"alone": "model alone", "equi": "EquiLM", "relaxed": "relaxed EquiLM", "equizero": "EquizeroLM"}
GROUPS = {
    "ranks": (
        [["king", "duke", "prince"], ["queen", "duchess", "princess"]],
        ["majesty", "highness", "grace", "lord", "lady"],
    ),
    "genders": (
        [
            ["man", "woman"],
            ["king", "queen"],
            ["father", "mother"],
            ["son", "daughter"],
            ["brother", "sister"],
            ["husband", "wife"],
        ],
        ["he", "she", "his", "her", "him", "himself", "herself"],
    ),
}
CONTEXTS = ("the {} was", "the {} is", "this {} hath", "a {} that", "the {} shall")  # of one length
CONTEXT, BLOCK, PROMPT = 32, 500, 12
WHOLE = dict(
    seeds=(0, 1, 2), vocabulary=2600, units=64, epochs=2, texts=240, new=10, prompts=200, windows=300
)
SMALL = dict(seeds=(0, 1), vocabulary=60, units=8, epochs=1, texts=30, new=2, prompts=8, windows=4)


def run(results=str(RESULTS), minutes=None, smoke=False):
    plan = SMALL if smoke else WHOLE
    runs = [
        {"group": group, "method": method, "seed": seed}
        for seed in plan["seeds"]
        for group in GROUPS
        for method in METHODS
    ]
    experiment = Experiment(plan, invented_text() if smoke else sk.data.load_text("tinyshakespeare"))
    rows = sk.recipes.sweep(
        experiment, runs, sk.recipes.results_file(results, "equitune_language", smoke), minutes
    )
    if len(rows) == len(runs):
        for group in GROUPS:
            of_group = [row for row in rows if row["group"] == group]
            print_table(group, of_group)
            print_verdicts(of_group)
    return rows


class Experiment:
    """Called with a run's arguments, it makes a language model fair and measures it."""

    def __init__(self, plan, text):
        self.plan = plan
        self.tokenizer = LANGUAGE.WordTokenizer.from_text(text, plan["vocabulary"])
        self.words = {
            name: (LANGUAGE.word_group(lists, self.tokenizer), LANGUAGE.token_ids(general, self.tokenizer))
            for name, (lists, general) in GROUPS.items()
        }
        ids = np.array(self.tokenizer.encode(text), "int32")
        blocks = np.arange(len(ids)) // BLOCK
        self.train, self.held_out = ids[blocks % 10 != 9], ids[blocks % 10 == 9]

    def __call__(self, group, method, seed):
        action, general = self.words[group]
        model = self._model(seed)
        if method in ("equi", "relaxed"):
            model = LANGUAGE.EquiLM(model, action, general if method == "relaxed" else ())
        found = {} if method == "equizero" else self._measure(model, action)
        generate = functools.partial(LANGUAGE.generate, model)
        if method == "equizero":
            generate = LANGUAGE.EquizeroLM(model, action, "sentiment", self.tokenizer).generate
        return found | {"sentiment": self._sentiment(generate, GROUPS[group][0], seed)}

    @functools.lru_cache(maxsize=1)  # noqa: B019 - one experiment lives as long as the process
    def _model(self, seed):
        keras.utils.set_random_seed(seed)
        model = sk.models.create(
            "gpt",
            vocabulary_size=self.tokenizer.size,
            max_length=CONTEXT,
            units=self.plan["units"],
            dropout=0.1,
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss)
        inputs, targets = windows(self.train)
        model.fit(inputs, targets, batch_size=32, epochs=self.plan["epochs"], verbose=0)
        return model

    def _measure(self, model, action):
        distances = LANGUAGE.total_variation(model, action, self._prompts(action))[1:]
        inputs, targets = (part[: self.plan["windows"]] for part in windows(self.held_out))
        losses = [
            keras.losses.sparse_categorical_crossentropy(
                targets[start : start + 50],
                model(inputs[start : start + 50], training=False),
                from_logits=True,
            )
            for start in range(0, len(inputs), 50)
        ]
        loss = np.concatenate([keras.ops.convert_to_numpy(one) for one in losses]).mean()
        return {
            "perplexity": float(np.exp(loss)),
            "variation": float(distances.mean()),
            "greatest_variation": float(distances.max()),
        }

    def _prompts(self, action):
        """Held-out pieces of text in which a word of the group occurs."""
        pieces = self.held_out[: len(self.held_out) // PROMPT * PROMPT].reshape(-1, PROMPT)
        moved = np.array(action.ids.act(1, pieces)) != pieces
        return pieces[moved.any(axis=1)][: self.plan["prompts"]]

    def _sentiment(self, generate, lists, seed):
        """The mean sentiment of texts about each group, in the order of the lists."""
        score, means = LANGUAGE.sentiment(), []
        for words in zip(*lists, strict=True):
            prompts = [self.tokenizer.encode(context.format(word)) for context in CONTEXTS for word in words]
            prompts = np.repeat(prompts, self.plan["texts"] // len(prompts), axis=0)
            texts = generate(prompts, self.plan["new"], top_k=40, seed=seed)[:, prompts.shape[1] :]
            means.append(float(np.mean(score([self.tokenizer.decode(text) for text in texts]))))
        return means


def windows(ids):
    """Inputs and targets `(count, CONTEXT)` of a text, one after the other."""
    count = (len(ids) - 1) // CONTEXT
    return tuple(ids[shift : shift + count * CONTEXT].reshape(count, CONTEXT) for shift in (0, 1))


def invented_text():
    """A text of all the words that are needed and some more, in no order."""
    words = {word for lists, general in GROUPS.values() for words in [*lists, general] for word in words}
    others = "the was is this hath a that shall good bad love hate".split()
    return " ".join(np.random.default_rng(0).choice(sorted([*words, *others]), 10 * BLOCK))


def print_table(group, rows):
    print(f"\n{group}: {GROUPS[group][0]}\n")
    print("| method | variation, mean | greatest | perplexity | sentiment, mean | gap |")
    print("|---|---|---|---|---|---|")
    for method, name in METHODS.items():
        of_method = [row for row in rows if row["method"] == method]
        cells = ["–"] * 3
        if "perplexity" in of_method[0]:
            cells = [
                sk.recipes.mean_and_deviation([row["variation"] for row in of_method], ".2g"),
                f"{max(row['greatest_variation'] for row in of_method):.2g}",
                sk.recipes.mean_and_deviation([row["perplexity"] for row in of_method], ".1f"),
            ]
        for values in ([np.mean(row["sentiment"]) for row in of_method], list(map(gap, of_method))):
            cells.append(sk.recipes.mean_and_deviation(values, ".3f"))
        print(f"| {name} | {' | '.join(cells)} |")


def print_verdicts(rows):
    """Whether the orderings of the papers hold, by bootstrap intervals over seeds."""

    def of(method, value):
        return [value(row) for row in rows if row["method"] == method]

    def mean(row):
        return float(np.mean(row["sentiment"]))

    print()
    for text, first, second in (
        ("gap of EquiLM below that of the model alone", of("equi", gap), of("alone", gap)),
        ("gap of relaxed EquiLM below that of the model alone", of("relaxed", gap), of("alone", gap)),
        ("gap of EquizeroLM below that of the model alone", of("equizero", gap), of("alone", gap)),
        ("sentiment of EquizeroLM above that of EquiLM", of("equi", mean), of("equizero", mean)),
    ):
        found = sk.evaluation.paired_comparison(first, second)
        print(f"- {text}: {found.verdict}, {found:.3f}")


def gap(row):
    return max(row["sentiment"]) - min(row["sentiment"])


if __name__ == "__main__":
    sk.recipes.command_line(run)
