"""The methods that evidence compares, and what it says of the paper's orderings, on rows made by hand."""

import importlib
import pathlib

import numpy as np
import pytest

EVIDENCE = pathlib.Path(__file__).parent.parent / "examples" / "evidence"
# The higher the better a method is, by the paper.
RANKS = {"simclr": 0, "equivariance": 0, "direct": 3, "separate": 3, "shared": 4}
RANKS |= {"star 2": 4, "star 4": 4.2, "star 8": 4.5, "star 16": 4.7}
RATIOS = [0.95, 0.1, 0.05, 0.3, 0.02, 0.4, 0.1, 1.0]


@pytest.fixture(scope="module")
def evidence():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EVIDENCE))
        yield importlib.import_module


def made_up(method, seed):
    """A row in which all is as the paper has it."""
    value = RANKS[method] / 10 + seed / 100
    better = ("probe", "transfer", "one_shot", "five_shots", "mrr", "r2", "own_mrr", "own_gain", "ap")
    row = {"method": method, "seed": seed, **dict.fromkeys(better, value)}
    row |= dict.fromkeys(("error", "own_error", "tasks"), 1 - value)
    row |= {"sets": {"one": value, "two": value + 0.1}, "floors": {"mrr": 0.1, "error": 1.0, "one": 0.05}}
    row["neighbors"] = {"indices": [[1], [2]], "similarities": [[0.9], [0.8]], "queries": [0, 3]}
    if method.startswith("star"):
        gates = {"invariant": [0.125] * 8, "equivariant": [0.125] * 8}
        order = dict(order=list(range(8)), entropies={"invariant": 2.0, "equivariant": 2.0}, samples=5)
        row |= {"experts": 1 - value, "raw": {"experts": [0.3, 0.1]}, "expert_matrix": np.eye(8).tolist()}
        row["routing"] = {"gates": gates, "ratios": RATIOS, "roles": ["shared"] * 7 + ["unused"], **order}
    return row


def rows(seeds=(0, 1, 2)):
    return [made_up(method, seed) for seed in seeds for method in RANKS]


def verdicts(report, capsys, found, detected):
    report.print_orderings(report.orderings(found, detected))
    lines = capsys.readouterr().out.splitlines()
    return [line.rpartition(": ")[2] for line in lines if line[:1].isdigit()]


def test_what_the_paper_has_is_confirmed_each_ordering_by_itself(evidence, capsys):
    report = evidence("comparison_report")
    assert verdicts(report, capsys, rows(), rows()) == ["confirmed"] * 5


@pytest.mark.parametrize(
    ("ordering", "change"),
    [
        (1, lambda row: {"transfer": row["transfer"] + (row["method"] == "direct")}),
        (2, lambda row: {"error": row["error"] - (row["method"] == "separate")}),
        (3, lambda row: {"tasks": 1 - row["tasks"]}),
        (4, lambda row: {"routing": {"ratios": [0.5] * 8, "roles": ["shared"] * 8}}),
        (5, lambda row: {"ap": -row["ap"]}),
    ],
)
def test_what_contradicts_one_ordering_changes_its_verdict_alone(ordering, change, evidence, capsys):
    found = [row | change(row) for row in rows()]
    expected = ["confirmed"] * 5
    expected[ordering - 1] = "not confirmed"
    assert verdicts(evidence("comparison_report"), capsys, found, found) == expected


def test_noise_and_missing_runs_are_told_as_such(evidence, capsys):
    report, found = evidence("comparison_report"), rows()
    for row in found:
        row["transfer"] = (-1) ** row["seed"] / 10 + RANKS[row["method"]] / 1000 * (row["seed"] - 1)
    noisy = verdicts(report, capsys, found, [])
    assert noisy[0] == noisy[2] == "within noise" and noisy[4] == "not judged, runs are missing"
    assert verdicts(report, capsys, [], []) == ["not judged, runs are missing"] * 5
    one_head_less = [row for row in rows() if row["method"] != "direct"]
    missing = verdicts(report, capsys, one_head_less, rows())
    assert missing == ["not judged, runs are missing"] * 2 + ["confirmed"] * 3


def test_everything_is_told_and_drawn_of_all_methods_and_of_few(evidence, capsys, tmp_path):
    report = evidence("comparison_report")
    report.tell(rows(), rows(), ("one", "two"), tmp_path / "all")
    told = capsys.readouterr().out
    for title in report.TITLES.values():
        assert told.count(f"\n| {title} |") == 4
    assert told.count("\n| chance |") == 2 and "| chance | 5.0 | – |" in told
    assert told.count("- correlation of experts: ") == 1  # between two of STAR
    assert "EquiMod-like, direct beside SimCLR" in told
    pictures = {path.name for path in tmp_path.iterdir()}
    assert pictures == {f"all_{name}.png" for name in ("experts", "neighbors", "routing", "matrix")}
    report.tell(rows(seeds=(0,))[:2], [], ("one", "two"), tmp_path / "few")


def test_every_method_is_built_and_has_finite_losses(evidence, monkeypatch):
    comparison = evidence("comparison")
    assert comparison.METHODS.keys() == evidence("comparison_report").TITLES.keys()
    experiment = comparison.Experiment("runs", (), smoke=True)
    for method in comparison.METHODS:
        model = experiment._model(method, seed=0)
        loss = model.compute_loss(y_pred=model(experiment.seen[0][:4], training=True))
        assert np.isfinite(float(loss)) and float(loss) > 0, method
        weights = comparison.METHODS[method][2]
        assert ("invariance_loss" in [metric.name for metric in model.metrics]) == bool(weights[0])


def test_a_pretraining_goes_on_only_in_its_own_precision_and_size(evidence):
    experiment = evidence("comparison").Experiment("runs", (), smoke=True)
    folders = {experiment.folder_of("star 8", 0, kind) for kind in ("float32", "mixed_bfloat16")}
    experiment.smoke = False
    folders.add(experiment.folder_of("star 8", 0, "float32"))
    experiment.network = "resnet18"
    folders.add(experiment.folder_of("star 8", 0, "float32"))
    assert len(folders) == 4


def test_the_full_comparison_is_of_a_wider_network_and_of_all_other_images(evidence, data_folder):
    experiment = evidence("comparison").Experiment("runs", (), smoke=False, full=True)
    assert len(experiment.seen[0]) == 40_000 and len(experiment.unseen[0]) == 5_000
    model = experiment._model("shared", seed=0)
    assert model.backbone.output_shape[-1] == 512 and model.projector.hidden_units == (512, 512)
