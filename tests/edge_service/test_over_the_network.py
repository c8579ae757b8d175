"""What only a real server shows: senders that lie about lengths, drip, or hang up."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from edge_service.app import create_app
from edge_service.settings import CloudSettings, EdgeSettings, PictureLimits, WorkSettings
from tests.support.edge import Pair, encoded, pixels, sample

FACE = sample("collins/portrait.png")
SECONDS = 1.0
START = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
FORM = START + FACE + b"\r\n--b--\r\n"
HUNG_UP = "499"


class Served:
    """An edge on a port of the loopback interface."""

    def __init__(self, settings: EdgeSettings) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        config = uvicorn.Config(create_app(settings), log_config=None, access_log=False, lifespan="on")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self.settings = settings

    def __enter__(self) -> Served:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.key = self.settings.first_key_file.read_text().strip()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(30)
        self._listener.close()

    def exchange(self, path: str, length: str, *, chunks: Callable[[], Iterator[bytes]]) -> tuple[int, dict[str, str]]:
        """Sends a request by hand; the status and the problem that came back, or 0 where nothing did."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\n{length}\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as line:
            line.sendall(head.encode())
            try:
                for chunk in chunks():
                    line.sendall(chunk)
            except (BrokenPipeError, ConnectionResetError):
                pass
            answer = b""
            while b"\r\n\r\n" not in answer or not answer.rstrip().endswith(b"}"):
                try:
                    got = line.recv(65536)
                except ConnectionResetError:
                    got = b""
                if not got:
                    break
                answer += got
        if not answer:
            return 0, {}
        top, _, body = answer.partition(b"\r\n\r\n")
        first = json.JSONDecoder().raw_decode(body.decode())[0] if body.startswith(b"{") else {}
        return int(top.split()[1]), first

    def left_alone(self, path: str, body: bytes) -> socket.socket:
        """A connection on which a whole request was sent whose answer is not waited for."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        line.sendall(head.encode() + body)
        return line

    def counted(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", trust_env=False).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == metric and labels.items() <= sample.labels.items()
        )

    def steps(self, name: str) -> float:
        """How often a step of the work was done."""
        return self.counted("patronus_edge_step_seconds_count", step=name)

    def alive(self) -> bool:
        return httpx.get(f"http://127.0.0.1:{self.port}/healthz", trust_env=False).status_code == 200


@pytest.fixture(scope="module")
def served(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with Pair(folder) as pair:
        cloud = CloudSettings(url="http://127.0.0.1:9", api_key_file=pair.cloud_settings.first_key_file)
        limits = PictureLimits(body_timeout_s=SECONDS)
        with Served(EdgeSettings(home=folder / "edge", cloud=cloud, pictures=limits)) as edge:
            yield edge


@pytest.fixture(scope="module")
def with_one_worker(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("one_worker")
    (folder / "key").write_text("patronus_of_no_cloud")
    (folder / "key").chmod(0o600)
    cloud = CloudSettings(url="http://127.0.0.1:9", api_key_file=folder / "key")
    with Served(EdgeSettings(home=folder / "edge", cloud=cloud, work=WorkSettings(workers=1, waiting=8))) as edge:
        yield edge


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def whole(data: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: iter([data])


def test_an_honest_request_is_answered(with_one_worker: Served) -> None:
    status, body = with_one_worker.exchange("/v1/detect", f"Content-Length: {len(FORM)}", chunks=whole(FORM))
    assert (status, len(body["faces"])) == (200, 1)


def test_a_body_that_drips_is_cut_off_in_time(served: Served) -> None:
    def drip() -> Iterator[bytes]:
        for at in range(0, 400, 10):
            yield FORM[at : at + 10]
            time.sleep(0.1)

    start = time.monotonic()
    status, body = served.exchange("/v1/detect", f"Content-Length: {len(FORM)}", chunks=drip)
    assert (status, body["type"]) == (408, "urn:patronus:problem:request-timed-out")
    assert time.monotonic() - start < 10 * SECONDS
    assert served.alive()


def test_a_body_shorter_than_its_length_is_waited_for_no_longer_than_allowed(served: Served) -> None:
    status, body = served.exchange("/v1/detect", f"Content-Length: {len(FORM) + 100}", chunks=whole(FORM))
    assert (status, body["type"]) == (408, "urn:patronus:problem:request-timed-out")
    assert served.alive()


def test_what_comes_after_a_body_of_the_said_length_is_not_read_into_it(served: Served) -> None:
    # The rest reads as a second, broken request, for which the server may hang up before the answer is read.
    status, body = served.exchange("/v1/detect", f"Content-Length: {len(FORM) // 2}", chunks=whole(FORM))
    assert (status, body.get("reason")) in {(400, "broken_multipart"), (400, None), (0, None)}
    assert served.alive()


def test_a_body_that_is_announced_too_large_is_refused(served: Served) -> None:
    status, body = served.exchange("/v1/detect", f"Content-Length: {2**40}", chunks=whole(bytes(100_000)))
    assert (status, body["type"]) == (413, "urn:patronus:problem:too-large")


def test_a_body_in_chunks_is_refused_when_it_grows_too_large(served: Served) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"%x\r\n%b\r\n" % (len(START), START)
        for _ in range(20):
            yield b"100000\r\n" + bytes(1024 * 1024) + b"\r\n"
        yield b"0\r\n\r\n"

    status, body = served.exchange("/v1/detect", "Transfer-Encoding: chunked", chunks=chunks)
    assert (status, body["type"]) == (413, "urn:patronus:problem:too-large")
    assert served.alive()


def test_a_sender_that_hangs_up_is_no_error_of_the_service(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    head = (
        f"POST /v1/detect HTTP/1.1\r\nHost: edge\r\nAuthorization: Bearer {served.key}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(FORM)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port)) as line:
        line.sendall(head.encode() + FORM[:1000])
        time.sleep(0.2)
    time.sleep(0.3)
    assert served.alive()
    assert "unexpected_error" not in capsys.readouterr().out


def test_a_cloud_that_does_not_answer_is_reported(served: Served) -> None:
    path = "/v1/galleries/door/identify"
    status, body = served.exchange(path, f"Content-Length: {len(FORM)}", chunks=whole(FORM))
    assert (status, body["type"]) == (503, "urn:patronus:problem:cloud-unavailable")


def test_nothing_is_done_for_callers_who_hang_up_while_they_wait(with_one_worker: Served) -> None:
    edge = with_one_worker
    large = START + encoded(np.zeros((4000, 6000, 3), np.uint8)) + b"\r\n--b--\r\n"
    decoded, gone = edge.steps("decode"), edge.counted("patronus_edge_request_seconds_count", status=HUNG_UP)
    with edge.left_alone("/v1/detect", large) as first:
        waiting = [edge.left_alone("/v1/detect", FORM) for _ in range(4)]
        for line in waiting:
            line.close()
        assert first.recv(64).startswith(b"HTTP/1.1 200")
    until(lambda: edge.counted("patronus_edge_request_seconds_count", status=HUNG_UP) == gone + 4)
    status, _ = edge.exchange("/v1/detect", f"Content-Length: {len(FORM)}", chunks=whole(FORM))
    assert status == 200
    assert edge.steps("decode") == decoded + 2, "the first picture, and the last"


def test_work_ends_at_its_next_step_when_its_caller_hangs_up(with_one_worker: Served) -> None:
    edge = with_one_worker
    face = Image.fromarray(pixels("obama/portrait.jpg")).resize((4000, 5000))
    picture = encoded(np.asarray(face), "JPEG")
    part = START.replace(b"--b", b"\r\n--b")
    form = START + picture + part + picture + b"\r\n--b--\r\n"
    decoded, embedded = edge.steps("decode"), edge.steps("embed")
    gone = edge.counted("patronus_edge_request_seconds_count", status=HUNG_UP)
    with edge.left_alone("/v1/compare", form):
        until(lambda: edge.steps("decode") > decoded)
    until(lambda: edge.counted("patronus_edge_request_seconds_count", status=HUNG_UP) == gone + 1)
    assert edge.steps("embed") == embedded
