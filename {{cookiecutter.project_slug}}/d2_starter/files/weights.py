"""Opens files of weights as data: nothing that such a file says is called.

A pickle names functions and calls them while it is read. `torch.load` with `weights_only` knows
those that tensors need. For other pickles (detectron2's model zoo, torchvision, Caffe2) there is an
unpickler here that knows arrays, numbers, texts and containers.
"""

import io
import pickle
import re
import zipfile
from pathlib import Path

from .owner import Refused

OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # in front of what it saved until 2020, in pickles
ARRAYS = {"_reconstruct", "scalar", "_frombuffer"}  # numpy's functions that make arrays
PLAIN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "complex"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class RefusedWeightsError(Refused):
    """The file would run code if it were opened."""

    def __init__(self, path, name: str):
        super().__init__(
            f"the weights '{path}' are refused: to open them is to call {name}, which could do "
            "anything on this machine. Weights need arrays, numbers, texts and containers only. "
            "Ask who made the file for its state_dict, saved by torch.save. If you trust them as "
            "you trust a program: tools/predict.py, export.py and pack.py have --trust, and "
            "trust=True does it in Python."
        )


class DamagedWeightsError(OSError):
    """The file is damaged, or has no weights."""


def read_weights(path: str | Path, trust: bool = False, mmap: bool = False) -> dict:
    """Reads a file of weights: `.pth` of PyTorch, or a pickle of arrays.

    Args:
        trust: lets the file run code.
        mmap: leaves tensors on the disk until they are used; `.pth` only. The file must not change
            as long as they are.

    Raises:
        RefusedWeightsError: the file would run code.
        DamagedWeightsError: it is damaged, or has no weights.
        OSError: it is not there, or cannot be read.
    """
    path = Path(path)
    with open(path, "rb") as file:
        start = file.read(16)
    is_zip = zipfile.is_zipfile(path)  # as torch.save's files are
    is_pickle = not is_zip and OLD_TORCH not in start
    try:
        content = _read_pickle(path, trust) if is_pickle else _read_torch(path, trust, mmap, is_zip)
    except RefusedWeightsError:
        raise
    # A damaged pickle may raise anything: it is a program, with pieces missing.
    except Exception as error:
        why = "it is empty" if not start else _first_line(error)
        raise DamagedWeightsError(
            f"the weights '{path}' cannot be read: the file is damaged, or no checkpoint ({why})."
        ) from error
    if not isinstance(content, dict):
        raise DamagedWeightsError(
            f"the weights '{path}' cannot be read: there is a {type(content).__name__} in the "
            "file, not a dict of arrays by name."
        )
    return content


def to_checkpoint(content: dict, path: str | Path) -> dict:
    """Puts weights in the layout of detectron2's checkpoints: `model`, and how names are matched.

    Args:
        content: what `read_weights` returned: a checkpoint, a state_dict, or what Caffe2 or pycls
            write.
        path: of the file; its ending tells which of them.
    """
    if "model" in content:
        return content
    if "model_state" in content:  # pycls
        model, author = content["model_state"], "pycls"
        model = {k: v for k, v in model.items() if not k.endswith("num_batches_tracked")}
    elif str(path).endswith(".pkl"):
        model, author = content.get("blobs", content), "Caffe2"
        model = {k: v for k, v in model.items() if not k.endswith("_momentum")}
    else:
        return {"model": content}
    return {"model": model, "__author__": author, "matching_heuristics": True}


def _read_torch(path, trust, mmap, is_zip):
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=not trust, mmap=mmap and is_zip)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)|function ([\w.]+)", str(error))
        if named:
            raise RefusedWeightsError(path, next(filter(None, named.groups()))) from None
        raise


def _read_pickle(path, trust):
    with open(path, "rb") as file:
        if trust:
            return pickle.load(file, encoding="latin1")
        return _Unpickler(file, path).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file, path):
        super().__init__(file, encoding="latin1")  # of pickles by Python 2
        self._path = path

    def find_class(self, module, name):
        if module == "__builtin__":
            module = "builtins"
        if re.fullmatch(r"numpy\._?core\.(multiarray|numeric)", module) and name in ARRAYS:
            import numpy

            core = "_core" if hasattr(numpy, "_core") else "core"
            return super().find_class(f"numpy.{core}.{module.rpartition('.')[2]}", name)
        if (module, name) in PLAIN:
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # of bytes, in old protocols
            return _encode
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_from_bytes
        raise RefusedWeightsError(self._path, f"{module}.{name}")

    def persistent_load(self, pid):
        raise pickle.UnpicklingError("it refers to something outside of the file")


def _encode(text, encoding="latin1"):
    return text.encode({"latin1": "latin1", "latin-1": "latin1"}[encoding])


def _load_from_bytes(data):
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _first_line(error):
    return next(iter(str(error).splitlines()), "") or type(error).__name__
