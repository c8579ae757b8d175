"""Both services refuse requests that can be read in two ways; HEAD and Retry-After follow HTTP."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge

EMBEDDINGS = "/v1/galleries/door/subjects/anna/embeddings"
FILLED = {
    "gallery": "door",
    "subject": "anna",
    "face": "0" * 32,
    "template": "0" * 32,
    "receipt": "7",
    "request_id": "r",
}
JSON = {"Content-Type": "application/json"}


class Service:
    """An edge or a cloud, called with its first key."""

    def __init__(self, edge: Edge, name: str) -> None:
        self.edge, self.name = edge, name
        self.app: FastAPI = edge.app if name == "edge" else edge.pair.cloud
        settings = edge.settings if name == "edge" else edge.pair.cloud_settings
        self.key = settings.first_key_file.read_text().strip()
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self._client = edge.pair.open(httpx.AsyncClient(transport=transport, base_url="http://service", timeout=60))

    def call(self, method: str, path: str, headers: Any = (), **options: Any) -> httpx.Response:
        """Calls it; ``headers`` come besides the key, and may be pairs."""
        pairs = [("Authorization", f"Bearer {self.key}"), *(headers.items() if isinstance(headers, dict) else headers)]
        return self.edge.pair.portal.call(partial(self._client.request, method, path, headers=pairs, **options))

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path with names filled in, and description of each operation."""
        for path, operations in self.app.openapi()["paths"].items():
            for method, described in operations.items():
                yield method.upper(), path, described


@pytest.fixture(scope="module", params=["edge", "cloud"])
def service(shared_edge: Edge, request: pytest.FixtureRequest) -> Service:
    return Service(shared_edge, request.param)


@pytest.fixture(scope="module")
def cloud(shared_edge: Edge) -> Service:
    return Service(shared_edge, "cloud")


def numbers_in_text(service: Service) -> list[tuple[str, str, str, str]]:
    """Every whole number in a path or a query: method, path, where it is, and its name."""
    found = []
    for method, path, described in service.operations():
        for parameter in described.get("parameters", []):
            schema = parameter["schema"]
            for each in (schema, *schema.get("anyOf", [])):
                if each.get("type") == "integer":
                    assert {"minimum", "maximum"} <= set(each), (path, parameter["name"])
                    found.append((method, path, parameter["in"], parameter["name"]))
    return found


@pytest.mark.parametrize("written", ["1_0", "+10", "10.0", "%2010", "10%20", "010", "0x1", "1e1", "%D9%A1", "-0", ""])
def test_a_number_in_a_path_or_a_query_is_written_in_plain_digits(service: Service, written: str) -> None:
    numbers = numbers_in_text(service)
    assert len(numbers) >= 3
    for method, path, place, name in numbers:
        if place == "path" and not written:
            continue
        filled = path.format(**(FILLED | ({name: written} if place == "path" else {})))
        answer = service.call(method, filled + (f"?{name}={written}" if place == "query" else ""))
        problem = assert_problem(answer, 422, "unprocessable", "invalid_request") if name != "dim" else answer.json()
        if name != "dim":
            assert {"at": f"{place}/{name}"}.items() <= problem["errors"][0].items()


def test_plain_digits_are_taken(service: Service) -> None:
    assert service.call("GET", "/v1/galleries?limit=10").status_code == 200
    assert_problem(service.call("GET", "/v1/galleries/door/erasures/4711"), 404, "not-found")


def test_a_query_parameter_comes_once(service: Service) -> None:
    for query in ("limit=5&limit=6", "limit=5&limit=5", "after=a&after=b"):
        answer = service.call("GET", f"/v1/galleries?{query}")
        assert_problem(answer, 400, "bad-request", "repeated_parameter")


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Idempotency-Key", "X-Request-ID", "Content-Length"])
def test_a_header_that_is_no_list_comes_once(service: Service, name: str) -> None:
    value = {"Authorization": f"Bearer {service.key}", "Content-Length": "2"}.get(name, "application/json")
    twice = [(name, value)] * (1 if name == "Authorization" else 2)
    answer = service.call("PUT", "/v1/galleries/new", headers=twice, content=b"{}")
    problem = assert_problem(answer, 400, "bad-request", "repeated_header")
    assert name.lower() in problem["detail"]


def test_a_header_that_is_a_list_may_come_twice(service: Service) -> None:
    twice = [("Accept", "application/json"), ("Accept", "*/*"), ("Via", "a"), ("Via", "b")]
    assert service.call("GET", "/v1/info", headers=twice).status_code == 200


def test_a_compressed_body_is_refused(service: Service) -> None:
    answer = service.call("PUT", "/v1/galleries/new", headers={**JSON, "Content-Encoding": "gzip"}, content=b"{}")
    assert_problem(answer, 400, "bad-request", "content_encoding")


def test_an_empty_content_encoding_is_refused(service: Service) -> None:
    answer = service.call("GET", "/v1/info", headers={"Content-Encoding": ""})
    assert_problem(answer, 400, "bad-request", "content_encoding")


def test_a_body_has_one_length(service: Service) -> None:
    both = {**JSON, "Content-Length": "2", "Transfer-Encoding": "chunked"}
    assert_problem(service.call("PUT", "/v1/galleries/new", both, content=b"{}"), 400, "bad-request", "two_lengths")


@pytest.mark.parametrize(
    "parameters",
    [
        "charset=utf-16",
        'charset="latin-1"',
        "charset=utf-16; charset=utf-8",
        "charset=utf-8; Charset=utf-8",
        "charset*=utf-8''utf-16",
        "charset*0=utf-; charset*1=16",
        "charset = utf-16",
        r'charset="utf\-8"',
        "charset=utf-8, text/plain",
        "charset=",
    ],
)
def test_json_said_to_be_in_another_charset_is_refused(service: Service, parameters: str) -> None:
    paths = [
        (method, path)
        for method, path, described in service.operations()
        if "application/json" in described.get("requestBody", {}).get("content", {})
    ]
    assert len(paths) >= 4
    for method, path in paths:
        said = {"Content-Type": f"application/json; {parameters}"}
        answer = service.call(method, path.format(**FILLED), headers=said, content=b"{}")
        assert_problem(answer, 400, "bad-request", "unknown_charset")


@pytest.mark.parametrize("parameters", ["charset=utf-8", ';charset="UTF-8";', "profile=x"])
def test_json_said_to_be_in_utf8_is_taken(service: Service, parameters: str) -> None:
    said = {"Content-Type": f"application/json; {parameters}"}
    answer = service.call("PUT", "/v1/galleries/new", headers=said, content=b'{"x": 1}')
    assert_problem(answer, 422, "unprocessable", "invalid_request")  # it was read


def form_problem(edge: Edge, headers: bytes, parameters: str = "boundary=b") -> httpx.Response:
    """What the edge answers to a form of one part of these headers, whose content is no picture."""
    body = b"--b\r\n" + headers + b"\r\n\r\nx\r\n--b--\r\n"
    said = {"Content-Type": f"multipart/form-data; {parameters}"}
    return Service(edge, "edge").call("POST", "/v1/detect", headers=said, content=body)


PLAIN = b'Content-Disposition: form-data; name="image"; filename="x"'


@pytest.mark.parametrize(
    "headers",
    [
        b'Content-Disposition: form-data; name="foo"; filename="x"\r\n' + PLAIN,
        PLAIN + b"\r\n" + PLAIN,
        PLAIN + b"\r\nContent-Type: image/png\r\ncontent-type: image/jpeg",
        b'Content-Disposition: form-data; name="foo"; name="image"; filename="x"',
        b'Content-Disposition: form-data; name="image"; NAME="image"; filename="x"',
        b'Content-Disposition: form-data; name="image"; filename="x"; filename="y"',
        PLAIN + b"; name*=utf-8''foo",
        PLAIN + b"; name*0=foo",
        PLAIN + b"; filename*0=foo",
        b'Content-Disposition: form-data; name="image"; filename="x" y',
        b'Content-Disposition: attachment; name="image"; filename="x"',
        b'Content-Disposition: name="image"; name="image"; filename="x"',
        PLAIN + b"\r\nContent-Transfer-Encoding: base64",
    ],
)
def test_a_part_whose_headers_can_be_read_in_two_ways_is_refused(shared_edge: Edge, headers: bytes) -> None:
    assert_problem(form_problem(shared_edge, headers), 400, "bad-request", "broken_multipart")


@pytest.mark.parametrize(
    "parameters",
    [
        "boundary=y; boundary=b",
        "boundary=b; BOUNDARY=b",
        "boundary=b; boundary*=utf-8''y",
        "boundary*0=y; boundary=b",
        "boundary=b; charset=utf-16; charset=utf-8",
        "boundary=b; charset*=utf-8''utf-16",
        "boundary=b; x",
    ],
)
def test_a_form_whose_parameters_can_be_read_in_two_ways_is_refused(shared_edge: Edge, parameters: str) -> None:
    assert_problem(form_problem(shared_edge, PLAIN, parameters), 400, "bad-request", "broken_multipart")


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        (PLAIN, 'boundary="b"'),
        (PLAIN, "charset=UTF-8; boundary=b;"),
        (PLAIN + b"; filename*=utf-8''na%C3%AFve.jpg\r\nContent-Type: image/jpeg", "boundary=b"),
        (
            b"content-disposition: Form-Data;name=image;filename=x.jpg\r\nContent-Transfer-Encoding: binary",
            "boundary=b",
        ),
        (b'Content-Disposition: form-data; name="image"; filename="C:\\a;\\"b\xc3\xa4.jpg"', "boundary=b"),
    ],
)
def test_the_forms_that_usual_clients_send_are_read(shared_edge: Edge, headers: bytes, parameters: str) -> None:
    assert form_problem(shared_edge, headers, parameters).json()["type"] == "urn:patronus:problem:unsupported-picture"


def test_a_member_of_an_object_comes_once(service: Service) -> None:
    bodies = [path for method, path, described in service.operations() if "requestBody" in described]
    assert len(bodies) >= 4
    for method, path, described in service.operations():
        if "application/json" in described.get("requestBody", {}).get("content", {}):
            twice = (
                b'{"x": 1, "x": 1}' if path != "/v1/protect" else b'{"embeddings": [[1, 0]], "embeddings": [[1, 0]]}'
            )
            answer = service.call(method, path.format(**FILLED), headers=JSON, content=twice)
            assert_problem(answer, 400, "bad-request", "repeated_member")


@pytest.mark.parametrize(
    "body",
    [
        '{"threshold": null}'.encode("utf-16"),
        b'\xef\xbb\xbf{"embeddings": [[1, 0]]}',
        b'{"embeddings": [[NaN]]}',
        b'{"\\ud800": 1}',
        b"[" * 60_000,
    ],
)
def test_json_is_utf8_and_no_more_than_json(service: Service, body: bytes) -> None:
    for method, path, described in service.operations():
        if "application/json" in described.get("requestBody", {}).get("content", {}):
            answer = service.call(method, path.format(**FILLED), headers=JSON, content=body)
            assert_problem(answer, 400, "bad-request")


def test_an_error_repeats_little_of_a_body(service: Service) -> None:
    body = json.dumps({"k" * 50_000: 1} | {f"x{at}": 1 for at in range(1_000)}).encode()
    for method, path, described in service.operations():
        if "application/json" in described.get("requestBody", {}).get("content", {}):
            answer = service.call(method, path.format(**FILLED), headers=JSON, content=body)
            assert answer.status_code == 422, answer.text
            assert len(answer.content) < 5_000


@pytest.mark.parametrize(
    "threshold",
    [
        '"cosine": 1e-320, "fmr": 0.1',
        '"cosine": 0.00009, "fmr": 0.1',
        '"cosine": 0.99995, "fmr": 0.1',
        '"cosine": 1e999, "fmr": 0',
        '"cosine": true, "fmr": 0',
        '"cosine": 0.5, "fmr": 1e-320',
        '"cosine": 0.5, "fmr": 1e-13',
    ],
)
def test_a_threshold_decides_something(service: Service, threshold: str) -> None:
    contract = service.call("GET", "/v1/galleries/door").json()["contract"]
    spec = f'{{"threshold": {{{threshold}}}' + (
        f', "contract": {json.dumps(contract)}}}' if service.name == "cloud" else "}"
    )
    answer = service.call("PUT", "/v1/galleries/new", headers=JSON, content=spec.encode())
    problem = assert_problem(answer, 422, "unprocessable", "invalid_request")
    members = [f"body/threshold/{name}" for name in json.loads(f"{{{threshold}}}")]
    assert {each["at"] for each in problem["errors"]} <= {*members, "body/threshold/cosine", "body/threshold/fmr"}


def test_a_whole_number_in_json_goes_by_its_value(cloud: Service) -> None:
    for written, status in (("60", 200), ("60.0", 200), ("6e1", 200), ('"60"', 422), ("60.5", 422), ("true", 422)):
        body = f'{{"max_age_seconds": {written}}}'.encode()
        answer = cloud.call("PUT", "/v1/galleries/door/retention", headers=JSON, content=body)
        assert answer.status_code == status, written
    assert cloud.call("DELETE", "/v1/galleries/door/retention").status_code == 200


def test_base64_is_canonical(cloud: Service) -> None:
    info = cloud.call("GET", "/v1/galleries/door").json()
    vector = np.zeros(info["contract"]["dim"], "<f4")
    vector[0] = 1
    data = base64.b64encode(vector.tobytes()).decode()
    assert data.endswith("AAA=")

    def identified(text: str) -> httpx.Response:
        probe = {"contract": info["contract_digest"], "dim": len(vector), "data": text}
        return cloud.call("POST", "/v1/galleries/door/identify", json={"probes": [probe]})

    assert identified(data).status_code == 200
    bits_left_over = [data[:-2] + last + "=" for last in "BCD"]
    for other in (*bits_left_over, data[:-1], data + "=", data + "\n", "\n" + data, data + "AAAA", data[:-2] + "-="):
        assert_problem(identified(other), 422, "invalid-template")


def test_every_path_that_answers_get_answers_head_alike_without_a_body(service: Service) -> None:
    paths = [path for method, path, _ in service.operations() if method == "GET"] + ["/openapi.json"]
    assert len(paths) > 8
    for path in paths:
        filled = path.format(**FILLED)
        got, head = service.call("GET", filled), service.call("HEAD", filled)
        assert head.status_code == got.status_code, path
        assert head.headers["content-type"] == got.headers["content-type"]
        assert head.content == b""
        assert "content-length" in head.headers


def test_allow_names_head_where_there_is_get_and_nowhere_else(service: Service) -> None:
    assert service.call("POST", "/healthz").headers["allow"] == "GET, HEAD"
    answer = service.call("HEAD", "/v1/galleries/door/identify")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert all("head" not in operations for operations in service.app.openapi()["paths"].values())


def test_a_route_takes_the_query_parameters_that_the_document_names(service: Service) -> None:
    for method, path, described in service.operations():
        named = sorted(one["name"] for one in described.get("parameters", []) if one["in"] == "query")
        if path.startswith("/v1/"):
            answer = service.call(method, f"{path.format(**FILLED)}?unheard-of=1")
            assert answer.json()["detail"].endswith(f"there are: {', '.join(named) or 'none'}."), (method, path)


def test_head_is_logged_and_counted_as_head(service: Service) -> None:
    service.call("HEAD", "/v1/info")
    counted = service.call("GET", "/metrics").text
    assert re.search(r'_request_seconds_count\{method="HEAD",route="/v1/info",status="200"\}', counted)


def test_the_openapi_documents_say_when_one_may_try_again(service: Service) -> None:
    document = service.app.openapi()
    for method, path, described in service.operations():
        for status in ("429", "503", "507"):
            answer = described["responses"].get(status, {})
            if "$ref" in answer:
                answer = document["components"]["responses"][answer["$ref"].rpartition("/")[2]]
            assert not answer or "Retry-After" in answer["headers"], (method, path, status)


def test_generated_clients_get_one_plain_name_an_operation(service: Service) -> None:
    described = [described for _, _, described in service.operations()]
    names, summaries = ([one[key] for one in described] for key in ("operationId", "summary"))
    assert len(set(names)) == len(set(summaries)) == len(described) > 20
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in names), names
    assert all(re.fullmatch("[A-Z][a-z]+ [^.]+", summary) for summary in summaries), summaries


def test_an_operation_names_only_the_problems_that_it_can_answer(service: Service) -> None:
    found = {(method, path): set(one["responses"]) for method, path, one in service.operations()}
    assert found["GET", "/v1/info"] == {"200", "400", "401", "403", "429", "500", "503"}
    assert found["GET", "/healthz"] == {"200", "429", "500"}
    gallery = "/v1/galleries/{gallery}"
    assert found["GET", gallery].isdisjoint({"408", "409", "413", "415", "507"})
    assert {"404", "409", "507"} <= found["DELETE", gallery]
    identify = found["POST", f"{gallery}/identify"]
    assert {"404", "408", "409", "413", "422"} <= identify
    assert "507" not in identify
    of_edge = service.name == "edge"
    assert ("415" in identify, "502" in identify) == (of_edge, of_edge)
    if of_edge:
        assert found["POST", "/v1/detect"].isdisjoint({"404", "409", "502", "507"})


def test_a_service_that_is_not_ready_says_when_to_ask_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = service.app.state.key_ring
    monkeypatch.setattr(keys, "readable", lambda: False)
    answer = service.call("GET", "/readyz")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
