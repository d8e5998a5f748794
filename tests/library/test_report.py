"""Reports and comparisons of run directories that are written by hand."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from d2_starter.report import compare, errors
from d2_starter.report.collect import open_run
from d2_starter.report.matching import match
from d2_starter.report.page import write_report

CAT, DOG = 1, 2
BOX, AWAY = [0, 0, 10, 10], [50, 50, 10, 10]


def annotation(image, category, box=BOX):
    return {"image_id": image, "category_id": category, "bbox": box, "area": 100, "iscrowd": 0}


def result(image, category, score, box=BOX):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def truth(folder=".", images=4):
    return {
        "dataset": "pets",
        "fingerprint": f"of-{images}-images",
        "evaluator_type": "coco",
        "stuff_classes": None,
        "oks_sigmas": [],
        "images": [
            {"id": i + 1, "file_name": f"{folder}/{i + 1}.jpg", "width": 80, "height": 80}
            for i in range(images)
        ],
        "annotations": [
            annotation(1 + i, DOG if i % 2 else CAT) | {"id": i} for i in range(images)
        ],
        "categories": [{"id": CAT, "name": "cat"}, {"id": DOG, "name": "<dog>"}],
    }


# Image 1: found. Image 2: a dog, called a cat. Image 3: the cat is not found, another is made up.
# Image 4: found.
RESULTS = [result(1, CAT, 0.9), result(2, CAT, 0.8), result(3, CAT, 0.7, AWAY), result(4, DOG, 0.6)]


def write_run(path, results=RESULTS, images=4, **config):
    (path / "inference" / "pets").mkdir(parents=True)
    for number in range(images):
        Image.new("RGB", (80, 80), (number, 90, 90)).save(path / f"{number + 1}.jpg")
    (path / "config.yaml").write_text(json.dumps({"SEED": 1, "SOLVER": {"BASE_LR": 0.1}} | config))
    lines = [
        {"iteration": 19, "epoch": 1.0, "total_loss": 2.0, "time": 0.1, "samples_seen": 40},
        {"iteration": 39, "epoch": 2.0, "total_loss": 1.0, "bbox/AP": 31.0, "lr": 0.1},
    ]
    (path / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"iteration": 5')
    folder = path / "inference" / "pets"
    (folder / "ground_truth.json").write_text(json.dumps(truth(path, images)))
    (folder / "coco_instances_results.json").write_text(json.dumps(results))
    return path


def test_best_thresholds_by_hand():
    cat, dog = errors.operating_points(match(truth(), RESULTS, "bbox"))
    assert (cat["threshold"], cat["precision"], cat["recall"]) == (0.9, 1, 0.5)
    assert (dog["threshold"], dog["precision"], dog["recall"]) == (0.6, 1, 0.5)


def test_a_threshold_does_not_cut_through_equal_scores():
    results = [result(1, CAT, 0.5), result(2, CAT, 0.5), result(3, CAT, 0.5)]
    cat, dog = errors.operating_points(match(truth(), results, "bbox"))
    assert (cat["threshold"], cat["precision"], cat["recall"]) == (0.5, 2 / 3, 1)
    assert dog["threshold"] is None


def test_confusion_matrix_by_hand():
    matches = match(truth(), RESULTS, "bbox")
    found = errors.outcomes(matches, [0.5, 0.5])
    table, images = errors.confusion(matches, found)
    assert table.tolist() == [[1, 0, 1], [1, 1, 0], [1, 0, 0]]
    assert images[1, 0] == [1] and images[2, 0] == [2]
    assert errors.rate_images(matches, found).tolist() == [
        [1, 0, 0, 0],
        [0, 1, 1, 1],
        [0, 1, 1, 0],
        [1, 0, 0, 0],
    ]


@pytest.mark.parametrize(
    "category, box, kind",
    [
        (CAT, [0, 0, 10, 3], "localisation"),
        (DOG, [0, 0, 10, 3], "both"),
        (DOG, BOX, "class"),
        (CAT, AWAY, "background"),
    ],
)
def test_kinds_of_errors(category, box, kind):
    matches = match(truth(images=1), [result(1, category, 0.9, box)], "bbox")
    found = errors.outcomes(matches, [0.5, 0.5])
    assert kind in [o.kind for o in found]
    missed = "missed" if kind == "background" else "not found"
    assert [o.kind for o in found if o.annotation >= 0] == [kind if kind == "class" else missed]


def test_a_second_prediction_of_an_object_is_a_duplicate():
    results = [result(1, CAT, 0.9), result(1, CAT, 0.8, [0, 0, 10, 9])]
    found = errors.outcomes(match(truth(images=1), results, "bbox"), [0.5, 0.5])
    assert [o.kind for o in found] == ["right", "duplicate"]


def test_suspects_of_each_kind():
    content = truth(images=8)
    results = [
        result(1, DOG, 0.95),  # another class than annotated
        result(2, DOG, 0.9),
        result(2, CAT, 0.9, AWAY),  # not annotated
        result(3, CAT, 0.85, [4, 4, 10, 10]),  # elsewhere than annotated
        *(result(i, DOG if i % 2 == 0 else CAT, 0.9) for i in (4, 5, 6, 7)),
    ]  # and in image 8 nothing is predicted
    matches = match(content, results, "bbox")
    suspects = errors.find_suspects(matches)
    assert [(s.kind, s.image + 1) for s in suspects] == [
        ("class", 1), ("missing", 2), ("box", 3), ("extra", 8),
    ]  # fmt: skip
    assert errors.find_suspects(matches, 2) == suspects[:2]


def test_the_page_needs_nothing_but_itself(tmp_path):
    path = write_report(write_run(tmp_path / "run"))
    page = path.read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    assert "<dog>" not in page and "&lt;dog&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 4
    assert "31.000 logged" in page  # the results are not those of the last evaluation
    fixes = [json.loads(f.replace("&quot;", '"')) for f in re.findall(r'data-fixes="(.*?)"', page)]
    assert ["relabel"] in [[fix["action"] for fix in choice] for choice in fixes]


def test_date_and_versions_are_those_of_the_environment(tmp_path):
    run = write_run(tmp_path / "run")
    (run / "environment.txt").write_text(
        "git commit: none\nstarted: 2026-11-27 09:00:00+01:00\n"
        "PyTorch     2.1 @/venv\nPyTorch built with:\n  - GCC 13\n"
    )
    facts = open_run(run).facts
    assert facts["PyTorch"] == "2.1"
    assert facts["Started"] == "2026-11-27 09:00:00+01:00"


def test_images_are_embedded_up_to_a_limit(tmp_path):
    run = write_run(tmp_path / "run")
    page = write_report(run, most_images=1).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 1


def test_a_run_whose_images_are_gone_has_a_report(tmp_path):
    run = write_run(tmp_path / "run")
    for image in run.glob("*.jpg"):
        image.unlink()
    assert "4 image files are gone" in write_report(run).read_text(encoding="utf-8")


def test_numbers_that_other_commands_read(tmp_path):
    run = write_run(tmp_path / "run")
    write_report(run)
    assert json.loads((run / "thresholds.json").read_text()) == {"cat": 0.9, "<dog>": 0.6}
    intervals = json.loads((run / "intervals.json").read_text())
    assert {"bbox/AP", "bbox/AP50", "bbox/AP75"} == intervals.keys()
    assert intervals["bbox/AP"][0] < 31 < intervals["bbox/AP"][1]


def test_a_run_without_predictions_has_a_report(tmp_path):
    page = write_report(write_run(tmp_path / "run", results=[])).read_text(encoding="utf-8")
    assert "<b>0.0</b>" in page


def test_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="is no run directory"):
        open_run(tmp_path)
    (tmp_path / "config.yaml").write_text("SEED: 1")
    with pytest.raises(FileNotFoundError, match="nothing in .* was evaluated"):
        open_run(tmp_path)


def test_semantic_and_panoptic_runs_have_intervals(tmp_path):
    run = write_run(tmp_path / "run", results=[])
    folder = run / "inference" / "pets"
    content = truth(run) | {"stuff_classes": ["sky", "sea"], "annotations": [], "categories": []}
    (folder / "ground_truth.json").write_text(json.dumps(content))
    pixels = {f"{run}/{i}.jpg": [[0, 0, 50], [0, 1, 50], [1, 1, 100]] for i in (1, 2, 3, 4)}
    (folder / "sem_seg_per_image.json").write_text(json.dumps(pixels))
    counts = {str(i): {"7": [1, 1, 0, 0.75]} for i in (1, 2, 3, 4)}
    panoptic = {"categories": [{"id": 7, "name": "sky"}], "images": counts}
    (folder / "panoptic_per_image.json").write_text(json.dumps(panoptic))
    (run / "metrics.json").write_text(json.dumps({"iteration": 1, "sem_seg/mIoU": 58.333}))
    draws = open_run(run).test_sets[0].draws
    assert draws["sem_seg/IoU-sky"][0] == 50 and draws["panoptic_seg/PQ"][0] == 50
    assert draws["sem_seg/mIoU"][0] == pytest.approx((50 + 100 * 400 / 600) / 2)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<span>mIoU</span>" in page and "<span>PQ</span>" in page


def many(share_right: float, images: int = 60) -> list[dict]:
    return [
        result(i + 1, DOG if i % 2 else CAT, 0.9, BOX if i < share_right * images else AWAY)
        for i in np.random.default_rng(0).permutation(images).tolist()
    ]


def test_a_clear_difference_is_shown_and_none_is_not(tmp_path):
    first = write_run(tmp_path / "first", many(0.5), 60)
    same = write_run(tmp_path / "same", many(0.5), 60, SOLVER={"BASE_LR": 0.2})
    better = write_run(tmp_path / "better", many(0.9), 60, SOLVER={"BASE_LR": 0.3})
    comparison = compare.Comparison([open_run(p) for p in (first, same, better)])
    said = comparison.sentences("pets")
    assert any(s.startswith("bbox/AP: a difference is not shown") for s in said)
    assert any(s.startswith("bbox/AP: better is better by") for s in said)
    assert any("what another seed would give" in s for s in said)
    assert comparison.config_differences() == [["SOLVER.BASE_LR", "0.1", "0.2", "0.3"]]
    assert "| bbox/AP-cat |" in comparison.markdown()
    assert r"\toprule" in comparison.latex() and r"<dog>" in comparison.latex()
    page = comparison.html()
    assert "where they differ most" in page and "<dog>" not in page


def test_runs_that_differ_by_seed_alone_are_a_group(tmp_path):
    shares = {"a1": (0.5, 1, 0.1), "a2": (0.55, 2, 0.1), "b1": (0.6, 1, 0.2), "b2": (0.9, 2, 0.2)}
    runs = [
        open_run(write_run(tmp_path / name, many(share), 60, SEED=seed, SOLVER={"BASE_LR": lr}))
        for name, (share, seed, lr) in shares.items()
    ]
    comparison = compare.Comparison(runs)
    assert [len(g.runs) for g in comparison.groups] == [2, 2]
    # One run of each: shown. Two seeds, which differ as much as the groups do: not shown.
    alone = compare.Comparison([runs[0], runs[3]]).groups
    assert compare.differ(*alone, "pets", "bbox/AP").is_shown
    assert not compare.differ(*comparison.groups, "pets", "bbox/AP").is_shown
    assert any("2 seeds" in s for s in comparison.sentences("pets"))
    assert (
        "| Metric | a (2 runs) | b (2 runs) | b (2 runs) minus a (2 runs) |"
        in comparison.markdown()
    )
    assert comparison.groups[0].curve("total_loss") == [(1.0, 2.0), (2.0, 1.0)]


def test_evaluations_without_a_config_are_no_group(tmp_path):
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        (run / "config.yaml").unlink()
    assert [g.name for g in compare.group([open_run(run) for run in runs])] == ["a", "b"]
    assert "Config: " not in write_report(runs[0]).read_text(encoding="utf-8")


def test_refuses_different_test_sets(tmp_path):
    first = write_run(tmp_path / "first")
    other = write_run(tmp_path / "other", images=5)
    with pytest.raises(ValueError, match="'pets' is not the same in all runs.*5 images"):
        compare.Comparison([open_run(first), open_run(other)])
