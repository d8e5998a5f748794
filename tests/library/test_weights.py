"""Files of weights are data: those that would run code are refused before they do."""

import collections
import os
import pickle

import numpy as np
import pytest
import torch

from d2_starter.files.owner import Refused
from d2_starter.files.weights import RefusedWeightsError, read_weights, to_checkpoint


class Program:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_arrays(tmp_path, protocol):
    arrays = {"a": np.ones((2, 3), "f4"), "flipped": np.arange(4)[::-1], "number": np.float32(2)}
    others = {"t": torch.ones(2), "o": collections.OrderedDict(a=1), "b": b"\xff\x00", "s": {1}}
    content = {"model": arrays | others, "__author__": "someone"}
    file = tmp_path / "w.pkl"
    file.write_bytes(pickle.dumps(content, protocol))
    read = read_weights(file)["model"]
    for name in ("a", "flipped", "t"):
        assert np.array_equal(read[name], content["model"][name])
    assert read["number"] == 2 and read["o"] == {"a": 1} and read["s"] == {1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["w.pkl", "w.pth"])
def test_pickle_that_runs_code(tmp_path, name, protocol):
    file = tmp_path / name
    file.write_bytes(pickle.dumps({"model": {"a": Program(tmp_path / "ran")}}, protocol))
    with pytest.raises(Refused, match=rf"{name}.*mkdir.*--trust"):  # one line, of any script
        read_weights(file)
    assert not (tmp_path / "ran").exists()
    read_weights(file, trust=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.pkl", "w.pyth"])
@pytest.mark.parametrize("as_zip", [True, False])
def test_torch_file_that_runs_code(tmp_path, name, as_zip):
    file = tmp_path / name
    content = {"model": {"a": torch.ones(1)}}
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    assert read_weights(file)["model"]["a"] == 1
    content["model"]["b"] = Program(tmp_path / "ran")
    torch.save(content, file, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(RefusedWeightsError, match="mkdir"):
        read_weights(file)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.pkl"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04", pickle.dumps([1, 2])])
def test_damaged_file(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(OSError, match=rf"'{file}' cannot be read"):
        read_weights(file)


def test_layouts():
    array = np.ones(1)
    zoo = {"model": {"a": array}, "__author__": "zoo"}
    assert to_checkpoint(zoo, "w.pkl") is zoo
    caffe2 = to_checkpoint({"blobs": {"a": array, "a_momentum": array}}, "w.pkl")
    assert caffe2["model"].keys() == {"a"} and caffe2["__author__"] == "Caffe2"
    pycls = to_checkpoint({"model_state": {"a": array, "n.num_batches_tracked": array}}, "w.pyth")
    assert pycls["model"].keys() == {"a"} and pycls["matching_heuristics"]
    assert to_checkpoint({"a": array}, "w.pth") == {"model": {"a": array}}
