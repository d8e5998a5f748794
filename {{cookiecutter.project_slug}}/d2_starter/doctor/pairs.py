"""The checks of two datasets against each other: other classes, images that are in both."""

import os
import re
from collections import defaultdict
from itertools import combinations

import numpy as np

from .findings import Findings
from .images import SIDE
from .reading import Dataset

# Images look alike if their thumbnails differ, in the mean, by less than this of 255; those with
# less contrast (standard deviation) than FLAT look like everything.
ALIKE, FLAT = 4.0, 8.0
NEAR_FRAMES, MIN_FRAMES = 3, 4  # numbers of frames that are neighbours; frames of a video


def compare(datasets: list[Dataset]) -> Findings:
    """Compares each dataset with each other one."""
    found = Findings()
    for one, other in combinations([d for d in datasets if d.is_readable], 2):
        names = f"in {one.name} and {other.name}"
        for classes in ((one.things, other.things), (one.stuff, other.stuff)):
            if classes[0] != classes[1]:
                text = f"{one.name} and {other.name}: {_difference(*classes)}"
                found.add("class-lists-differ", text)
        shared = one.contents.keys() & other.contents.keys()
        pairs = sorted((one.contents[c][0], other.contents[c][0]) for c in shared)
        found.add_all("image-leak", pairs, lambda p, names=names: f"{' = '.join(p)}, {names}")
        same = {file for content in shared for file in other.contents[content]}
        alike = [
            pair for pair in look_alikes(one.thumbnails, other.thumbnails) if pair[1] not in same
        ]
        found.add_all("image-near-duplicate", alike, lambda p, n=names: f"{' ~ '.join(p)}, {n}")
        videos = shared_videos(one.files, other.files)
        found.add_all("split-sequence", videos, lambda v, names=names: f"{v}, {names}")
        absent = [c for c, n in other.counts.items() if n and one.counts.get(c) == 0]
        text = f"has objects in {other.name}, none in {one.name}"
        found.add_all("class-only-elsewhere", absent, lambda c, text=text: f"{c} {text}")
    return found


def look_alikes(ones: dict[str, bytes], others: dict[str, bytes]) -> list[tuple[str, str]]:
    """Returns the pairs of files whose thumbnails are almost the same."""

    def arrays(thumbnails):
        pixels = np.frombuffer(b"".join(thumbnails.values()), dtype=np.uint8)
        pixels = pixels.reshape(-1, SIDE, SIDE).astype(np.int16)
        # A bit for each pair of neighbours, which is the same however bright the image is.
        bits = np.packbits(pixels[:, :, 1::2] > pixels[:, :, ::2], axis=-1).reshape(len(pixels), -1)
        return pixels.reshape(len(pixels), -1), bits.view(np.uint64)

    if not ones or not others:
        return []
    (a, a_bits), (b, b_bits) = arrays(ones), arrays(others)
    names, pairs = list(ones), []
    contrast = b.std(axis=1)
    for j, file in enumerate(others):
        if contrast[j] < FLAT:
            continue
        different = np.bitwise_count(a_bits ^ b_bits[j]).sum(axis=1)
        for i in np.flatnonzero(different <= 16):
            if np.abs(a[i] - b[j]).mean() < ALIKE:
                pairs.append((names[i], file))
                break
    return pairs


def shared_videos(ones: list[str], others: list[str]) -> list[str]:
    """Returns what names of videos have in common, of which both have neighbouring frames.

    A video is several names that differ in their last number alone. One for all images says
    nothing: that is how people number images.
    """

    def grouped(files):
        groups = defaultdict(set)
        for file in files:
            stem = os.path.splitext(os.path.basename(file))[0]
            if match := re.fullmatch(r"(.*\D)(\d+)", stem):
                groups[match[1]].add(int(match[2]))
        return groups

    a, b = grouped(ones), grouped(others)
    videos = [p for p in {*a, *b} if len(a.get(p, set()) | b.get(p, set())) >= MIN_FRAMES]
    if len(videos) < 2:
        return []
    return sorted(
        f"{prefix}*"
        for prefix in set(videos) & a.keys() & b.keys()
        if any(n + k in a[prefix] for n in b[prefix] for k in range(-NEAR_FRAMES, NEAR_FRAMES + 1))
    )


def _difference(one, other):
    only = [[name for name in a if name not in b] for a, b in ((one, other), (other, one))]
    if any(only):
        texts = [", ".join(map(str, [*names[:5], "..."][: len(names)])) for names in only]
        return " and ".join(
            f"only the {which} has {text}"
            for which, text in zip(("first", "second"), texts)
            if text
        )
    if len(one) != len(other):
        return f"they have {len(one)} and {len(other)} classes"
    at = next(i for i, (a, b) in enumerate(zip(one, other)) if a != b)
    return f"the same names in another order: class {at} is '{one[at]}' and '{other[at]}'"
