"""Losses: one float32 value per sample, whatever the policy, with memory linear in the batch."""

from star_keras.losses.neighbors import SoftNearestNeighbor, soft_nearest_neighbor
from star_keras.losses.nt_xent import NTXent
from star_keras.losses.routing import (
    expert_overlap,
    gate_entropy,
    importance_variation,
    load_balance,
    router_z,
)

__all__ = [
    "NTXent",
    "SoftNearestNeighbor",
    "expert_overlap",
    "gate_entropy",
    "importance_variation",
    "load_balance",
    "router_z",
    "soft_nearest_neighbor",
]
