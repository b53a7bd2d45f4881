"""Store a run after every epoch and go on where it stopped."""

import hashlib
import json
import logging
import os
import pathlib
import time
import uuid

import h5py
import keras
import numpy as np

from star_keras import backend
from star_keras.callbacks.every_epochs import RESUMED_LOGS
from star_keras.exceptions import NonFiniteError, ResumeError
from star_keras.files import sync
from star_keras.guards.arguments import check_count
from star_keras.guards.finite import nonfinite_layer

_FORMAT = 2  # 1 had its history in an attribute, which holds 64 KB
_HISTORY = "history"
_RANDOM_STATES = "random_states"
_LOGGER = logging.getLogger("star_keras")


class Resume(keras.callbacks.Callback):
    """Stores the run after every epoch and goes on from there when it is started again.

    The model must be built and compiled before `fit`. One file holds weights, optimizer, the states
    of all random generators, the epoch and the history; it is replaced as a whole, so a run that is
    killed at any moment finds the last finished epoch, and so does a `fit` that was interrupted and is
    called again. The order of the images is not stored but computed, by `batches`, from the seed and the
    epoch. What the run is made of is stored, too, and compared: optimizer and schedule (a plain learning
    rate may change), precision, replicas, images, batch size and seed. Put it behind the callbacks whose
    results its history is to keep. Equal to the last bit is a resumed run where the backend's kernels are:
    TensorFlow sums three or more gradients of one variable, as `STARPretraining` has them, in the
    order its threads finish, unless `tf.config.threading.set_inter_op_parallelism_threads(1)`.

    Args:
        folder: where the checkpoint lies; made when missing.
        every: number of epochs between two checkpoints. Defaults to 1. The last epoch is always
            stored.
        minutes: stop, resumably, before the epoch that would end later than this many minutes after
            the start. Defaults to None: run to the end.

    Attributes:
        epoch: number of epochs the stored run has finished, 0 for a new one: `fit`'s `initial_epoch`.
        history: logs of the finished epochs, a dict of lists.

    Raises:
        ValueError: if `every` is no positive whole number.
        ResumeError: if the folder holds something else than a checkpoint, or one of another model or run, or
            another process stores its run there, too: the first to find out stops.
        NonFiniteError: if the loss of an epoch or a weight after it is not finite; the previous checkpoint
            stays.

    Example:

    >>> import tempfile
    >>> images, labels = np.ones((8, 2)), np.ones((8, 1))
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("sgd", "mse")
    >>> resume = Resume(tempfile.mkdtemp())
    >>> batches = resume.batches((images, labels), batch_size=4, seed=0)
    >>> history = model.fit(
    ...     batches, epochs=2, initial_epoch=resume.epoch, shuffle=False, callbacks=[resume], verbose=0)
    >>> resume.epoch
    2
    """

    def __init__(self, folder, every=1, minutes=None):
        super().__init__()
        self.every = check_count("every", every)
        self.folder = pathlib.Path(folder)
        self.minutes = minutes
        self._writer = uuid.uuid4().hex
        self.epoch, self.history = self._read_position()
        self._stored = self.epoch
        self._longest = 0.0
        self._restored = self._in_epoch = False
        self._batches = None

    @property
    def path(self):
        """The checkpoint file."""
        return self.folder / "checkpoint.weights.h5"

    def batches(self, data, batch_size, seed=0):
        """The data as batches whose order is a function of `(seed, epoch)`.

        Pass `shuffle=False` to `fit`: by default it would shuffle the batches once more, in an order
        that cannot be repeated. Images that do not fill the last batch of an epoch are left out; each
        epoch leaves out others.

        Args:
            data: an array, or what `fit` takes for inputs and targets, such as `(images, labels)`: tuples,
                lists and dicts of arrays.
            batch_size: rows a batch, over all replicas.
            seed: integer. Defaults to 0.

        Returns:
            A `keras.utils.PyDataset`.

        Raises:
            ValueError: if arrays differ in length, or do not fill a batch.
            ResumeError: when a batch is asked for out of turn.
        """
        self._batches = _OrderedBatches(data, batch_size, seed, self.epoch)
        return self._batches

    def on_train_begin(self, logs=None):
        self._started = time.monotonic()
        self._longest = 0.0
        self._check_run()
        self._check_alone()
        if self._in_epoch:
            self._go_back()
        if self.epoch and not self._restored:
            self._restore()
        self._restored = True
        self.params[RESUMED_LOGS] = {name: values[-1] for name, values in self.history.items()}

    def _check_run(self):
        if not self.model.built:
            raise ResumeError(
                "A model must be built before `fit`, or no checkpoint can be read into it later. Received: "
                f"{self.model.name!r}, not built; call it once, or `model.build` with the shape of a batch."
            )
        if self._batches is not None and self.params.get("steps") not in (None, len(self._batches)):
            raise ResumeError(
                f"An epoch must be all {len(self._batches)} batches, or a resumed run sees other ones. "
                f"Received: {self.params['steps']} steps; leave `steps_per_epoch` out of `fit`."
            )

    def _go_back(self):
        """After a `fit` that was interrupted within an epoch the model is further than what is stored."""
        self.epoch, self.history = self._read_position()
        self._stored = self.epoch
        if not self.epoch:
            raise ResumeError(
                "A `fit` that was interrupted goes on from the last checkpoint. Received: an interruption "
                f"before there was one in {self.folder}; make the model and `Resume` again."
            )
        self._restored = self._in_epoch = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self.epoch:
            raise ResumeError(
                f"The run in {self.folder} has finished {self.epoch} epochs and goes on with epoch "
                f"{self.epoch}. Received: epoch {epoch}; pass `initial_epoch=resume.epoch` to `fit`, or "
                "another folder for a new run."
            )
        if self._batches is not None:
            self._batches.epoch = epoch + 1  # as `fit` counts, which ends an epoch before it begins the first
        self._epoch_started = time.monotonic()
        self._in_epoch = True

    def on_epoch_end(self, epoch, logs=None):
        logs = {name: np.asarray(value).tolist() for name, value in (logs or {}).items()}
        self._check_finite(epoch, logs.get("loss", 0.0))
        self.epoch, self._in_epoch = epoch + 1, False
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)
        if self.epoch % self.every == 0:
            self._store()
        if self._out_of_time() and self.epoch != self.params.get("epochs"):
            _LOGGER.warning("Paused after epoch %d: the time is used up; run again to go on.", self.epoch)
            self.model.stop_training = True

    def on_train_end(self, logs=None):
        if self.epoch != self._stored:
            self._store()

    def _check_finite(self, epoch, loss):
        layer = nonfinite_layer(self.model)
        if np.isfinite(loss) and layer is None:
            return
        found = f"loss={loss}" if layer is None else f"NaN or infinity in the layer {layer.name!r}"
        raise NonFiniteError(
            f"The loss of epoch {epoch} and the weights after it must be finite. Received: {found}. The "
            f"checkpoint of epoch {self.epoch} in {self.folder} was kept; look for NaN in the images, lower "
            "the learning rate or use float32."
        )

    def _out_of_time(self):
        if self.minutes is None:
            return False
        now = time.monotonic()
        self._longest = max(self._longest, now - self._epoch_started)
        return now - self._started + self._longest > 60 * self.minutes

    def _store(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".partial-{os.getpid()}.weights.h5"
        self._check_alone()
        try:
            self.model.save_weights(partial)
            with h5py.File(partial, "r+") as file:
                for number, state in enumerate(_random_states(self.model)):
                    file[f"{_RANDOM_STATES}/{number}"] = keras.ops.convert_to_numpy(state)
                file.attrs["star_keras_resume"] = _FORMAT
                file.attrs["epoch"] = self.epoch
                file[_HISTORY] = json.dumps(self.history)
                file.attrs["writer"] = self._writer
                file.attrs["run"] = json.dumps(self._run(), default=str)
            sync(partial)
            os.replace(partial, self.path)
            self._stored = self.epoch
        finally:
            partial.unlink(missing_ok=True)

    def _check_alone(self):
        if self._last_writer() not in (None, self._adopted, self._writer):
            raise ResumeError(
                f"One run at a time may store its checkpoints in {self.folder}. Received: a checkpoint that "
                "another process has stored since this run began; use another folder for one of them."
            )

    def _last_writer(self):
        """Whose the checkpoint is; None where there is none that can be read, so that none can be lost."""
        try:
            with h5py.File(self.path, "r") as file:
                return file.attrs.get("writer")
        except OSError:
            return None

    def _read_position(self):
        self._adopted = None
        if not self.path.exists():
            return 0, {}
        try:
            with h5py.File(self.path, "r") as file:
                version = int(file.attrs["star_keras_resume"])
                if version > _FORMAT:
                    raise ResumeError(
                        f"{self.path} must have format {_FORMAT} or older. Received: format {version}; "
                        "it was written by a newer star_keras."
                    )
                self._adopted = file.attrs.get("writer")
                history = file.attrs[_HISTORY] if version == 1 else file[_HISTORY].asstr()[()]
                return int(file.attrs["epoch"]), json.loads(history)
        except (OSError, KeyError, ValueError) as error:
            raise ResumeError(
                f"{self.path} must be a checkpoint of an earlier run. Received: a file that cannot be read "
                f"as one ({error}); remove it, or use another folder."
            ) from error

    def _restore(self):
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._compare_runs()
        try:
            self.model.load_weights(self.path)
            with h5py.File(self.path, "r") as file:
                for number, state in enumerate(_random_states(self.model)):
                    state.assign(file[f"{_RANDOM_STATES}/{number}"][...])
        except (ValueError, KeyError) as error:
            raise ResumeError(
                f"The checkpoint in {self.folder} must belong to this model and optimizer. "
                f"Received: another one ({error}); use another folder for a new run."
            ) from error
        layer = nonfinite_layer(self.model)
        if layer is not None:
            raise NonFiniteError(
                "A checkpoint must hold finite numbers. Received: NaN or infinity for the layer "
                f"{layer.name!r} in {self.path}; begin again in another folder."
            )

    def _run(self):
        """What must not change while a run goes on, by its name in messages."""
        run = {"precision": self.model.dtype_policy.name, "replicas": backend.num_replicas()}
        if self.model.optimizer is not None:
            run["optimizer"] = _without_rates(keras.optimizers.serialize(self.model.optimizer))
        return run | ({} if self._batches is None else self._batches.facts())

    def stored_run(self):
        """What the stored run is made of, such as its "precision", a dict; {} for a new one."""
        if not self.path.exists():
            return {}
        with h5py.File(self.path, "r") as file:
            return json.loads(file.attrs.get("run", "{}"))

    def _compare_runs(self):
        before = self.stored_run()
        now = json.loads(json.dumps(self._run(), default=str))
        changed = [
            f"{path} {value} in place of {old}"
            for name in before.keys() & now.keys()
            for path, value, old in _differences(name, now[name], before[name])
        ]
        if changed:
            raise ResumeError(
                f"The run in {self.folder} must go on as it began. Received: {'; '.join(sorted(changed))}. "
                f"Use another folder for a new run; `model.load_weights({str(self.path)!r})` lets it begin "
                "with these weights."
            )


def _random_states(model):
    """The variables that `save_weights` leaves out: where dropout, noise and drawn views go on."""
    stored = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in stored]


def _differences(path, now, before):
    """`(path, value, old value)` of what differs in two configurations."""
    if not (isinstance(now, dict) and isinstance(before, dict)):
        return [(path, now, before)] if now != before else []
    return [
        difference
        for name in [*now, *(before.keys() - now.keys())]
        for difference in _differences(f"{path}.{name}", now.get(name), before.get(name))
    ]


def _without_rates(config):
    """A configuration without its plain learning rates and names, which may change; schedules may not."""
    if not isinstance(config, dict):
        return config
    kept = {name: _without_rates(value) for name, value in config.items() if name != "name"}
    if isinstance(kept.get("learning_rate"), (int, float)):
        del kept["learning_rate"]
    return kept


class _OrderedBatches(keras.utils.PyDataset):
    """Batches in an order that depends on `(seed, epoch)` and on nothing else."""

    def __init__(self, data, batch_size, seed, epoch):
        super().__init__()
        self.data = data
        sizes = {len(rows) for rows in keras.tree.flatten(data)}
        if len(sizes) != 1:
            raise ValueError(f"All arrays of `data` must have the same length. Received: lengths {sizes}")
        self.rows = sizes.pop()
        if not 1 <= batch_size <= self.rows:
            raise ValueError(
                "`batch_size` must lie between 1 and the number of rows. "
                f"Received: batch_size={batch_size} for {self.rows} rows"
            )
        self.batch_size, self.seed, self.epoch = batch_size, seed, epoch
        self._order_epoch = None
        self._next = 0
        if self.rows % batch_size:
            _LOGGER.info("%d of %d rows are left out in each epoch.", self.rows % batch_size, self.rows)

    def __len__(self):
        return self.rows // self.batch_size

    def __getitem__(self, index):
        if index not in (0, self._next):
            raise ResumeError(
                "The batches must be read in their own order, or a resumed run sees another one. "
                f"Received: batch {index} where {self._next} was due; pass `shuffle=False` to `fit`."
            )
        self._next = index + 1
        if self._order_epoch != self.epoch:
            self._order = np.random.default_rng((self.seed, self.epoch)).permutation(self.rows)
            self._order_epoch = self.epoch
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.data)

    def on_epoch_end(self):
        self.epoch += 1

    def facts(self):
        """What makes the batches what they are; of the data their number and a few rows."""
        digest = hashlib.sha256()
        for array in keras.tree.flatten(self.data):
            rows = np.linspace(0, self.rows - 1, 64).astype(int)
            digest.update(np.ascontiguousarray(array[rows]).tobytes())
        images = f"{self.rows} of digest {digest.hexdigest()[:8]}"
        return {"images": images, "batch size": int(self.batch_size), "seed": int(self.seed)}
