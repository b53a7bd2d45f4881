"""What a router is trained for beside the task, as shares of a replica."""

from star_keras import backend, losses
from star_keras.guards.arguments import is_finite
from star_keras.layers import RoutedExperts
from star_keras.ops import global_mean

OF_GATES = ("load_balance", "gate_entropy", "importance_variation")
TERMS = (*OF_GATES, "router_z", "expert_overlap")


class RouterTerms:
    """The weighted terms of one `RoutedExperts` layer.

    Args:
        layers: of a model; exactly one of them, which is kept as `.layer`, routes experts.
        weights: `{term: factor}`, finite factors of either sign.

    Raises:
        ValueError: if there is no such term, a factor is no finite number, or not exactly one layer routes,
            or that has no routers.
    """

    def __init__(self, layers, weights):
        known = set(weights) <= set(TERMS)
        if not known or not all(is_finite(factor) for factor in weights.values()):
            raise ValueError(
                f"`router_weights` must give finite factors to some of {TERMS}. Received: {weights!r}"
            )
        found = [layer for layer in layers if isinstance(layer, RoutedExperts)]
        if len(found) != 1:
            raise ValueError(
                "`router_weights` is for a model with one `RoutedExperts` layer. "
                f"Received: a model with {len(found)}"
            )
        if "expert_overlap" in weights and found[0].experts is not None:
            raise ValueError(
                "The term `expert_overlap` compares kernels that `RoutedExperts` made itself. Received: own "
                "`experts`; leave the term out."
            )
        if found[0].routing != "learned" and set(weights) - {"expert_overlap"}:
            raise ValueError(
                "Terms of the gates train routers, and this layer has none. Received: "
                f"router_weights={weights!r} with routing={found[0].routing!r}"
            )
        self.layer, self.weights = found[0], dict(weights)

    def outputs(self, features):
        """What `shares` needs of a batch: gates, and logits where a term asks for them."""
        outputs = {"gates": self.layer.route(features)}
        if "router_z" in self.weights:
            outputs["router_logits"] = self.layer.router_logits(features)
        return outputs

    def shares(self, outputs):
        """`{term: scalar}`, without factors; those of all replicas sum to the value of the global batch."""
        return {term: self._share(term, outputs) for term in self.weights}

    def _share(self, term, outputs):
        function = getattr(losses, term)
        if term == "expert_overlap":
            stacks = [function(layer.kernel) for layer in self.layer.expert_layers]
            return sum(stacks) / (len(stacks) * backend.num_replicas())
        tasks = outputs["router_logits" if term == "router_z" else "gates"]
        tasks = list(tasks.values()) if isinstance(tasks, dict) else [tasks]
        values = [function(task) for task in tasks]
        return sum(global_mean(value) if len(value.shape) else value for value in values) / len(values)
