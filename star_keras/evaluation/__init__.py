"""What a backbone's features are worth: NumPy in, small result objects out."""

from star_keras.evaluation.baseline import untrained
from star_keras.evaluation.boxes import AveragePrecision, average_precision
from star_keras.evaluation.detector import DetectionResult, detection
from star_keras.evaluation.embeddings import extract_embeddings
from star_keras.evaluation.episodes import FewShotResult, few_shot
from star_keras.evaluation.equivariance import EquivarianceResult, equivariance_metrics
from star_keras.evaluation.features import extract_features
from star_keras.evaluation.probe import (
    LinearProbeResult,
    NearestNeighborResult,
    linear_probe,
    nearest_neighbors,
)
from star_keras.evaluation.redundancy import (
    CanonicalCorrelation,
    ExpertSimilarity,
    canonical_correlation,
    centered_kernel_alignment,
    expert_correlations,
    expert_similarity,
)
from star_keras.evaluation.reporting import Report, ReportSettings, report
from star_keras.evaluation.retrieval import Neighbors, nearest_images
from star_keras.evaluation.routing import RoutingReport, routing_report
from star_keras.evaluation.spread import effective_rank, embedding_spread
from star_keras.evaluation.statistics import PairedComparison, holm, paired_comparison

__all__ = [
    "AveragePrecision",
    "CanonicalCorrelation",
    "DetectionResult",
    "EquivarianceResult",
    "ExpertSimilarity",
    "FewShotResult",
    "LinearProbeResult",
    "NearestNeighborResult",
    "Neighbors",
    "PairedComparison",
    "Report",
    "ReportSettings",
    "RoutingReport",
    "average_precision",
    "canonical_correlation",
    "centered_kernel_alignment",
    "detection",
    "effective_rank",
    "embedding_spread",
    "equivariance_metrics",
    "expert_correlations",
    "expert_similarity",
    "extract_embeddings",
    "extract_features",
    "few_shot",
    "holm",
    "linear_probe",
    "nearest_images",
    "nearest_neighbors",
    "paired_comparison",
    "report",
    "routing_report",
    "untrained",
]
