"""Finds what a command is given to look at: files, folders, patterns, videos, cameras."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
CAMERA = "camera:"


def find(arguments: Sequence[str]) -> list[Path | str]:
    """Returns the images, videos and cameras that arguments mean, each once.

    Args:
        arguments: files; folders, with all that are in them; patterns such as "day/**/*.jpg";
            "camera:0" for the first camera.

    Raises:
        FileNotFoundError: an argument means nothing. What it was is in the message.
    """
    found = []
    for argument in map(str, arguments):
        path = Path(argument)
        if argument.startswith(CAMERA):
            if not argument[len(CAMERA) :].isdecimal():
                raise ValueError(f"'{argument}' is no camera. Type camera:0 for the first one.")
            found.append(argument)
        elif path.is_dir():
            inside = list(_walk(path))
            if not inside:
                raise FileNotFoundError(
                    f"the folder '{argument}' has no images and no videos: files that end in "
                    f"{', '.join(IMAGES + VIDEOS)}."
                )
            found += inside
        elif path.exists():
            found.append(path)
        else:
            matching = sorted(map(Path, glob.glob(argument, recursive=True)))
            matching = [file for file in matching if file.is_file()]
            if not matching:
                raise FileNotFoundError(f"there is no file or folder like '{argument}'.")
            found += matching
    unique = {}
    for one in found:
        unique.setdefault(os.path.abspath(one) if isinstance(one, Path) else one, one)
    return list(unique.values())


def _walk(folder):
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(IMAGES + VIDEOS) and not name.startswith("."):
                yield Path(parent, name)


def is_video(source: Path | str) -> bool:
    """Returns whether a source is a video or a camera."""
    return isinstance(source, str) or source.suffix.lower() in VIDEOS


def output_names(sources: Sequence[Path | str]) -> list[str]:
    """Returns a name without extension for the results of each source; no two are the same.

    The names are paths below the folder that all sources have in common. Where a/1.png and
    a/1.jpg would both be a/1, they are a/1.png and a/1.jpg.
    """
    parents = [os.path.dirname(os.path.abspath(s)) for s in sources if isinstance(s, Path)]
    try:
        root = os.path.commonpath(parents) if parents else ""
        below = [os.path.relpath(s, root) if isinstance(s, Path) else s for s in sources]
    except ValueError:  # several drives of Windows
        below = [s.name if isinstance(s, Path) else s for s in sources]
    below = [name.replace(":", "_").replace(os.sep, "/") for name in below]
    short = [os.path.splitext(name)[0] for name in below]
    counts = {}
    for name in short:
        counts[name.lower()] = counts.get(name.lower(), 0) + 1  # also where case is no difference
    taken, names = set(), []
    for whole, name in zip(below, short):
        name = stem = name if counts[name.lower()] == 1 else whole
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names


class Video:
    """The frames of a video file or a camera, (H, W, 3) uint8 in BGR, upright.

    Attributes:
        rate: frames in a second.
        count: of frames, as the file says; 0 if that is not known.
        is_whole: whether the last frame that the file announces was reached.
    """

    def __init__(self, source: Path | str):
        """
        Raises:
            OSError: it cannot be opened, or there is no frame in it.
        """
        is_camera = isinstance(source, str)
        self._opened = cv2.VideoCapture(int(source[len(CAMERA) :]) if is_camera else str(source))
        self._next = self._opened.read()[1] if self._opened.isOpened() else None
        if self._next is None:
            self._opened.release()
            what = "camera cannot be opened" if is_camera else "video cannot be read"
            raise OSError(f"{source}: the {what}")
        self.rate = self._opened.get(cv2.CAP_PROP_FPS) or 25.0
        self.count = 0 if is_camera else max(0, int(self._opened.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.read = 0

    @property
    def is_whole(self) -> bool:
        return self.read >= 0.98 * self.count  # what containers say is no exact number

    def frames(self, every: int = 1) -> Iterator[np.ndarray]:
        """Yields one frame out of `every`."""
        try:
            frame = self._next
            while frame is not None:
                if self.read % every == 0:
                    yield frame
                self.read += 1
                frame = self._opened.read()[1]
        finally:
            self._opened.release()
