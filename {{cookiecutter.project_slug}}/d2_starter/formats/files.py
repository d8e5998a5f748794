"""Reads what other people's programs wrote: folders, text, JSON, YAML, XML, headers of images.

Everything has a limit, so that a file that was made to do harm, or is broken, ends in a message.
"""

import codecs
import functools
import json
import os
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .problems import Unusable

# Endings of names of images; training reads all that Pillow opens.
IMAGES = ".jpg .jpeg .jpe .jfif .png .bmp .dib .tif .tiff .webp .gif .jp2 .ppm .pgm .pnm .avif .tga"
IMAGES = tuple(IMAGES.split())
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
MAX_DEPTH, MAX_FOLDERS = 6, 5000
MAX_TEXT = 64 << 20  # bytes of a file that is read as a whole, or of an entry of one that is not
MAX_YAML = 1 << 20
CHUNK = 1 << 20
BLANK = re.compile(r"[ \t\r\n]*")
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # EXIF: how a camera was held; 5 to 8 mean on its side
UTF = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


def plain(text: Any) -> str:
    """Returns somebody else's text in ASCII, shortened."""
    return ascii(str(text)[:200])[1:-1]


def is_image(name: str) -> bool:
    """Returns whether a name ends as those of images do."""
    return name.lower().endswith(IMAGES)


def stem(name: str) -> str:
    """Returns a name without its ending."""
    return os.path.splitext(name)[0]


def spread(items: list, count: int) -> list:
    """Returns at most `count` items, evenly spaced."""
    return items[:: max(1, -(-len(items) // count))]


class Tree:
    """The files below a folder. Each folder is listed once; names of hidden files are left out.

    Folders are relative to `root`, with "/" and without "." in between; "" is `root` itself.

    Attributes:
        given: the file in it that was asked for, or "" for the whole folder.
    """

    def __init__(self, root: Path | str, given: str = ""):
        self.root = Path(root)
        self.given = given
        self._listed: dict[str, tuple[list[str], list[str]]] = {}
        self._by_name: dict[str, list[str]] | None = None
        self._sets: dict[str, set[str]] = {}

    def path(self, relative: str) -> str:
        return os.path.normpath(os.path.join(self.root, relative))

    def relative(self, path: Path | str) -> str:
        found = Path(os.path.relpath(path, self.root)).as_posix()
        return "" if found == "." else found

    def listed(self, folder: str) -> tuple[list[str], list[str]]:
        """Returns the sorted names of the regular files and of the folders in a folder."""
        if folder not in self._listed:
            files, folders = [], []
            with os.scandir(self.path(folder)) as entries:
                for entry in entries:
                    if entry.name.startswith((".", "__MACOSX")):
                        continue
                    try:
                        is_folder, is_file = entry.is_dir(), entry.is_file()
                    except OSError:  # a link to itself
                        continue
                    if is_folder or is_file:
                        (folders if is_folder else files).append(entry.name)
            self._listed[folder] = sorted(files), sorted(folders)
        return self._listed[folder]

    def names(self, folder: str) -> list[str]:
        return self.listed(folder)[0] if os.path.isdir(self.path(folder)) else []

    def folders(self, below: str = "") -> list[str]:
        """Returns a folder and those below it, nearest ones first; a loop of links ends.

        Raises:
            Unusable: there are too many.
        """
        found, level, seen = [], [below], set()
        for _ in range(MAX_DEPTH + 1):
            following = []
            for folder in level:
                stat = os.stat(self.path(folder))
                if (stat.st_dev, stat.st_ino) in seen:
                    continue
                seen.add((stat.st_dev, stat.st_ino))
                found.append(folder)
                following += [f"{folder}/{name}".lstrip("/") for name in self.listed(folder)[1]]
                if len(found) + len(following) > MAX_FOLDERS:
                    where = ascii(self.path(below))
                    raise Unusable(f"{where} has too many folders; give the dataset's own folder")
            level = following
        return found

    def files(self, ending: str, below: str = "") -> Iterator[str]:
        """Yields the files whose names end so; or the one that was asked for, if it does."""
        if self.given:
            yield from [self.given] * self.given.lower().endswith(ending)
            return
        for folder in self.folders(below):
            for name in self.names(folder):
                if name.lower().endswith(ending):
                    yield f"{folder}/{name}".lstrip("/")

    def images(self, below: str) -> list[str]:
        """Returns the images in a folder and below it."""
        return [
            f"{folder}/{name}".lstrip("/")
            for folder in self.folders(below)
            for name in self.names(folder)
            if is_image(name)
        ]

    def has(self, relative: str) -> bool:
        folder, _, name = relative.rpartition("/")
        if folder not in self._sets:
            self._sets[folder] = set(self.names(folder))
        return name in self._sets[folder]

    def find_image(self, name: str, folder: str) -> tuple[str, bool]:
        """Finds the image that annotations call `name`.

        It may be called by the path it had on another machine, by an address, with separators of
        Windows, in other case, or without its ending.

        Args:
            folder: where most of the images are.

        Returns:
            its path, which is that of no file where none is found; whether it had to be searched.
        """
        name = name.replace("\\", "/")
        if os.path.isabs(name) and os.path.isfile(name):
            return self.relative(name), False
        usual = f"{folder}/{name}".lstrip("/") if not name.startswith("/") else ""
        if usual and ".." in name:
            usual = PurePosixPath(os.path.normpath(usual)).as_posix()
        if usual and self.has(usual):
            return usual, False
        if "://" in name or "?" in name:
            name = re.sub(r"^.*[?&]d=|^\w+://|[?#].*$", "", name)
        if self._by_name is None:
            self._by_name = {}
            for file in self.images(""):
                key = file.rpartition("/")[2].lower()
                self._by_name.setdefault(key, []).append(file)
                if stem(key) != key:
                    self._by_name.setdefault(stem(key), []).append(file)
        last = name.rpartition("/")[2].lower()
        found = self._by_name.get(last) or self._by_name.get(re.sub("^[0-9a-f]{8}-", "", last), [])
        if not found:
            return usual or f"{folder}/{last}".lstrip("/"), False
        wanted = name.lower().split("/")[::-1]

        def likeness(file):
            parts = file.lower().split("/")[::-1]
            same = [a == b for a, b in zip(parts[1:], wanted[1:], strict=False)]
            return [*same, False].index(False), file.startswith(f"{folder}/" if folder else "")

        best = max(found, key=likeness)
        return best, best.rpartition("/")[2] != stem(last) and stem(best.rpartition("/")[2]) != name

    @functools.cached_property
    def glances(self) -> dict[str, str]:
        """{JSON file: parts of its text}, up to 50 in a folder."""
        found, counts = {}, {}
        for file in self.files(".json"):
            folder = file.rpartition("/")[0]
            counts[folder] = counts.get(folder, 0) + 1
            if counts[folder] <= 50:
                found[file] = glance(self.path(file))
        return found


def encoding_of(path: str) -> str:
    """Returns the encoding that a byte order mark tells, else UTF-8."""
    with open(path, "rb") as file:
        start = file.read(4)
    return next((name for mark, name in UTF.items() if start.startswith(mark)), "utf-8")


def glance(path: str) -> str:
    """Returns parts of a text file from its start, middle and end."""
    encoding = encoding_of(path)
    size = os.path.getsize(path)
    parts = []
    with open(path, "rb") as file:
        for position in (0, size // 4 * 2, max(0, size - CHUNK) // 2 * 2):
            file.seek(position)
            parts.append(file.read(CHUNK if size > CHUNK else size))
            if size <= CHUNK:
                break
    return "\n".join(part.decode(encoding, errors="ignore") for part in parts).lstrip("\ufeff")


def read_text(path: Path | str, limit: int = MAX_TEXT) -> str:
    """Returns the text of a file, whatever its encoding says; `\\ufffd` for what is none.

    Raises:
        Unusable: the file is larger than `limit` bytes, or is no regular file.
    """
    if not os.path.isfile(path):  # a pipe would never end
        os.stat(path)
        raise Unusable(f"{str(path)!a} is not a regular file")
    if os.path.getsize(path) > limit:
        raise Unusable(f"{str(path)!a} has more than {limit >> 20} MB, too many for such a file")
    with open(path, encoding=encoding_of(path), errors="replace") as file:
        return file.read()


def read_lines(path: Path | str) -> list[str]:
    """Returns a text file's lines that are neither empty nor comments, stripped."""
    lines = map(str.strip, read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def not_json(path, error) -> Unusable:
    """Returns the error for a file that is not JSON."""
    return Unusable(
        f"{str(path)!a} is not JSON, or not all of it is there ({plain(error)}); download or export"
        " it again"
    )


def read_json(path: Path | str) -> Any:
    """Returns what is in a JSON file of up to MAX_TEXT bytes."""
    try:
        return json.loads(read_text(path))
    except (RecursionError, ValueError) as error:
        raise error if isinstance(error, Unusable) else not_json(path, error) from None


def json_entries(path: Path | str) -> Iterator[tuple[str, Any]]:
    """Yields (key, entry) of each list in a JSON object, (key, value) of its other values.

    A list alone is one of the key "". The file is read in parts: what was yielded and is not kept
    takes no memory.

    Raises:
        Unusable: the file is not JSON, or an entry is larger than MAX_TEXT.
    """
    decode = json.JSONDecoder().raw_decode
    with open(path, encoding=encoding_of(path), errors="replace") as file:
        text, at, is_end = "", 0, False

        def fill(size=CHUNK):
            nonlocal text, at, is_end
            part = file.read(size)
            text, at, is_end = text[at:] + part, 0, not part

        def skip(characters=""):
            """Passes over white space, and over one of these characters, which it returns."""
            nonlocal at
            while True:
                at = BLANK.match(text, at).end()
                if at < len(text) or is_end:
                    break
                fill()
            found = text[at : at + 1]
            if characters and (not found or found not in characters):
                raise ValueError(f"{found!r} in place of one of {characters}")
            at += bool(characters)
            return found

        def value():
            nonlocal at
            while True:
                try:
                    found, end = decode(text, at)
                    if end < len(text) or is_end:
                        at = end
                        return found
                except json.JSONDecodeError as error:
                    is_cut = error.pos > len(text) - 20 or error.msg.startswith("Unterminated")
                    if is_end or not is_cut or len(text) - at > MAX_TEXT:
                        raise
                fill(max(CHUNK, len(text) - at))

        def entries(key):
            nonlocal at
            skip("[")
            if skip() == "]":
                at += 1
                return
            while True:
                skip()
                yield key, value()
                if at < len(text) - 1 and text[at] == "," and text[at + 1] in "{ ":
                    at += 1  # which is what skip(",]") would do, in less time
                elif skip(",]") == "]":
                    return

        try:
            if skip() == "[":
                yield from entries("")
            else:
                skip("{")
                following = "" if skip() == "}" else ","
                while following == ",":
                    skip()
                    key = value()
                    skip(":")
                    if skip() == "[":
                        yield from entries(key)
                    else:
                        yield key, value()
                    following = skip(",}")
        except (RecursionError, ValueError) as error:
            raise error if isinstance(error, Unusable) else not_json(path, error) from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Returns the mapping in a YAML file of up to MAX_YAML bytes.

    Raises:
        Unusable: it is none, or has tags that stand for code.
    """
    try:
        import yaml
    except ImportError:
        raise Unusable(f"{str(path)!a} cannot be read without PyYAML: pip install pyyaml") from None
    try:
        data = yaml.safe_load(read_text(path, MAX_YAML))  # libyaml dies of deep nesting
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, Unusable):
            raise
        reason = plain(" ".join(str(error).split()))
        raise Unusable(f"{str(path)!a} is not YAML: {reason}") from None
    if not isinstance(data, dict):
        raise Unusable(f"{str(path)!a} has no keys; YOLO's data.yaml has train, val and names")
    return data


def read_xml(path: Path | str) -> ElementTree.Element:
    """Returns the root of an XML file of up to MAX_TEXT bytes.

    Raises:
        Unusable: it is not XML, or declares entities, which annotations have no use for.
    """
    read = read_text(path)  # checks what kind of file it is, and its size
    if "<!ENTITY" in read:
        raise Unusable(f"{str(path)!a} declares entities, which annotations do not need")
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Unusable(f"{str(path)!a} is not XML: {plain(error)}") from None


def image_size(path: str) -> tuple[int, int] | None:
    """Returns width and height, in pixels, of the upright image; None if they cannot be read.

    From the header of a JPEG or PNG. For others, Pillow is asked, where it is installed.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(24)
            if start.startswith(PNG):
                return struct.unpack(">II", start[16:24])
            if start.startswith(b"\xff\xd8"):
                return _jpeg_size(file)
    except (OSError, struct.error):
        return None
    try:
        from PIL import Image

        with Image.open(path) as image:
            is_turned = image.getexif().get(ORIENTATION, 1) >= 5
            return image.size[::-1] if is_turned else image.size
    except Exception:  # Pillow has many kinds
        return None


def _jpeg_size(file):
    is_turned, position = False, 2
    while True:
        file.seek(position)
        marker, length = struct.unpack(">HH", file.read(4))
        if marker == 0xFFE1:
            is_turned = _orientation(file.read(length - 2)) >= 5 or is_turned
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            height, width = struct.unpack(">xHH", file.read(5))
            return (height, width) if is_turned else (width, height)
        if marker < 0xFF00 or length < 2:
            return None
        position += length + 2


def _orientation(exif: bytes) -> int:
    """Returns the orientation in a JPEG's EXIF segment, 1 if there is none."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[6:8]] if exif.startswith(b"Exif\0\0") else None
        if order is None:
            return 1
        tiff = exif[6:]
        (start,) = struct.unpack(f"{order}I", tiff[4:8])
        (count,) = struct.unpack(f"{order}H", tiff[start : start + 2])
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack(f"{order}HHIH", tiff[at : at + 10])
            if tag == ORIENTATION:
                return value
    except (KeyError, struct.error):
        pass
    return 1
