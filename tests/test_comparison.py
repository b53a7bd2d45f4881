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
    value = RANKS[method] / 10 * (1 + seed / 1000) + seed / 100
    better = ("probe", "transfer", "one_shot", "five_shots", "mrr", "r2", "own_mrr", "own_gain", "ap")
    row = {"method": method, "seed": seed, **dict.fromkeys(better, value)}
    row |= dict.fromkeys(("error", "own_error", "tasks"), 1 - value)
    row |= {"sets": {"one": value, "two": value + 0.1}, "floors": {"mrr": 0.1, "error": 1.0, "one": 0.05}}
    row["neighbors"] = {"indices": [[1], [2]], "similarities": [[0.9], [0.8]], "queries": [0, 3]}
    if method.startswith("star"):
        gates = {"invariant": [0.125] * 8, "equivariant": [0.125] * 8}
        order = dict(order=list(range(8)), entropies={"invariant": 2.0, "equivariant": 2.0}, samples=5)
        row |= {"experts": 1 - value, "raw": {"experts": [0.3, 0.1]}, "expert_matrix": np.eye(8).tolist()}
        ratios = [ratio * (1 - seed / 1000) for ratio in RATIOS]
        row["routing"] = {"gates": gates, "ratios": ratios, "roles": ["shared"] * 7 + ["unused"], **order}
    return row


def rows(seeds=(0, 1, 2)):
    return [made_up(method, seed) for seed in seeds for method in RANKS]


def verdicts(report, capsys, found, detected):
    report.print_orderings(report.orderings(found, detected), seeds=(0, 1, 2))
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
        (4, lambda row: {"routing": {"ratios": [0.5 + row["seed"] / 1000] * 8, "roles": ["shared"] * 8}}),
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


def test_an_ordering_is_judged_once_its_methods_have_all_planned_seeds(evidence, capsys):
    report = evidence("comparison_report")
    two_seeds = [row for row in rows() if (row["method"], row["seed"]) != ("star 4", 2)]
    judged = verdicts(report, capsys, two_seeds, rows(seeds=(0, 1)))
    missing = "not judged, runs are missing"
    assert judged == ["confirmed", "confirmed", missing, "confirmed", missing]


def test_every_judged_line_says_of_how_many_and_sets_are_judged_from_two_seeds_on(evidence, capsys):
    report = evidence("comparison_report")
    report.print_orderings(report.orderings(rows(), rows()), (0, 1, 2))
    report.print_pairs(rows())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("- ")]
    assert lines and all(("n=2 sets" if "over sets" in line else "n=3 seeds") in line for line in lines)
    assert sum("over sets" in line for line in lines) == len(report.PAIRS)
    report.print_pairs(rows(seeds=(0,)))
    assert "over sets" not in capsys.readouterr().out


def test_tasks_are_compared_among_numbers_of_experts_alone(evidence, capsys):
    evidence("comparison_report").print_pairs(rows())
    blocks = capsys.readouterr().out.split("\n\n")
    (told,) = [block for block in blocks if "- correlation of tasks: " in block]
    assert "STAR, 16 experts beside STAR, 2 experts" in told


def test_random_experts_under_random_routers_correlate_less_the_more_there_are(evidence):
    found = np.array(evidence("comparison_report").untrained_tasks(width=32, seeds=(0, 1)))
    assert found.shape == (4, 2) and np.all(np.diff(found.mean(axis=1)[:3]) < 0)
    assert 0 < found.min() < found.max() < 1


def test_neighbours_of_the_class_of_their_query_are_counted(evidence, monkeypatch):
    report = evidence("comparison_report")
    monkeypatch.setattr(report, "fashion_mnist", lambda: (None, np.array([7, 7, 3, 3, 7])))
    assert report.same_class(queries=[0, 2], indices=[[1, 4, 3], [0, 1, 3]], similarities=None) == (3, 6)


def test_slopes_are_those_for_each_doubling_of_the_number_of_experts(evidence):
    found = [[0.8, 0.1], [0.7, 0.4], [0.6, 0.7], [0.5, 1.0]]
    np.testing.assert_allclose(evidence("comparison_report").per_doubling(found), [-0.1, 0.3])


def test_the_floor_of_a_table_is_the_mean_of_its_rows(evidence, capsys):
    report = evidence("comparison_report")
    found = [row | {"floors": {"mrr": 0.1 * row["seed"]}} for row in rows()]
    report.print_table(found, {"mrr": report.MEASURES["mrr"]}, report.values)
    assert "| chance | 0.100 |" in capsys.readouterr().out


def test_a_detector_without_its_backbone_is_left_out_with_its_folder_and_command(
    evidence, capsys, tmp_path, monkeypatch
):
    comparison = evidence("comparison")
    monkeypatch.setattr(comparison.Experiment, "__call__", lambda self, precision, **run: made_up(**run))
    monkeypatch.setattr(comparison.Detection, "__call__", lambda self, **run: {"ap": 0.5})
    told = []
    monkeypatch.setattr(
        comparison.comparison_report, "tell", lambda rows, detected, *_: told.append(detected)
    )
    arguments = {"results": tmp_path, "folder": tmp_path / "runs", "detect": True, "smoke": True}
    backbone = tmp_path / "runs" / "smoke simclr 1 float32" / "backbone"
    backbone.mkdir(parents=True)
    comparison.run(precision="float32", **arguments)
    said = capsys.readouterr().out
    assert said.count("there is no backbone in") == 3 and "python examples/evidence/comparison.py" in said
    assert str(tmp_path / "runs" / "smoke star 8 0 float32" / "backbone") in said
    backbone.rmdir()  # what has been measured needs it no more
    comparison.run(precision="float32", **arguments)
    assert str(backbone) not in capsys.readouterr().out
    assert [[(row["method"], row["seed"]) for row in found] for found in told] == [[("simclr", 1)]] * 2


def test_everything_is_told_and_drawn_of_all_methods_and_of_few(evidence, capsys, tmp_path):
    report = evidence("comparison_report")
    plan = {"seeds": (0, 1, 2), "sets": ("one", "two")}
    report.tell(rows(), rows(), plan, tmp_path / "all", width=16)
    told = capsys.readouterr().out
    for title in report.TITLES.values():
        assert told.count(f"\n| {title} |") == 4
    assert told.count("\n| chance |") == 2 and "| chance | 5.0 | – |" in told
    assert told.count("- correlation of experts: ") == 1  # between two of STAR
    assert "EquiMod-like, direct beside SimCLR" in told and "nothing trained" in told
    pictures = {path.name for path in tmp_path.iterdir()}
    assert pictures == {f"all_{name}.png" for name in ("experts", "neighbors", "routing", "matrix")}
    report.tell(rows(seeds=(0,))[:2], [], plan, tmp_path / "few", width=16)


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
