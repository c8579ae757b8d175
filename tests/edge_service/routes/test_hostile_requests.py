"""Whatever is sent, by whoever has a key, the answer is never the service's own fault, and every refusal is a problem.

Requests are handed to the applications as a server hands them on, so that their headers may be any bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
from fastapi import FastAPI
from hypothesis import strategies as st

from shared.http.problems import MEDIA_TYPE
from tests.support.edge import Edge

Headers = list[tuple[bytes, bytes]]
SETTINGS = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
PICTURE_PATHS = ["/v1/detect", "/v1/compare", "/v1/protect", "/v1/galleries/door/identify"]
PICTURE_PATHS += [f"/v1/galleries/door/subjects/anna/{last}" for last in ("faces", "verify")]
JSON_PATHS = {
    "edge": [
        ("PUT", "/v1/galleries/door"),
        ("PUT", "/v1/galleries/door/retention"),
        ("POST", "/v1/protect"),
        ("POST", "/v1/galleries/door/subjects/anna/embeddings"),
        ("POST", "/v1/galleries/door/embeddings"),
        ("POST", "/v1/galleries/none/rekey"),
    ],
    "cloud": [
        ("PUT", "/v1/galleries/door"),
        ("PUT", "/v1/galleries/door/index"),
        ("POST", "/v1/galleries/door/identify"),
        ("POST", "/v1/galleries/door/subjects/anna/verify"),
        ("POST", "/v1/galleries/door/subjects/anna/templates"),
        ("POST", "/v1/galleries/door/rekey"),
    ],
}

# Charsets that Python has: some of them decode nothing, some not to text, some fail in ways of their own.
charsets = st.sampled_from(
    [
        *(
            b"undefined",
            b"idna",
            b"punycode",
            b"utf-16",
            b"utf-7",
            b"hex",
            b"rot13",
            b"zlib",
            b"unicode_escape",
            b"mbcs",
        ),
        *(b"utf-8", b"UTF8", b"x\x00y", b"", b'"', b"''", b"\xff", b"a" * 300),
    ]
)
odd_bytes = st.binary(max_size=30).map(lambda some: some.replace(b"\r", b"").replace(b"\n", b""))
parameters = st.one_of(
    st.builds(lambda charset: b"; charset=" + charset, charsets),
    st.builds(lambda name, value: b"; %b=%b" % (name, value), odd_bytes, odd_bytes),
    st.sampled_from(
        [b"; charset*=utf-8''x", b"; boundary*0=b; boundary*1=c", b'; boundary="b', b"; boundary*=x''b", b";;="]
    ),
)
names = st.one_of(
    st.sampled_from(
        [b'name="image"', b"name=image", b'name="im\xe4ge"', b"name*=undefined''%E4", b"name*0=im; name*1=age", b"name"]
    ),
    st.builds(lambda value: b'name="%b"' % value, odd_bytes),
)
file_names = st.one_of(
    st.sampled_from(
        [b"", b'; filename="x"', b"; filename*=UTF-8''%ff", b"; filename*=idna''%E4", b"; filename*0*=undefined''x"]
    ),
    st.builds(lambda value: b'; filename="%b"' % value, odd_bytes),
)
part_headers = st.lists(
    st.one_of(
        st.builds(lambda name, file: b"Content-Disposition: form-data; " + name + file, names, file_names),
        st.builds(lambda name, value: name + b": " + value, odd_bytes, odd_bytes),
        st.sampled_from(
            [b"Content-Type: text/plain; charset=undefined", b"Content-Transfer-Encoding: base64", b"", b"x"]
        ),
    ),
    max_size=3,
)


@st.composite
def forms(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A content type and a body that is more or less a form."""
    said = draw(st.sampled_from([b"b", b"b", b"b", b'"b"', b"", b"other", b"b" * 300, b"\xff"]))
    kind = b"multipart/form-data" + b"".join(draw(st.lists(parameters, max_size=2))) + b"; boundary=" + said
    kind += b"".join(draw(st.lists(parameters, max_size=1)))
    body = b""
    for headers in draw(st.lists(part_headers, max_size=3)):
        body += b"--b\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + draw(odd_bytes) + b"\r\n"
    return kind, body + draw(st.sampled_from([b"--b--\r\n", b"--b--\r\n", b"--b", b"", b"--b--\r\ntrailing", b"\x00"]))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, -(10**30), 2**63, 1e-320, "\ud800", "\x00", "AAAA", "0" * 32, "a" * 64]),
)
members = st.sampled_from(
    [
        *("threshold", "cosine", "fmr", "verify_only", "embeddings", "values", "face", "epoch", "max_age_seconds"),
        *("probe", "probes", "top_k", "templates", "id", "template", "version", "contract", "dim", "dtype", "data"),
        *("kind", "rotations", "matrix", "replaces", "subject", "seal", "", "\ud800", "\x00"),
    ]
)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(members, inner, max_size=4),
    max_leaves=15,
)
encoded = st.one_of(
    st.builds(lambda value: json.dumps(value).encode(), documents),
    st.builds(
        lambda value, codec: json.dumps(value, ensure_ascii=False).encode(codec, "surrogatepass"),
        documents,
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-le"]),
    ),
    st.builds(
        lambda depth, end: b'{"threshold":' * depth + b"[" * depth + end, st.integers(1, 2_000), st.binary(max_size=3)
    ),
    st.builds(lambda digits: b'{"max_age_seconds": ' + b"7" * digits + b"}", st.integers(1, 10_000)),
    st.binary(max_size=60),
)
media_types = st.one_of(
    st.just(b"application/json"),
    st.sampled_from(
        [b"application/json; charset=undefined", b"application/x+json", b"Application/JSON;;", b"", b"\xff", b"a/b/c"]
    ),
)
odd_headers = st.lists(
    st.one_of(
        st.sampled_from(
            [
                (b"content-length", b"1"),
                (b"content-length", b"-1"),
                (b"content-length", b"\xb2"),
                (b"content-length", b"9" * 5000),
                (b"transfer-encoding", b"gzip, chunked"),
                (b"expect", b"200-maybe"),
                (b"authorization", b"Bearer \xff\x00"),
                (b"authorization", b""),
                (b"x-request-id", b"\xe4 \x00"),
                (b"x-request-id", b"a" * 65),
                (b"accept", b"application/octet-stream;q=\xff"),
                (b"content-encoding", b"gzip"),
                (b"idempotency-key", b"\xff\xfe"),
                (b"idempotency-key", b""),
                (b"host", b"[::1"),
                (b"range", b"bytes=0-"),
            ]
        ),
        st.tuples(st.sampled_from([b"accept", b"origin", b"cookie", b"x-request-id", b"idempotency-key"]), odd_bytes),
    ),
    max_size=3,
)
queries = st.one_of(
    st.just(b""),
    st.sampled_from(
        [b"limit=1&limit=2", b"dim=\xff", b"%ff=%fe", b"gallery=%00", b"gallery=door", b"dim=128", b"&&=;"]
    ),
    st.binary(max_size=20),
)


@dataclass
class Target:
    """An application, and a key of it."""

    app: FastAPI
    key: bytes
    edge: Edge

    def send(
        self, method: str, path: str, query: bytes, headers: Headers, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Hands one request on, as a server does."""
        said: list[Any] = []
        left = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            return left.pop() if left else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query,
            "headers": [(b"host", b"here"), (b"authorization", b"Bearer " + self.key), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "state": {},
        }
        self.edge.pair.portal.call(self.app, scope, receive, send)
        answered = {name.decode().lower(): value.decode() for name, value in said[0]["headers"]}
        return said[0]["status"], answered, b"".join(message.get("body", b"") for message in said[1:])


@pytest.fixture(scope="module")
def targets(shared_edge: Edge) -> dict[str, Target]:
    pair = shared_edge.pair
    keys = {"edge": shared_edge.settings.first_key_file, "cloud": pair.cloud_settings.first_key_file}
    apps = {"edge": shared_edge.app, "cloud": pair.cloud}
    return {name: Target(apps[name], keys[name].read_bytes().strip(), shared_edge) for name in apps}


def assert_sound(status: int, headers: dict[str, str], body: bytes) -> None:
    """The answer is not the service's own fault; a refusal is a problem."""
    assert 200 <= status < 500, body
    assert headers["x-request-id"]
    if status >= 400:
        assert headers["content-type"] == MEDIA_TYPE
        problem = json.loads(body)
        assert problem["status"] == status
        assert problem["request_id"] == headers["x-request-id"]


def _in_charset(charset: bytes) -> tuple[bytes, bytes]:
    part = b'--b\r\nContent-Disposition: form-data; name="im\xe4ge"; filename="x"\r\n\r\nx\r\n--b--\r\n'
    return b"multipart/form-data; boundary=b; charset=" + charset, part


@SETTINGS
@hypothesis.given(form=forms(), path=st.sampled_from(PICTURE_PATHS), query=queries, headers=odd_headers)
@hypothesis.example(form=_in_charset(b"undefined"), path="/v1/detect", query=b"", headers=[])
@hypothesis.example(form=_in_charset(b"punycode"), path="/v1/detect", query=b"", headers=[])
@hypothesis.example(form=_in_charset(b"x\x00y"), path="/v1/detect", query=b"", headers=[])
def test_no_form_is_the_edges_fault(
    targets: dict[str, Target], form: tuple[bytes, bytes], path: str, query: bytes, headers: Headers
) -> None:
    kind, body = form
    assert_sound(*targets["edge"].send("POST", path, query, [(b"content-type", kind), *headers], body))


@pytest.mark.parametrize("service", ["edge", "cloud"])
@SETTINGS
@hypothesis.given(at=st.integers(0), body=encoded, kind=media_types, query=queries, headers=odd_headers)
def test_no_json_is_the_services_fault(
    targets: dict[str, Target], service: str, at: int, body: bytes, kind: bytes, query: bytes, headers: Headers
) -> None:
    method, path = JSON_PATHS[service][at % len(JSON_PATHS[service])]
    assert_sound(*targets[service].send(method, path, query, [(b"content-type", kind), *headers], body))


@pytest.mark.parametrize("service", ["edge", "cloud"])
@SETTINGS
@hypothesis.given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X", "get"]),
    path=st.one_of(
        st.sampled_from(
            ["/", "/v1", "/v1/", "//", "/healthz", "/metrics", "/openapi.json", "/v1/info", "/v1/galleries"]
        ),
        st.text(max_size=10).map(lambda text: f"/v1/galleries/{text}/subjects"),
    ).filter(lambda path: path.isprintable() and path.isascii()),
    query=queries,
    headers=odd_headers,
)
def test_no_head_of_a_request_is_the_services_fault(
    targets: dict[str, Target], service: str, method: str, path: str, query: bytes, headers: Headers
) -> None:
    status, answered, body = targets[service].send(method, path, query, headers, b"")
    if method == "HEAD" and not body:
        assert status < 500
    else:
        assert_sound(status, answered, body)
