"""SCAN: commands such as "jump twice", the actions they ask for, and the tokens both are made of."""

import io
import itertools
import pathlib
import typing
import zipfile

import numpy as np

from star_keras.data import data_folder
from star_keras.exceptions import IntegrityError
from star_keras.guards.arguments import check_choice

FILE = "scan.zip"
TASKS = {
    "add_jump": "add_prim_split/tasks_{split}_addprim_jump.txt",
    "around_right": "template_split/tasks_{split}_template_around_right.txt",
}
SPLITS = ("train", "test")
PADDING, START, END = range(3)
MARKS = ("<padding>", "<start>", "<end>")


class Sentences(typing.NamedTuple):
    """One split of a task: `commands[i]` asks for `actions[i]`, both words with spaces between.

    Example:

    >>> Sentences(["jump", "run", "walk"], ["I_JUMP", "I_RUN", "I_WALK"]).pick([2, 0])
    Sentences(commands=['walk', 'jump'], actions=['I_WALK', 'I_JUMP'])
    """

    commands: list
    actions: list

    def pick(self, rows):
        """The pairs of these rows, in the order of `rows`."""
        return Sentences(*([column[row] for row in rows] for column in self))


class Vocabulary:
    """Tokens of commands and of actions in one numbering, so that one group can move both.

    Token 0 is padding, 1 the start and 2 the end of a sentence of actions; then come the words of
    commands, then those of actions.

    Args:
        commands: words of commands.
        actions: words of actions.

    Attributes:
        commands, actions: as above, tuples.
        words: all words by their token.
        size: number of tokens.

    Raises:
        ValueError: if a word occurs twice.

    Example:

    >>> vocabulary = Vocabulary(["jump", "twice"], ["JUMP"])
    >>> vocabulary.encode_commands(["jump twice", "jump"], length=3)
    array([[3, 4, 0],
           [3, 0, 0]], dtype=int32)
    >>> tokens = vocabulary.encode_actions(["JUMP JUMP"], length=3)
    >>> tokens
    array([[1, 5, 5, 2, 0]], dtype=int32)
    >>> vocabulary.decode(tokens)
    ['JUMP JUMP']
    """

    def __init__(self, commands, actions):
        self.commands, self.actions = tuple(commands), tuple(actions)
        self.words = (*MARKS, *self.commands, *self.actions)
        self.size = len(self.words)
        self._tokens = {word: token for token, word in enumerate(self.words)}
        if len(self._tokens) < self.size:
            twice = next(word for word in self.words if self.words.count(word) > 1)
            raise ValueError(f"Every word must have one token. Received: {twice!r} more than once.")

    def __repr__(self):
        return f"Vocabulary({len(self.commands)} words of commands, {len(self.actions)} of actions)"

    def tokens(self, words):
        """The tokens of a list of words.

        Raises:
            ValueError: if a word is not in the vocabulary.
        """
        return [self._token(word, self.words[len(MARKS) :]) for word in words]

    def encode_commands(self, sentences, length):
        """Commands as int32 tokens `(sentences, length)`, padded at the end.

        Args:
            sentences: list of strings.
            length: greatest number of words.

        Raises:
            ValueError: if a sentence is empty, longer than `length`, or has a word that is none of commands.
        """
        rows = [self._encode(sentence, self.commands, length) for sentence in _listed(sentences)]
        return _padded(rows, length)

    def encode_actions(self, sentences, length):
        """Actions as int32 tokens `(sentences, length + 2)`, between a start and an end, then padded.

        All but the last column are what a decoder reads, all but the first what it is to say.

        Args:
            sentences: list of strings.
            length: greatest number of words.

        Raises:
            ValueError: if a sentence is empty, longer than `length`, or has a word that is none of actions.
        """
        rows = [self._encode(sentence, self.actions, length) for sentence in _listed(sentences)]
        return _padded([[START, *row, END] for row in rows], length + len((START, END)))

    def decode(self, tokens):
        """Sentences of tokens `(sentences, length)`: what comes before the end, without padding and start.

        Raises:
            ValueError: if a token is none of the vocabulary.
        """
        tokens = np.asarray(tokens)
        if tokens.size and not 0 <= tokens.min() <= tokens.max() < self.size:
            raise ValueError(
                f"Tokens must lie in 0 .. {self.size - 1}. Received: tokens from {tokens.min()} "
                f"to {tokens.max()}"
            )
        return [" ".join(self._words(row.tolist())) for row in tokens]

    def _words(self, row):
        until = row.index(END) if END in row else len(row)
        return [self.words[token] for token in row[:until] if token not in (PADDING, START)]

    def _encode(self, sentence, known, length):
        words = sentence.split()
        if not 1 <= len(words) <= length:
            raise ValueError(
                f"A sentence must have 1 to {length} words. Received: {len(words)} words, {sentence[:80]!r}. "
                "A model decodes nothing longer than it was trained on."
            )
        return [self._token(word, known) for word in words]

    def _token(self, word, known):
        if word not in known:
            raise ValueError(f"Every word must be one of {', '.join(known)}. Received: {word!r}")
        return self._tokens[word]


SCAN_VOCABULARY = Vocabulary(
    "after and around jump left look opposite right run thrice turn twice walk".split(),
    "I_JUMP I_LOOK I_RUN I_TURN_LEFT I_TURN_RIGHT I_WALK".split(),
)


def load_scan(task, split="train", file=None):
    """Commands and actions of one task of SCAN.

    "add_jump" has the word "jump" in training only as the whole command, and tests all others with it;
    "around_right" has no "around right" in training, and tests all commands with it.

    Args:
        task: "add_jump" or "around_right".
        split: "train" (default) or "test".
        file: path of `scan.zip`. Defaults to the one in the folder named by `STAR_KERAS_DATA`.

    Returns:
        `Sentences`: `commands` and `actions`, lists of strings of one length; words of both are those of
        `SCAN_VOCABULARY`, at most 9 in a command and 48 in its actions.

    Raises:
        ValueError: if there is no such task or split, or a line is no command with actions.
        FileNotFoundError: if there is no such file.
        IntegrityError: if the file is not whole.

    Reference: Lake and Baroni, "Generalization without Systematicity" (ICML 2018); Loula, Baroni and Lake,
    "Rearranging the Familiar" (2018).
    """
    check_choice("task", task, tuple(TASKS))
    check_choice("split", split, SPLITS)
    path = _find(file)
    member = f"scan/{TASKS[task].format(split=split)}"
    try:
        with zipfile.ZipFile(path) as archive:
            lines = io.StringIO(archive.read(member).decode()).read().splitlines()
    except (zipfile.BadZipFile, KeyError, EOFError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} must be a whole {FILE}. Received: {error}; copy it again.") from error
    pairs = [_parse(line, member) for line in lines if line.strip()]
    return Sentences(*map(list, zip(*pairs, strict=True)))


def scan_sentences():
    """All 20,910 commands of SCAN with their actions, made from its grammar: no file is needed.

    One phrase, such as "walk", "jump left", "turn opposite right" or "run around left", perhaps "twice" or
    "thrice"; or two of these, joined by "and" or by "after", which asks for the second first.

    Returns:
        `Sentences`.

    Example:

    >>> sentences = scan_sentences()
    >>> len(sentences.commands), sentences.commands[75], sentences.actions[75]
    (20910, 'jump opposite right', 'I_TURN_RIGHT I_TURN_RIGHT I_JUMP')

    Reference: Lake and Baroni, "Generalization without Systematicity" (ICML 2018), supplement.
    """
    ways = ["", *(f"{way}{side}" for way in (" ", " opposite ", " around ") for side in ("left", "right"))]
    phrases = [verb + way for verb in ("walk", "look", "run", "jump", "turn") for way in ways]
    phrases.remove("turn")
    single = {
        f"{phrase}{times}": _act(phrase) * count
        for phrase in phrases
        for count, times in enumerate(("", " twice", " thrice"), start=1)
    }
    found = dict(single)
    for first, second in itertools.product(single, repeat=2):
        found[f"{first} and {second}"] = single[first] + single[second]
        found[f"{first} after {second}"] = single[second] + single[first]
    return Sentences(list(found), [" ".join(actions) for actions in found.values()])


def _act(phrase):
    """The actions of a verb and its direction."""
    verb, *way = phrase.split()
    act = [] if verb == "turn" else [f"I_{verb.upper()}"]
    if not way:
        return act
    turn = [f"I_TURN_{way[-1].upper()}"]
    return {"opposite": turn * 2 + act, "around": (turn + act) * 4}.get(way[0], turn + act)


def _find(file):
    folder = data_folder.folder()
    path = pathlib.Path(file) if file is not None else folder and folder / FILE
    if path is None or not path.is_file():
        where = f"no such file as {path}" if path else f"{data_folder.VARIABLE} names no folder"
        raise FileNotFoundError(
            f"SCAN is read from {FILE} in the folder named by {data_folder.VARIABLE}, or from `file`. "
            f"Received: {where}. Its texts are those of github.com/brendenlake/SCAN, below a folder `scan/`; "
            "README, Data, has the commands."
        )
    return path


def _parse(line, member):
    command, _, actions = line.removeprefix("IN:").partition("OUT:")
    if not line.startswith("IN:") or not command.strip() or not actions.strip():
        raise ValueError(f"Lines of {member} must be `IN: ... OUT: ...`. Received: {line[:80]!r}")
    return command.strip(), actions.strip()


def _listed(sentences):
    if isinstance(sentences, str):
        raise ValueError(f"`sentences` must be a list of strings. Received: one string, {sentences[:80]!r}")
    return sentences


def _padded(rows, length):
    tokens = np.full((len(rows), length), PADDING, "int32")
    for row, words in zip(tokens, rows, strict=True):
        row[: len(words)] = words
    return tokens
