"""Experts that several tasks share, and the routers that weigh them."""

import math

import keras
from keras import ops

from star_keras.guards.arguments import (
    check_choice,
    check_count,
    check_features,
    check_range,
    check_width,
    check_widths,
    freeze_parts,
)
from star_keras.layers import gates as gating
from star_keras.layers.batch_normalization import BatchNormalization
from star_keras.layers.initialization import read_initializer, serialize_initializer
from star_keras.layers.stacked_dense import StackedDense

ROUTINGS = ("learned", "shared", "separate")


@keras.saving.register_keras_serializable(package="star_keras")
class RoutedExperts(keras.layers.Layer):
    """Mixes shared experts into one embedding per task.

    Every expert sees every sample; each task has a router that weighs them, so tasks may share an
    expert or keep one to themselves:

    `outputs[task] = sum_e(gates[task][e] * experts[e](inputs))`,
    `gates[task] = softmax(routers[task](inputs))`.

    All experts have the shape of one `Projector`, unless you pass your own. The kernels of a layer are
    one stack `(num_experts, inputs, outputs)`, so that the graph does not grow with the number of
    experts; each expert is initialised, and batch-normalised, as if it stood alone. Routers, softmax
    and mixture are computed in float32 whatever the dtype policy; gates stay float32, embeddings are
    returned in the policy's compute dtype.

    Args:
        units: width of the outputs.
        num_experts: number of experts. One expert is a plain head: it has no router, its gate is 1.
        tasks: distinct names, one per embedding, such as `("invariant", "equivariant")`. Defaults to
            `None`: one embedding, returned as a tensor instead of a dict.
        hidden_units: widths of the hidden layers of each expert. Defaults to `()`, linear experts.
        router_units: widths of the hidden layers (with ReLU) of each router. Defaults to `()`, linear
            routers.
        routing: `"learned"` (the default), by routers; `"shared"`, one expert for each task and a last
            one for all, summed with gates of one; `"separate"`, one expert for each task. The latter
            two have no routers.
        batch_norm: whether hidden layers of the experts are normalised (momentum 0.9, epsilon 1e-5)
            instead of having a bias. Defaults to `True`.
        top_k: number of largest gates that are kept, and divided by their sum, for each sample; the
            others become zero; of equal gates the first are kept. All experts are still computed.
            Defaults to `None`, all.
        kernel_initializer, bias_initializer: initial law of experts and routers: `"torch"` (the
            default), U(-b, b) with b = 1 / sqrt(fan_in), or any Keras initializer. Drawn expert by
            expert: experts differ even when the initializer has a seed.
        router_temperature: number, at least 1e-6, that divides the routers' logits. Above 1 gates are more
            alike, below 1 more decided. Defaults to 1.0.
        router_noise: standard deviation of the normal noise added to the logits while training.
            Defaults to 0.0.
        expert_dropout: probability, below 1, with which a sample does without an expert while training;
            the gates that remain are divided by their sum. Defaults to 0.0.
        experts: `num_experts` layers of your own, each from `(batch, features)` to `(batch, units)`, in
            place of those that `hidden_units` describes. They run one after the other. Defaults to `None`.
        seed: integer for noise and dropout. Defaults to `None`, random.
        **kwargs: `name`, `dtype` and `trainable`, as for any Keras layer.

    Call arguments:
        inputs: `(batch, features)`.
        training: whether experts are normalised by the batch, and routers have noise and dropout.
        expert_mask: optional bool array `(num_experts,)` or `(batch, num_experts)`, True for experts that
            may be used: the gates of the others are 0. Where none may be used, all are.

    Input shape:
        `(batch, features)`.

    Output shape:
        `{task: (batch, units)}`, or `(batch, units)` when `tasks` is `None`.

    Raises:
        ValueError: if a width or number is not a positive whole number, names of tasks repeat,
            `routing` is unknown or does not go with the number of experts, `top_k` is greater than
            the number of experts, own experts have another number or width, the inputs are not of
            rank 2, or there is an `expert_mask` without routers or of another shape.

    Example:

    >>> import numpy as np
    >>> features = np.ones((4, 512), "float32")
    >>> experts = RoutedExperts(128, num_experts=8, tasks=("invariant", "equivariant"), hidden_units=(64,))
    >>> {task: tuple(embedding.shape) for task, embedding in experts(features).items()}
    {'invariant': (4, 128), 'equivariant': (4, 128)}
    >>> tuple(experts.route(features)["invariant"].shape)
    (4, 8)

    Reference:
        Jeon et al., Soft Task-Aware Routing of Experts for Equivariant Representation Learning
        (NeurIPS 2025); Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
        Mixture-of-Experts (KDD 2018), section 4.
    """

    def __init__(
        self,
        units,
        num_experts,
        tasks=None,
        hidden_units=(),
        router_units=(),
        routing="learned",
        batch_norm=True,
        top_k=None,
        kernel_initializer="torch",
        bias_initializer="torch",
        router_temperature=1.0,
        router_noise=0.0,
        expert_dropout=0.0,
        experts=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.units = check_count("units", units)
        self.num_experts = check_count("num_experts", num_experts)
        self.tasks = _check_tasks(tasks)
        self.hidden_units = check_widths("hidden_units", hidden_units)
        self.router_units = check_widths("router_units", router_units)
        self.routing = routing
        self.batch_norm = bool(batch_norm)
        self.top_k = None if top_k is None else check_count("top_k", top_k)
        self.kernel_initializer = read_initializer("kernel_initializer", kernel_initializer)
        self.bias_initializer = read_initializer("bias_initializer", bias_initializer)
        self.router_temperature = check_range("router_temperature", router_temperature, 1e-6, math.inf)
        self.router_noise = check_range("router_noise", router_noise, 0, math.inf)
        self.expert_dropout = check_range("expert_dropout", expert_dropout, 0, 1)
        self.experts = None if experts is None else list(experts)
        self.seed = seed
        if router_noise or expert_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)
        self._check_routing()
        self._check_experts()
        self.expert_layers = []
        self.normalizations = []
        self.router_layers = []

    def build(self, input_shape):
        check_features(self, "inputs", input_shape)
        if self.experts is None:
            self._build_experts(tuple(input_shape))
        else:
            self._build_own_experts(tuple(input_shape))
        if self.routing == "learned" and self.num_experts > 1:
            self._build_routers(tuple(input_shape))
        self.input_spec = keras.InputSpec(ndim=2, axes={-1: input_shape[-1]})
        freeze_parts(self)

    def _build_experts(self, shape):
        for depth, units in enumerate((*self.hidden_units, self.units)):
            normalized = self.batch_norm and depth < len(self.hidden_units)
            layer = self._stack(self.num_experts, units, depth, not normalized, self.dtype_policy)
            layer.build(shape)
            self.expert_layers.append(layer)
            shape = (self.num_experts, None, units)
            if normalized:
                normalization = BatchNormalization(momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy)
                normalization.build((None, self.num_experts * units))
                self.normalizations.append(normalization)

    def _build_own_experts(self, shape):
        for expert in self.experts:
            if not expert.built:
                expert.build(shape)
            outputs = tuple(expert.compute_output_shape(shape))
            if outputs != (shape[0], self.units):
                raise ValueError(
                    f"Each of `experts` must map {shape} to (batch, units). Received: an output of shape "
                    f"{outputs} of {expert.name!r} with units={self.units}"
                )

    def _build_routers(self, shape):
        num_tasks = len(self.tasks or (None,))
        for depth, units in enumerate((*self.router_units, self.num_experts)):
            # Depths go on after those of the experts: one seed must not start both alike.
            layer = self._stack(num_tasks, units, len(self.hidden_units) + 1 + depth, True, "float32")
            layer.build(shape)
            self.router_layers.append(layer)
            shape = (num_tasks, None, units)

    def _stack(self, members, units, depth, use_bias, dtype):
        return StackedDense(
            members,
            units,
            use_bias=use_bias,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            depth=depth,
            dtype=dtype,
        )

    def call(self, inputs, training=None, expert_mask=None):
        experts = ops.cast(self.expert_outputs(inputs, training), "float32")
        gates = self._gates(inputs, training, expert_mask)
        if expert_mask is not None or self.top_k is not None or (training and self.expert_dropout):
            experts = gating.leave_out(experts, gates)
        mixtures = ops.matmul(gates, experts)
        return self._by_task(ops.cast(mixtures, self.compute_dtype))

    def route(self, inputs, expert_mask=None):
        """The gates that `call` uses outside training: how much each task takes of each expert.

        Args:
            inputs: `(batch, features)`.
            expert_mask: as in the call.

        Returns:
            `{task: (batch, num_experts)}`, or one tensor when `tasks` is `None`; float32. Routers give
            positive gates that sum to one, zero where `top_k` or `expert_mask` leave an expert out. Without
            routers gates are zeros and ones: one 1 in each row, two with `routing="shared"`.
        """
        self._build_for(inputs)
        return self._by_task(self._gates(inputs, False, expert_mask))

    def router_logits(self, inputs):
        """What the softmax of the routers is taken of, without noise: see `losses.router_z`.

        Args:
            inputs: `(batch, features)`.

        Returns:
            As `route`, of the same structure and shapes.

        Raises:
            ValueError: if the layer has no routers.
        """
        self._build_for(inputs)
        if not self.router_layers:
            raise ValueError(
                "Only learned routing of two experts or more has logits. Received: "
                f"routing={self.routing!r}, num_experts={self.num_experts}"
            )
        return self._by_task(self._logits(inputs))

    def expert_outputs(self, inputs, training=None):
        """What each expert makes of the inputs, before the mixture.

        Args:
            inputs: `(batch, features)`.
            training: whether batch normalisation uses, and notes, the statistics of the batch.

        Returns:
            `(batch, num_experts, units)` in the compute dtype.
        """
        self._build_for(inputs)
        if self.experts is not None:
            outputs = [expert(inputs, training=training) for expert in self.experts]
            return ops.cast(ops.stack(outputs, axis=1), self.compute_dtype)
        outputs = ops.cast(inputs, self.compute_dtype)
        for index in range(len(self.hidden_units)):
            outputs = self.expert_layers[index](outputs)
            if self.batch_norm:
                outputs = self._normalize(self.normalizations[index], outputs, training)
            outputs = ops.relu(outputs)
        return ops.transpose(self.expert_layers[-1](outputs), (1, 0, 2))

    def _normalize(self, normalization, inputs, training):
        """Normalises each expert's columns: `(num_experts, batch, width)` in and out."""
        experts, _, width = inputs.shape
        rows = ops.reshape(ops.transpose(inputs, (1, 0, 2)), (-1, experts * width))
        rows = normalization(rows, training=training)
        return ops.transpose(ops.reshape(rows, (-1, experts, width)), (1, 0, 2))

    def _gates(self, inputs, training, expert_mask):
        """Gates of all tasks in float32, `(batch, tasks, num_experts)`."""
        if not self.router_layers:
            if expert_mask is not None and self.num_experts > 1:
                raise ValueError(
                    "Routers leave out the experts that `expert_mask` forbids, and this layer has none. "
                    f"Received: `expert_mask` with routing={self.routing!r}"
                )
            return self._constant_gates(inputs)
        logits = self._logits(inputs)
        if training and self.router_noise:
            logits = gating.add_noise(logits, self.router_noise, self.seed_generator)
        if expert_mask is not None:
            logits = gating.allow(logits, expert_mask)
        if training and self.expert_dropout:
            logits = gating.drop_experts(logits, self.expert_dropout, self.seed_generator)
        gates = ops.softmax(logits, axis=-1)
        return gates if self.top_k is None else gating.keep_largest(gates, self.top_k)

    def _logits(self, inputs):
        """Logits of all routers over the temperature, float32, `(batch, tasks, num_experts)`."""
        logits = ops.cast(inputs, "float32")
        for layer in self.router_layers[:-1]:
            logits = ops.relu(layer(logits))
        logits = ops.transpose(self.router_layers[-1](logits), (1, 0, 2))
        return logits if self.router_temperature == 1 else logits / self.router_temperature

    def _constant_gates(self, inputs):
        num_tasks = len(self.tasks or (None,))
        gates = ops.eye(num_tasks, self.num_experts, dtype="float32")
        if self.routing == "learned":
            gates = ops.ones((num_tasks, 1), dtype="float32")
        if self.routing == "shared":
            gates = gates + ops.one_hot(num_tasks, self.num_experts, dtype="float32")
        return gates + ops.zeros_like(ops.expand_dims(inputs[:, :1], 1), dtype="float32")

    def _by_task(self, stack):
        """Splits the axis of tasks, the second, into the structure that `call` and `route` return."""
        if self.tasks is None:
            return stack[:, 0]
        return {task: stack[:, index] for index, task in enumerate(self.tasks)}

    def _build_for(self, inputs):
        if self.built:
            check_width(self, "inputs", inputs.shape, self.input_spec.axes[-1])
        else:
            self.build(tuple(inputs.shape))

    def compute_output_shape(self, input_shape):
        shape = (input_shape[0], self.units)
        return shape if self.tasks is None else dict.fromkeys(self.tasks, shape)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "num_experts": self.num_experts,
            "tasks": self.tasks,
            "hidden_units": self.hidden_units,
            "router_units": self.router_units,
            "routing": self.routing,
            "batch_norm": self.batch_norm,
            "top_k": self.top_k,
            "kernel_initializer": serialize_initializer(self.kernel_initializer),
            "bias_initializer": serialize_initializer(self.bias_initializer),
            "router_temperature": self.router_temperature,
            "router_noise": self.router_noise,
            "expert_dropout": self.expert_dropout,
            "experts": keras.saving.serialize_keras_object(self.experts),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        experts = keras.saving.deserialize_keras_object(config.get("experts"))
        return cls(**{**config, "experts": experts})

    def _check_routing(self):
        check_choice("routing", self.routing, ROUTINGS)
        if self.top_k is not None and self.top_k > self.num_experts:
            raise ValueError(
                "`top_k` gates are kept of `num_experts`, so it cannot be greater. "
                f"Received: top_k={self.top_k}, num_experts={self.num_experts}"
            )
        if self.routing == "learned":
            return
        needed = len(self.tasks or ()) + (self.routing == "shared")
        if self.tasks is None or self.num_experts != needed:
            count = "len(tasks) + 1" if self.routing == "shared" else "len(tasks)"
            raise ValueError(
                f"`routing='{self.routing}'` needs named `tasks` and num_experts = {count}. "
                f"Received: tasks={self.tasks}, num_experts={self.num_experts}"
            )
        if self.top_k is not None or self.router_units or self.router_noise or self.expert_dropout:
            raise ValueError(
                f"`routing='{self.routing}'` has constant gates: leave out `top_k`, `router_units`, "
                f"`router_noise` and `expert_dropout`. Received: top_k={self.top_k}, "
                f"router_units={self.router_units}, router_noise={self.router_noise}, "
                f"expert_dropout={self.expert_dropout}"
            )

    def _check_experts(self):
        if self.experts is None:
            return
        layers = all(isinstance(expert, keras.layers.Layer) for expert in self.experts)
        distinct = len({id(expert) for expert in self.experts}) == self.num_experts == len(self.experts)
        if not layers or not distinct or self.hidden_units:
            raise ValueError(
                "`experts` must be `num_experts` different layers, without `hidden_units`. Received: "
                f"{len(self.experts)} experts, num_experts={self.num_experts}, "
                f"hidden_units={self.hidden_units}, experts={self.experts}"
            )


def _check_tasks(tasks):
    """`tasks` as a tuple of distinct names, or None."""
    if tasks is None:
        return None
    names = tuple(tasks) if isinstance(tasks, (tuple, list)) else ()
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "`tasks` must be distinct names, one per embedding, such as ('invariant', 'equivariant'), "
            f"or None for a single embedding. Received: tasks={tasks!r}"
        )
    return names
