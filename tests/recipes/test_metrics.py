"""Figures against counts made by hand."""

import numpy as np
import pytest

TRUTH = np.array([[1, 1, 0, 0], [5, 0, 0, 0]])
PREDICTION = np.array([[0, 1, 1, 0], [1, 0, 0, 0]])


def test_one_picture(recipe):
    counts = recipe("metrics").count(TRUTH, PREDICTION)
    assert (counts.both, counts.truth, counts.prediction, counts.pixels) == (2, 3, 3, 8)
    assert counts.dice == pytest.approx(2 * 2 / (3 + 3))
    assert counts.jaccard == pytest.approx(2 / 4)
    assert counts.accuracy == pytest.approx(6 / 8)


def test_pooling_adds_counts_and_not_ratios(recipe):
    metrics = recipe("metrics")
    perfect = metrics.count(np.ones((10, 10)), np.ones((10, 10)))
    pooled = perfect + metrics.count(TRUTH, PREDICTION)
    assert pooled.dice == pytest.approx(2 * 102 / 206)
    assert pooled.jaccard == pytest.approx(102 / 104)
    assert pooled.pixels == 108


def test_empty_masks_agree(recipe):
    counts = recipe("metrics").count(np.zeros((3, 3)), np.zeros((3, 3)))
    assert (counts.dice, counts.jaccard, counts.accuracy) == (1, 1, 1)


def test_other_shape_is_refused(recipe):
    with pytest.raises(ValueError, match="prediction"):
        recipe("metrics").count(np.zeros((3, 3)), np.zeros((3, 4)))


def test_small_objects_and_holes(recipe):
    predict = recipe("predict")
    probability = np.zeros((20, 20), np.float32)
    probability[2:9, 2:9] = 0.9
    probability[4:6, 4:6] = 0.1  # a hole of 4
    probability[15, 15] = 0.9  # an object of 1
    mask = predict.to_mask(probability, predict.Postprocessing(threshold=0.5, minimum_area=2, fill_holes=5))
    assert mask.sum() == 49
    kept = predict.to_mask(probability, predict.Postprocessing(threshold=0.5, minimum_area=1, fill_holes=4))
    assert kept.sum() == 49 - 4 + 1


def test_objects_at_a_corner_are_one(recipe):
    predict = recipe("predict")
    mask = np.eye(4, dtype=bool)
    assert predict.drop_small(mask, 4).sum() == 4
    assert predict.drop_small(mask, 5).sum() == 0


def test_object_takes_the_class_with_the_largest_sum(recipe):
    mask = np.array([[True, True, True]])
    values = np.array([[[0.1, 0.1, 0.1]], [[0.5, 0.5, 0.0]], [[0.4, 0.4, 0.9]]], np.float32)
    assert recipe("predict").object_classes(mask, values) == [2]


@pytest.mark.parametrize("shape", [(113, 500), (224, 224), (618, 300)])
def test_reference_frame_is_the_scaled_centre(recipe, shape):
    pixels = np.zeros(shape, np.uint8)
    pixels[shape[0] // 2 - 5 : shape[0] // 2 + 5, shape[1] // 2 - 5 : shape[1] // 2 + 5] = 1
    frame = recipe("evaluate").to_frame(pixels, 224)
    assert frame.shape == (224, 224)
    rows, columns = np.nonzero(frame)
    assert abs(rows.mean() - 111.5) < 4
    assert abs(columns.mean() - 111.5) < 4


def test_choice_keeps_the_false_alarm_limit_before_dice(recipe, monkeypatch):
    evaluate, data, prepare = recipe("evaluate"), recipe("data"), recipe("prepare")

    def prediction(kind, labels, defect):
        picture = prepare.Picture("", "", kind, 0, 0, "", "")
        example = data.Example(picture, np.zeros(labels.shape, np.uint8), labels)
        return evaluate.Prediction(example, np.stack([1 - defect, defect]))

    labels = np.zeros((10, 10), np.uint8)
    labels[:5] = 1
    seen = np.where(labels > 0, 0.6, 0.1).astype(np.float32)
    seen[4] = 0.45
    dirty = np.full((10, 10), 0.45, np.float32)
    predictions = [prediction("break", labels, seen), prediction("free", labels * 0, dirty)]
    rules = {"thresholds": [0.4, 0.5], "minimum_areas": [0], "fill_holes": 0, "false_alarms": 0.05}
    assert evaluate.choose(predictions, rules).threshold == 0.5
    assert evaluate.choose(predictions, rules | {"false_alarms": 1.0}).threshold == 0.4
