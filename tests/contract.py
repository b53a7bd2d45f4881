"""What a case of the contract is: `contract_cases.py` has one for each public class."""

import importlib
import importlib.util
from dataclasses import dataclass, field

import keras
import numpy as np

NAMESPACES = (
    *("layers", "losses", "metrics", "augmentation", "models", "training"),
    *(f"applications.{name}" for name in ("control", "language", "scan", "zero_shot")),
)
KERAS = (keras.layers.Layer, keras.losses.Loss, keras.metrics.Metric)
ABSTRACT = {"augmentation.Augmentation"}
CASES = {}


@dataclass(frozen=True)
class Case:
    """How to make one public object and what to give it.

    Attributes:
        path: name below `star_keras`, such as `"layers.Projector"`.
        arguments: what the user passes, a dict or a function that makes one.
        inputs: functions of a NumPy generator, one for each positional argument of the call; each makes
            an array or, for a model, a dict of arrays.
        name: name of the case, where a class has several.
        call: `(object, *inputs) -> tensors`, where it is not the object's own call. Such an object is
            not put into a functional model.
        targets: function of a NumPy generator, the labels of a training model.
        compile: arguments of `compile` beside the optimizer.
        same_everywhere: whether all backends compute the same; False where random numbers are drawn.
    """

    path: str
    arguments: object = field(default_factory=dict)
    inputs: tuple = ()
    name: str = ""
    call: object = None
    targets: object = None
    compile: dict = field(default_factory=dict)
    same_everywhere: bool = True

    @property
    def owner(self):
        """The class, or the function that makes the object."""
        module, name = self.path.rsplit(".", 1)
        return getattr(importlib.import_module(f"star_keras.{module}"), name)

    @property
    def kind(self):
        if self.call is not None:
            return "function"
        if not isinstance(self.owner, type):
            return "model"
        bases = {"loss": keras.Loss, "metric": keras.Metric, "model": keras.Model, "layer": keras.Layer}
        return next(kind for kind, base in bases.items() if issubclass(self.owner, base))

    @property
    def user_arguments(self):
        return self.arguments() if callable(self.arguments) else dict(self.arguments)

    def make(self):
        """The object, unbuilt, with random weights."""
        return self.owner(**self.user_arguments)

    def arrays(self):
        """The inputs, the same in every process."""
        return [make(np.random.default_rng(index)) for index, make in enumerate(self.inputs)]

    def shapes(self):
        """The shapes of the inputs; a structure of them where an input is one."""
        return [keras.tree.map_structure(lambda array: array.shape, inputs) for inputs in self.arrays()]

    def labels(self):
        return None if self.targets is None else self.targets(np.random.default_rng(99))

    def run(self, instance, *arrays, **kwargs):
        """What the object computes, as a structure of tensors."""
        if self.call is not None:
            return self.call(instance, *arrays)
        if self.kind == "loss":
            return {"rows": instance.call(*arrays), "value": instance(*arrays)}
        if self.kind == "metric":
            instance.update_state(*arrays)
            return instance.result()
        return instance(*arrays, **kwargs)

    def model(self, instance=None):
        """The object as a Keras model: itself, or a functional model around a layer."""
        instance = self.make() if instance is None else instance
        if self.kind == "model":
            if not instance.built:
                instance.build(*self.shapes())
            return instance
        inputs = [keras.Input(array.shape[1:], dtype=str(array.dtype)) for array in self.arrays()]
        return keras.Model(inputs if len(inputs) > 1 else inputs[0], instance(*inputs))

    def model_inputs(self):
        arrays = self.arrays()
        return arrays if len(arrays) > 1 else arrays[0]

    def train_one_step(self, model, **compile_arguments):
        """Compiles the model and takes one step of plain gradient descent; returns the loss."""
        arguments = {"optimizer": keras.optimizers.SGD(0.05), **self.compile, **compile_arguments}
        inputs, labels = self.model_inputs(), self.labels()
        trains_itself = self.path.startswith("training.")
        if not trains_itself and "loss" not in arguments:
            labels = keras.tree.map_structure(
                lambda output: np.zeros(output.shape, "float32"), model(inputs, training=False)
            )
            arguments["loss"] = keras.tree.map_structure(lambda _: "mse", labels)
        model.compile(**arguments)
        return float(np.sum(model.train_on_batch(inputs, labels)))


def case(path, arguments=None, inputs=(), **options):
    """Registers a case; the first one of a class is called by its path."""
    new = Case(path, {} if arguments is None else arguments, tuple(inputs), **options)
    identity = path if not new.name else f"{path}-{new.name}"
    if identity in CASES:
        raise ValueError(f"Two cases of one name: give the second a `name`. Received: {identity}")
    CASES[identity] = new


def floats(*shape):
    """Standard normal numbers."""
    return lambda rng: rng.normal(size=shape).astype("float32")


def integers(*shape, high):
    """Whole numbers in [0, high)."""
    return lambda rng: rng.integers(0, high, shape).astype("int32")


def images(*shape):
    """Pixels in [0, 255]."""
    return lambda rng: rng.integers(0, 256, shape).astype("uint8")


def exists(path):
    """Whether the module of a case has been written."""
    return importlib.util.find_spec(f"star_keras.{path.rsplit('.', 1)[0]}") is not None


def public_classes():
    """Paths of all public Keras classes of the package."""
    paths = []
    for namespace in filter(lambda name: exists(f"{name}.any"), NAMESPACES):
        module = importlib.import_module(f"star_keras.{namespace}")
        names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for name in names:
            value = getattr(module, name)
            own = isinstance(value, type) and value.__module__.startswith(module.__name__)
            if own and issubclass(value, KERAS):
                paths.append(f"{namespace}.{name}")
    return paths
