"""Tensors on their way: the file, and what a model takes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graticule.errors import UnfitTensors
from graticule.jobs import Content, Job, Source, new_job
from graticule.results import Measurements, Result
from graticule.store import _image_ref
from graticule.tensors import ELEMENT_TYPES, TensorInfo, check_inputs, decode, encode, largest_inputs
from tests.models import brightness_manifest
from tests.run.samples import make_job, make_object, make_result

ARRAYS = arrays.arrays(
    st.sampled_from([np.dtype(name) for name in ELEMENT_TYPES]), arrays.array_shapes(min_dims=0, min_side=0, max_side=4)
)


def info(*shape: int, name: str = "image", kind: str = "float32") -> TensorInfo:
    return TensorInfo(name=name, type=kind, shape=shape)


@given(st.dictionaries(st.text(max_size=20), ARRAYS, max_size=4))
def test_what_was_written_is_read_again(tensors):
    found = decode(encode(tensors))
    assert list(found) == list(tensors)
    for name, array in tensors.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
        assert found[name].flags.aligned


def test_the_file_has_the_safetensors_layout():
    data = encode({"a": np.array([[1, 2]], np.uint8), "b": np.array(3, np.int64)})
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0
    assert json.loads(data[8 : 8 + length]) == {
        "a": {"dtype": "U8", "shape": [1, 2], "data_offsets": [0, 2]},
        "b": {"dtype": "I64", "shape": [], "data_offsets": [2, 10]},
    }
    assert data[8 + length :] == b"\x01\x02" + (3).to_bytes(8, "little")


@given(st.data())
def test_a_damaged_file_is_refused_with_a_sentence_or_read_within_its_bytes(data):
    good = bytearray(encode({"a": np.arange(6, dtype=np.float32).reshape(2, 3)}))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(good[: data.draw(st.integers(0, len(good)))])
    try:
        found = decode(cut)
    except UnfitTensors as error:
        assert str(error).endswith(".")
    else:
        assert sum(array.nbytes for array in found.values()) <= len(cut)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "O", "shape": [1], "data_offsets": [0, 8]},
    ],
)
def test_a_header_that_lies_is_refused(entry):
    header = json.dumps({"a": entry}).encode()
    with pytest.raises(UnfitTensors):
        decode(len(header).to_bytes(8, "little") + header + bytes(4))


def test_types_that_models_do_not_have_are_refused():
    with pytest.raises(UnfitTensors, match="'a' is complex128"):
        encode({"a": np.zeros(2, complex)})


@pytest.mark.parametrize(
    ("given_infos", "sentence"),
    [
        ([info(1, 1, 32, 32)], ""),
        ([info(4, 1, 16, 48)], ""),
        ([], "found none"),
        ([info(1, 1, 16, 16, name="picture")], "takes the tensor(s) 'image'; found 'picture'"),
        ([info(1, 1, 16, 16), info(1, name="more")], "found 'image', 'more'"),
        ([info(1, 1, 16, 16), info(1, 1, 16, 16)], "found 'image', 'image'"),
        ([info(1, 1, 16, 16, kind="uint8")], "is float32; found uint8"),
        ([info(1, 16, 16)], "has the shape ['batch', 1, 'height', 'width']; found [1, 16, 16]"),
        ([info(1, 3, 16, 16)], "found [1, 3, 16, 16]"),
        ([info(0, 1, 16, 16)], "found [0, 1, 16, 16]"),
        ([info(1, 1, 17, 16)], "must be multiples of 16; found 17 x 16"),
        ([info(1, 1, 2048, 2048)], "/api/v1/jobs"),
        ([info(5, 1, 16, 16)], "up to 4 of 16 x 16 at once; found 5"),
        ([info(4, 1, 1024, 1024)], "up to 2 of 1024 x 1024 at once; found 4"),
    ],
)
def test_inputs_must_be_those_of_the_model(given_infos, sentence):
    if not sentence:
        check_inputs(brightness_manifest(), given_infos)
        return
    with pytest.raises(UnfitTensors) as raised:
        check_inputs(brightness_manifest(), given_infos)
    assert sentence in str(raised.value)


def test_the_largest_inputs_are_those_of_one_run():
    assert largest_inputs(brightness_manifest()) == 1536 * 1536 * 4
    fixed = {"policy": "fixed", "height": 32, "width": 48}
    manifest = brightness_manifest()
    preprocessing = manifest.preprocessing.model_copy(update={"size": type(manifest.preprocessing.size)(**fixed)})
    assert largest_inputs(manifest.model_copy(update={"preprocessing": preprocessing})) == 4 * 32 * 48 * 4


def test_the_same_bytes_as_tensors_are_another_job_than_as_a_picture():
    image, source = _image_ref("images", "0" * 64, 1, "x", ""), Source(producer="test")
    picture = new_job(image, "m", source=source)
    assert new_job(image, "m", source=source, content=Content.TENSORS).job_id != picture.job_id
    assert "content" in picture.model_dump()
    old = picture.model_dump(mode="json", exclude={"content"})
    assert Job.model_validate(old) == picture


def test_results_written_before_there_were_kinds_are_segmentations():
    result = make_result(make_job("a.png"), make_object(1))
    old = json.loads(result.model_dump_json())
    del old["measurements"]["kind"]
    read = Result.model_validate_json(json.dumps(old))
    assert isinstance(read.measurements, Measurements)
    assert read == result
