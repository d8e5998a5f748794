"""COCO's run-length encoding of masks: runs of 0 and 1 in turns, down the columns."""


def decode(counts: str | bytes) -> list[int]:
    """Returns the runs that compressed counts stand for: five bits a character, differences.

    Raises:
        ValueError: they are none.
    """
    runs, value, shift = [], 0, 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"there is a character {chr(character)!r}")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the last number is cut off")
    return runs


def bounds(rle: dict) -> tuple[int, int, int, int]:
    """Returns the box, XYXY, around the pixels of a mask.

    Raises:
        KeyError, TypeError, ValueError: it is no mask, or has no pixel.
    """
    (height, width), counts = rle["size"], rle["counts"]
    at, tops, bottoms, columns = 0, [], [], []
    for index, run in enumerate(counts if isinstance(counts, list) else decode(counts)):
        if index % 2 and run:
            first, last = at, at + run - 1
            columns += [first // height, last // height]
            is_one = first // height == last // height
            tops.append(first % height if is_one else 0)
            bottoms.append(last % height if is_one else height - 1)
        at += run
    if not columns or max(columns) >= width:
        raise ValueError("the mask has no pixel, or more than its size")
    return min(columns), min(tops), max(columns) + 1, max(bottoms) + 1
