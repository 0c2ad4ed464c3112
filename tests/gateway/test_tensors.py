"""The Open Inference Protocol with its own client: tensors in, onnxruntime's numbers out."""

from __future__ import annotations

import http.client
import json

import numpy as np
import onnxruntime
import pytest

from graticule.broker import connect_redis
from graticule.jobs import Lane, queue_name
from graticule.registry import Registry
from graticule.store import Store
from graticule.tensors import decode
from tests.models import write_brightness_model
from tests.worker.conftest import wait_until

triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")

PEAKS = "/oip/v2/models/peaks"


@pytest.fixture(scope="module")
def peaks(shared, gateway, worker, tmp_path_factory):
    """An onnxruntime session for a model with two outputs that the worker serves, too."""
    folder = tmp_path_factory.mktemp("peaks") / "model"
    manifest = write_brightness_model(folder, name="peaks", peak=True)
    Registry(Store(shared)).publish(folder)
    path = f"{PEAKS}/versions/{manifest.version}/ready"
    wait_until(lambda: gateway.get(path).status == 200, 60, "a worker has the model loaded")
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture
def client(gateway, peaks):
    made = triton.InferenceServerClient(gateway.url.removeprefix("http://") + "/oip")
    yield made
    made.close()


def chance(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def as_input(array: np.ndarray, *, binary: bool) -> object:
    made = triton.InferInput("image", list(array.shape), "FP32")
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def infer(client, array, *, binary=True, **options):
    return client.infer("peaks", [as_input(array, binary=binary)], **options)


def post(gateway, question, path=f"{PEAKS}/infer", values=b"", **headers):
    body = json.dumps(question).encode() if not isinstance(question, bytes) else question
    if values:
        headers["Inference_Header_Content_Length"] = str(len(body))
    return gateway.post(path, body + values, Content_Type="application/json", **headers)


def question(array: np.ndarray, **changes):
    tensor = {"name": "image", "datatype": "FP32", "shape": list(array.shape), "data": array.tolist()}
    return {"inputs": [{**tensor, **changes}]}


# -- what tritonclient sees --------------------------------------------------------------------------------------


def test_tritonclient_finds_server_and_model(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("peaks")
    assert client.is_model_ready("peaks", "1.0.0")
    assert not client.is_model_ready("nonsense")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata("peaks", "1.0.0")
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, -1, -1]}]
    assert metadata["outputs"] == [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 1, -1, -1]},
        {"name": "peak", "datatype": "INT64", "shape": [-1]},
    ]


@pytest.mark.parametrize("sends_binary", [True, False])
@pytest.mark.parametrize("takes_binary", [True, False, None])
def test_tritonclient_gets_the_numbers_of_onnxruntime(client, peaks, sends_binary, takes_binary):
    array = chance(1 + sends_binary, 3, 1, 32, 48)
    names = ["logits", "peak"]
    outputs = None
    if takes_binary is not None:
        outputs = [triton.InferRequestedOutput(name, binary_data=takes_binary) for name in names]
    answer = infer(client, array, binary=sends_binary, outputs=outputs, request_id="mine", model_version="1.0.0")
    for name, expected in zip(names, peaks.run(names, {"image": array}), strict=True):
        found = answer.as_numpy(name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    said = answer.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("mine", "peaks", "1.0.0")


def test_tritonclient_gets_one_output_as_bytes_and_one_as_json(client, peaks):
    array = chance(7, 1, 1, 16, 16)
    outputs = [
        triton.InferRequestedOutput("peak", binary_data=True),
        triton.InferRequestedOutput("logits", binary_data=False),
    ]
    answer = infer(client, array, outputs=outputs)
    for name in ("logits", "peak"):
        np.testing.assert_array_equal(answer.as_numpy(name), peaks.run([name], {"image": array})[0])
    answer = infer(client, array, outputs=outputs[:1])
    assert answer.as_numpy("logits") is None


def test_what_tritonclient_does_wrong_it_is_told_in_a_sentence(client):
    with pytest.raises(triton.InferenceServerException, match="has the shape .* found \\[1, 3, 16, 16\\]") as wrong:
        infer(client, chance(0, 1, 3, 16, 16))
    assert wrong.value.status() == "422"
    with pytest.raises(triton.InferenceServerException, match="no model"):
        client.infer("nonsense", [as_input(chance(0, 1, 1, 16, 16), binary=True)])
    with pytest.raises(triton.InferenceServerException, match="no output 'mask'"):
        infer(client, chance(0, 1, 1, 16, 16), outputs=[triton.InferRequestedOutput("mask")])
    with pytest.raises(triton.InferenceServerException, match="compressed"):
        infer(client, chance(0, 1, 1, 16, 16), request_compression_algorithm="gzip")


# -- the job behind it -------------------------------------------------------------------------------------------


def test_the_tensors_are_a_job_with_its_own_page_and_artifacts(client, gateway, peaks):
    array = chance(11, 2, 1, 16, 32)
    infer(client, array)
    infer(client, array, binary=False)
    jobs = [job for job in gateway.get("/api/v1/jobs?model=peaks").json["jobs"] if job["status"] == "succeeded"]
    found = [gateway.get(f"/api/v1/jobs/{job['job_id']}").json for job in jobs]
    (job,) = [job for job in found if job["result"]["measurements"]["outputs"][0]["shape"] == [2, 1, 16, 32]]
    assert (job["content"], job["model"], job["result"]["image"]) == ("tensors", "peaks@1.0.0", None)
    assert job["result"]["measurements"] == {
        "kind": "tensors",
        "outputs": [
            {"name": "logits", "type": "float32", "shape": [2, 1, 16, 32]},
            {"name": "peak", "type": "int64", "shape": [2]},
        ],
    }
    stored = decode(gateway.get(job["links"]["outputs.safetensors"]).body)
    np.testing.assert_array_equal(stored["logits"], peaks.run(["logits"], {"image": array})[0])
    assert gateway.get(job["links"]["result.json"]).json == job["result"]
    page = gateway.get(f"/jobs/{job['job_id']}")
    assert (page.status, b"2 \xc3\x97 1 \xc3\x97 16 \xc3\x97 32" in page.body) == (200, True)
    for name in ("image.png", "mask.png", "layer.png", "overlay.webp", "objects.csv", "objects.geojson"):
        assert gateway.get(f"/api/v1/jobs/{job['job_id']}/{name}").status == 404, name


def test_a_job_for_a_picture_has_no_tensors(gateway, worker):
    from tests.worker.test_worker import picture

    job = gateway.submit(("p.png", picture()), model="brightness", wait="30").json["jobs"][0]
    assert job["content"] == "picture"
    assert gateway.get(f"/api/v1/jobs/{job['job_id']}/outputs.safetensors").status == 404


# -- what is refused, before it becomes a job --------------------------------------------------------------------

SMALL = np.zeros((1, 1, 16, 16), np.float32)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "picture"}, "takes the tensor(s) 'image'"),
        ({"datatype": "FP64"}, "FP32, FP16, UINT8, INT64"),
        ({"datatype": "UINT8"}, "is float32; found uint8"),
        ({"shape": [1, 1, 16, -16]}, "has the shape"),
        ({"shape": [1, 1, 16, 10**30]}, "pixels at once"),
        ({"shape": [1, 1, 16, 32]}, "512 numbers"),
        ({"data": None}, "256 numbers"),
        ({"data": [[1, 2], [3]]}, "256 numbers"),
        ({"data": ["a"] * 256}, "256 numbers"),
        ({"data": [True] * 256}, "256 numbers"),
        ({"data": [10**400] * 256}, "256 numbers"),
        ({"parameters": {"binary_data_size": 1024}}, "no data"),
        ({"data": None, "parameters": {"binary_data_size": 1024}}, "add up to"),
        ({"data": None, "parameters": {"binary_data_size": -1}}, "binary_data_size 1024"),
        ({"data": None, "parameters": {"shared_memory_region": "x"}}, "shared memory"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_a_sentence(gateway, peaks, changes, sentence):
    answer = post(gateway, question(SMALL, **changes))
    assert answer.status == 422
    assert sentence in answer.json["error"] == answer.json["detail"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"inputs": 3}', b'{"inputs": []}', b"\xff", b"[" * 100_000])
def test_bodies_that_are_no_request_are_refused(gateway, peaks, body):
    assert post(gateway, body).status == 422


def test_values_that_are_missing_or_too_many_are_refused(gateway, peaks):
    asked = question(SMALL, data=None, parameters={"binary_data_size": 1024})
    good = post(gateway, asked, values=SMALL.tobytes())
    assert good.status == 200
    assert post(gateway, asked, values=SMALL.tobytes()[:-1]).status == 422
    assert post(gateway, asked, values=SMALL.tobytes() + b"x").status == 422
    assert gateway.post(f"{PEAKS}/infer", b"{}", Inference_Header_Content_Length="3").status == 400
    assert gateway.post(f"{PEAKS}/infer", b"{}", Inference_Header_Content_Length="x").status == 422


def test_more_than_the_model_can_take_is_refused_before_it_is_read(gateway, peaks):
    body, limit = b"{}", 1536 * 1536 * 4
    length = {"Inference-Header-Content-Length": str(len(body)), "Content-Length": str(limit + len(body) + 1)}
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=30)
    connection.request("POST", f"{PEAKS}/infer", body, length)
    answer = connection.getresponse()
    assert (answer.status, f"{limit:,}" in json.loads(answer.read())["error"]) == (413, True)
    connection.close()
    large = question(SMALL, shape=[1, 1, 4096, 4096], data=None, parameters={"binary_data_size": 4096 * 4096 * 4})
    assert post(gateway, large).status == 422


def test_nothing_that_was_refused_became_a_job(gateway, peaks, shared):
    before = len(Store(shared).keys("images"))
    assert post(gateway, question(SMALL, name="picture")).status == 422
    with connect_redis(shared) as redis:
        assert redis.llen(shared.key_prefix + queue_name("peaks", Lane.INTERACTIVE)) == 0
    assert len(Store(shared).keys("images")) == before


def test_an_answer_that_json_cannot_hold_is_given_as_bytes(gateway, client, peaks):
    array = np.full((1, 1, 16, 16), np.nan, np.float32)
    with pytest.raises(triton.InferenceServerException, match="binary data"):
        infer(client, array, outputs=[triton.InferRequestedOutput("logits", binary_data=False)])
    assert np.isnan(infer(client, array).as_numpy("logits")).all()


def test_without_a_worker_the_client_is_told_to_ask_again(start_gateway):
    gateway = start_gateway(gateway_max_wait=0.5)
    answer = post(gateway, question(SMALL), path="/oip/v2/models/brightness/infer")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "is not done after 0.5 s" in answer.json["error"]


def test_a_token_is_wanted(guarded, peaks):
    answer = post(guarded, question(SMALL))
    assert answer.status == 401
    assert answer.json["error"] == answer.json["detail"]
