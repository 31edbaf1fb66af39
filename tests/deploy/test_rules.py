"""Recording rules and alerts, by Prometheus's own tools: they parse, and fire when they should; each is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from .conftest import DEPLOY, RULES, alerts, needs

PAGE = DEPLOY.parent / "docs" / "metrics.md"
UNITS = DEPLOY / "prometheus" / "alerts_test.yml"


@pytest.fixture(autouse=True)
def _promtool() -> None:
    needs("promtool", "amtool")


def judged(folder: Path, changed: str | None = None) -> str:
    """What promtool says of the unit tests, where the alerts have `changed`; nothing where all is well."""
    from asyncckpt.testing.prometheus import called

    for path in [*RULES, UNITS]:
        (folder / path.name).write_text(path.read_text())
    if changed is not None:
        (folder / RULES[1].name).write_text(changed)
    done = called("promtool", "test", "rules", folder / UNITS.name)
    return done.stdout + done.stderr if done.returncode else ""


def test_promtool_and_amtool_have_nothing_to_say(tmp_path: Path) -> None:
    from asyncckpt.testing.prometheus import called

    done = called("promtool", "check", "rules", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr
    done = called("amtool", "check-config", DEPLOY / "prometheus" / "alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert judged(tmp_path) == ""


def named(found: str, lines: str) -> set[str]:
    """The alerts in those lines of what was found: what is expected (exp), or what there is (got)."""
    return {name for line in re.findall(lines, found) for name in re.findall(r'alertname="(\w+)"', line)}


def test_the_unit_tests_hold_every_alert_to_when_it_fires(tmp_path: Path) -> None:
    said = yaml.safe_load(RULES[1].read_text())
    for rule in said["groups"][0]["rules"]:
        rule["expr"] = "vector(0) > 1"
    assert named(judged(tmp_path, yaml.safe_dump(said)), r"exp:.*\n\s+got: nil") == alerts().keys()


def test_and_to_how_long_it_waits(tmp_path: Path) -> None:
    text = re.sub(r"\n +for: .*", "", RULES[1].read_text())
    assert named(judged(tmp_path, text), r"exp: nil\n\s+got: .*") == {
        name for name in alerts() if "for" in alerts()[name]
    }


def test_every_alert_has_a_page_that_says_what_to_look_at_and_no_page_is_left_over() -> None:
    pages = {path.stem: path.read_text() for path in (DEPLOY / "runbooks").glob("*.md")}
    assert pages.keys() == alerts().keys()
    for name, page in pages.items():
        assert page.startswith(f"# {name}\n")
        assert alerts()[name]["annotations"]["runbook_url"] == f"deploy/runbooks/{name}.md"
        for there in re.findall(r"\]\(([^)#]+)", page):
            assert (DEPLOY / "runbooks" / there).exists(), f"{name}.md: {there}"


def test_no_rule_and_no_page_speaks_of_a_metric_that_is_not_there() -> None:
    known = set(re.findall(r"asyncckpt_\w+", PAGE.read_text()))
    for path in [*RULES, UNITS, *(DEPLOY / "runbooks").glob("*.md")]:
        named = re.findall(r"\basyncckpt_\w+", path.read_text())
        assert {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in named} <= known, path.name


def test_every_alert_says_how_bad_it_is() -> None:
    assert {rule["labels"]["severity"] for rule in alerts().values()} == {"critical", "warning", "info"}
    assert all({"summary", "description"} < rule["annotations"].keys() for rule in alerts().values())
