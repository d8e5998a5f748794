"""Predictions matched with ground truth by hotcoco, where detectron2 takes many times as long."""

import hotcoco
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets

KEYS = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}


def match(truth: dict, results: list[dict], task: str) -> hotcoco.COCOeval:
    """Returns hotcoco's evaluation, of which `evaluate()` has not been called.

    Args:
        truth: in COCO's format; its images alone count.
        results: in COCO's format.
        task: bbox, segm or keypoints.
    """
    number = {image["id"]: i + 1 for i, image in enumerate(truth["images"])}  # no strings for it
    coco = hotcoco.COCO(
        {
            "images": [image | {"id": number[image["id"]]} for image in truth["images"]],
            "annotations": [
                a | {"image_id": number[a["image_id"]]}
                for a in truth["annotations"]
                if a["image_id"] in number
            ],
            "categories": truth["categories"],
        }
    )
    # With boxes beside masks, the size of an object would be that of the box.
    keys = ("category_id", "score", KEYS[task])
    found = [
        {key: result[key] for key in keys} | {"image_id": number[result["image_id"]]}
        for result in results
        if result["image_id"] in number
    ]
    return hotcoco.COCOeval(coco, coco.load_res(found), task)


def coco_evaluation(
    truth: dict, results: list[dict], task: str, max_detections: list[int]
) -> COCOevalMaxDets:
    """Returns what pycocotools would, summed up by its arithmetic.

    Args:
        task: bbox or segm.
        max_detections: three limits an image and class; the metrics are those of the last one.
    """
    matched = match(truth, results, task)
    matched.params.max_dets = max_detections
    matched.evaluate()
    matched.accumulate()
    evaluation = COCOevalMaxDets(iouType=task)
    evaluation.params.maxDets = max_detections
    evaluation.eval = matched.eval
    evaluation.summarize()
    return evaluation
