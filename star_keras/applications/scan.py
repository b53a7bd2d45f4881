"""Compositional generalisation on SCAN: models that know a word in one sentence know it in all.

>>> import star_keras as sk
>>> model = sk.models.create("gru_seq2seq", vocabulary_size=sk.data.SCAN_VOCABULARY.size, units=8)
>>> equizero = sk.models.EquivariantSequenceToSequence(model, task_group("add_jump"), weighting="argmin")
>>> translator = Translator(equizero, max_actions=4)
>>> translator(["jump twice", "walk twice"])  # not trained yet
['...', '...']
"""

import itertools

import keras
import numpy as np

from star_keras.data import SCAN_VOCABULARY
from star_keras.exceptions import NonFiniteError
from star_keras.groups import VocabularyCycle
from star_keras.guards.arguments import check_choice, check_count, is_whole
from star_keras.models.decoding import BROKEN, GreedyDecoder

LONGEST_COMMAND = 9  # words
# Words that a task exchanges in commands and, in the same places, in actions; the first two are the
# paper's group of order 2.
TASK_WORDS = {
    "add_jump": (("jump", "run", "walk", "look"), ("I_JUMP", "I_RUN", "I_WALK", "I_LOOK")),
    "around_right": (("right", "left"), ("I_TURN_RIGHT", "I_TURN_LEFT")),
}


def task_group(task, order=2):
    """The group of a task of SCAN: it advances words together, in commands and in actions.

    "add_jump" exchanges "jump" and "run", or advances the four verbs with actions of their own;
    "around_right" exchanges "right" and "left". A command with both words of a pair keeps both when they
    are exchanged: with order 2, one in four commands of "add_jump" stays as new as it was.

    Args:
        task: "add_jump" or "around_right".
        order: number of words in a ring: 2 (default), or up to 4 for "add_jump".

    Returns:
        A `groups.VocabularyCycle`.

    Raises:
        ValueError: if the task is unknown or has no such group.

    Example:

    >>> tokens = SCAN_VOCABULARY.encode_actions(["I_JUMP I_WALK"], length=2)
    >>> SCAN_VOCABULARY.decode(task_group("add_jump").ids.act(1, tokens))
    ['I_RUN I_WALK']
    """
    check_choice("task", task, tuple(TASK_WORDS))
    rings = TASK_WORDS[task]
    if not is_whole(order) or not 2 <= order <= len(rings[0]):
        raise ValueError(f"`order` must be from 2 to {len(rings[0])} for {task!r}. Received: order={order}")
    return VocabularyCycle([SCAN_VOCABULARY.tokens(ring[:order]) for ring in rings], SCAN_VOCABULARY.size)


class Batches(keras.utils.PyDataset):
    """Pairs of commands and actions in batches of similar length, in an order that is drawn anew each epoch.

    Sentences of actions are sorted into a few lengths and padded to the longest of theirs, so that steps
    of short ones are short while only a few shapes are ever compiled.

    Args:
        sentences: `data.Sentences`.
        batch_size: rows of a batch; the last one of a length is filled up with rows drawn twice.
        seed: of the order, an integer.
        lengths: bounds of the lengths in tokens, end included, the last at least that of the longest.

    Yields `({"commands": ..., "actions": ...}, targets)`: what `SequenceToSequence` is fitted with; compile
    with `cross_entropy()`.

    Raises:
        ValueError: if there are no sentences, or not as many commands as actions, `batch_size` is not
            positive, or a sentence is too long or has a word that SCAN lacks.

    Example:

    >>> from star_keras.data import Sentences
    >>> sentences = Sentences(["jump", "walk twice"], ["I_JUMP", "I_WALK I_WALK"])
    >>> batches = Batches(sentences, batch_size=2, seed=0)
    >>> inputs, targets = batches[0]
    >>> inputs["commands"].shape, inputs["actions"].shape, targets.shape
    ((2, 9), (2, 12), (2, 12))
    """

    def __init__(self, sentences, batch_size, seed, lengths=(12, 24, 49)):
        super().__init__()
        _check_pairs(sentences)
        self.commands = SCAN_VOCABULARY.encode_commands(sentences.commands, LONGEST_COMMAND)
        self.tokens = SCAN_VOCABULARY.encode_actions(sentences.actions, lengths[-1] - 1)
        self.batch_size, self.seed, self.epoch = check_count("batch_size", batch_size), seed, 0
        ends = np.count_nonzero(self.tokens, axis=1) - 1
        self._groups = [
            (length, np.flatnonzero((ends <= length) & (ends > shorter)))
            for shorter, length in itertools.pairwise((0, *lengths))
        ]
        self._draw()

    def _draw(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        self._batches = []
        for length, rows in self._groups:
            if len(rows):
                whole = -(-len(rows) // self.batch_size) * self.batch_size
                rows = np.resize(rng.permutation(rows), whole)
                self._batches += [(length, part) for part in rows.reshape(-1, self.batch_size)]
        rng.shuffle(self._batches)

    def __len__(self):
        return len(self._batches)

    def __getitem__(self, index):
        length, rows = self._batches[index]
        inputs = {"commands": self.commands[rows], "actions": self.tokens[rows, :length]}
        return inputs, self.tokens[rows, 1 : length + 1]

    def on_epoch_end(self):
        self.epoch += 1
        self._draw()


def cross_entropy():
    """The loss of the next action, in nats, over all steps but padding."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)


def train(
    model, sentences, epochs, learning_rate=3e-3, batch_size=64, seed=0, verbose=0, lengths=(12, 24, 49)
):
    """Trains a model on pairs of commands and actions: Adam whose rate falls to zero along a cosine.

    Args:
        model: a `models.SequenceToSequence`, or an `EquivariantSequenceToSequence` to fine-tune; what is
            not `trainable` in it stays.
        sentences: `data.Sentences`.
        epochs: positive integer.
        learning_rate: of the first step. Defaults to 3e-3.
        batch_size, seed, lengths: of `Batches`. Default to 64, 0 and those of SCAN.
        verbose: of `fit`. Defaults to 0.

    Returns:
        The history of the loss, a dict of lists.

    Raises:
        ValueError: if `epochs` is not positive, or as in `Batches`.
    """
    batches = Batches(sentences, batch_size, seed, lengths)
    steps = check_count("epochs", epochs) * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(schedule, clipnorm=1.0), cross_entropy())
    return model.fit(batches, epochs=epochs, shuffle=False, verbose=verbose).history


class Translator:
    """Sentences of commands to sentences of actions.

    Args:
        model: a `models.SequenceToSequence` or `models.EquivariantSequenceToSequence`.
        max_actions: greatest number of actions that are said, at most the model's. Defaults to None, the
            model's.

    Raises:
        ValueError: if `model` is neither of the two or has another vocabulary than SCAN's, or
            `max_actions` is out of range.
    """

    def __init__(self, model, max_actions=None):
        self.decoder = GreedyDecoder(model, max_actions)
        inner = getattr(model, "model", model)
        self.max_command = inner.max_command
        if inner.vocabulary_size != SCAN_VOCABULARY.size:
            raise ValueError(
                f"`model` must have the {SCAN_VOCABULARY.size} tokens of `data.SCAN_VOCABULARY`. "
                f"Received: a model of {inner.vocabulary_size} tokens"
            )

    def __call__(self, commands, batch_size=256):
        """The actions of a list of commands.

        Raises:
            ValueError: if there are no commands, or one is empty, too long, or has a word that the
                SCAN lacks.
            NonFiniteError: if the model says NaN.
        """
        tokens = SCAN_VOCABULARY.encode_commands(commands, self.max_command)
        if not len(tokens):
            raise ValueError("`commands` must be one sentence or more. Received: []")
        said = self.decoder.predict(tokens, batch_size=batch_size, verbose=0)
        broken = (said == BROKEN).any(axis=1)
        if broken.any():
            raise NonFiniteError(
                f"Logits of actions must be numbers. Received: NaN for {broken.sum()} of {len(said)} "
                "commands. The model's weights or its arithmetic overflow."
            )
        return SCAN_VOCABULARY.decode(said)

    def exact_match(self, sentences, batch_size=256):
        """The share of commands whose actions are right from the first to the last, length included.

        Args:
            sentences: `data.Sentences`.

        Raises:
            ValueError, NonFiniteError: as a call; if there are not as many commands as actions.
        """
        _check_pairs(sentences)
        found = self(sentences.commands, batch_size)
        return float(np.mean([one == other for one, other in zip(found, sentences.actions, strict=True)]))


def _check_pairs(sentences):
    commands, actions = map(len, sentences)
    if not commands or commands != actions:
        raise ValueError(
            "`sentences` must be commands, one at least, with the actions of each. Received: "
            f"{commands} commands and {actions} sentences of actions"
        )
