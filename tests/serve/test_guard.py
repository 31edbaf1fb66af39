"""Who is answered, and what every answer says to the browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from asyncckpt.serve.application import application
from asyncckpt.serve.guard import POLICY
from asyncckpt.serve.reader import Reader
from asyncckpt.serve.shelf import Shelf


@pytest.mark.parametrize("host", ["localhost", "localhost:8642", "127.0.0.1:8642", "[::1]:8642", "10.1.2.3", "node7"])
def test_B19_the_page_is_answered_by_address_and_by_names_that_were_given(runs: Path, host: str) -> None:
    with Reader() as reader:
        shelf = Shelf(str(runs), reader)
        asks = TestClient(application(shelf, ["Node7"]), base_url="http://localhost")
        assert asks.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1"])
def test_B19_a_name_that_was_made_to_lead_here_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/api/runs", "/static/page.js"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421
        assert "runs" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_B19_only_what_reads_is_answered(client: TestClient, method: str) -> None:
    for path in ("/", "/run/plain", "/api/runs", "/static/page.js"):
        answer = client.request(method, path)
        assert (answer.status_code, "only reads" in answer.text) == (405, True), "whatever routes there are"
    assert client.head("/run/plain").status_code == 200


def test_B19_every_answer_forbids_all_that_the_page_does_not_need(client: TestClient) -> None:
    for path in ("/", "/run/plain", "/nothing", "/api/runs", "/static/page.css", "/run/plain?page=x"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == POLICY
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


@pytest.mark.parametrize(
    "path",
    [
        "/run/%2e%2e", "/run/..%2fplain", "/run/plain%2f..%2f..", "/run/%2fetc", "/run/plain/..%2f..%2fx",
        "/static/..%2fapplication.py", "/static/%2e%2e/guard.py", "/diff?a=../x@1&b=plain@1", "/run/plain/../../etc",
        "/compare?run=../plain", "/api/run/..%2f..", "/run/plain%00",
    ],
)  # fmt: skip
def test_B19_no_url_leads_out_of_the_root(client: TestClient, runs: Path, path: str) -> None:
    (runs.parent / "x").mkdir(exist_ok=True)
    answer = client.get(path)
    assert answer.status_code == 404
    assert "root:" not in answer.text
    assert "Guard" not in answer.text
