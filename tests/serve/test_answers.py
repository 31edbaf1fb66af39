"""The same as JSON: what the command line prints of the same run."""

from __future__ import annotations

from pathlib import Path

from starlette.testclient import TestClient

from .conftest import EVIL_NAME, HIDDEN, cli


def test_B19_json_is_what_the_command_line_prints(client: TestClient, runs: Path) -> None:
    root = runs / "plain"
    same = {
        "/api/run/plain": cli("report", root),
        "/api/run/plain/checkpoints": cli("ls", root),
        "/api/diff?a=plain@best&b=plain@latest": cli("diff", f"{root}@best", "@latest"),
        "/api/compare?run=plain": cli("compare", root),
    }
    for path, printed in same.items():
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/json"
        found = answer.json()
        assert found.pop("root", "") == printed.pop("root", ""), path
        assert found == printed, path


def test_B19_a_checkpoint_as_json_has_its_secrets_masked(client: TestClient, runs: Path) -> None:
    found, printed = (
        client.get("/api/run/plain/checkpoints/latest"),
        cli("show", f"{runs / 'plain'}@latest", "--tensors", "*"),
    )
    assert HIDDEN not in found.text
    values = found.json().pop("values")
    assert {**found.json(), "values": values}.keys() == printed.keys()
    assert found.json()["tensors"] == printed["tensors"]
    assert {value["name"] for value in values} == {value["name"] for value in printed["values"]}


def test_B19_metrics_as_json_are_strict_and_thinned_unless_all_are_asked_for(client: TestClient) -> None:
    found = client.get("/api/run/plain/metrics").json()
    assert found["metrics"]["odd"] == {"steps": [100, 200, 300, 400], "values": [1.0, "NaN", 1.0, 1.0]}
    thin = client.get("/api/run/plain/metrics?points=2").json()["metrics"]["loss"]["steps"]
    assert thin[-1] == 400
    assert len(thin) <= 3


def test_B19_the_runs_as_json(client: TestClient) -> None:
    found = client.get("/api/runs").json()
    assert found["schema"] == 1
    assert {run["name"]: run["checkpoints"] for run in found["runs"]} == {"plain": 3, EVIL_NAME: 2}


def test_B19_what_is_not_there_is_json_too(client: TestClient) -> None:
    for path, status in (
        ("/api/run/other", 404),
        ("/api/nothing", 404),
        ("/api/diff", 400),
        ("/api/compare?metric=x", 400),
    ):
        answer = client.get(path)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["status"] == status
        assert answer.json()["schema"] == 1
