"""The manifests, by Kubernetes' own schemas, and what no schema knows: that names fit together, and times too."""

from __future__ import annotations

import runpy
import shutil
import subprocess
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .conftest import DEPLOY, RULES
from .kustomize import Resource, built

KUBERNETES = DEPLOY / "kubernetes"
OURS = ["base", "overlays/irsa", "overlays/spot"]
OF_THE_OPERATOR = "monitoring.coreos.com/v1"


def resource(folder: str, kind: str) -> Resource:
    (found,) = (each for each in built(KUBERNETES / folder) if each["kind"] == kind)
    return found


def pod(folder: str) -> Resource:
    spec: Resource = resource(folder, "Job")["spec"]["template"]["spec"]
    return spec


def environment(folder: str) -> dict[str, str]:
    return {each["name"]: each["value"] for each in pod(folder)["containers"][0]["env"]}


@pytest.mark.parametrize("folder", OURS)
@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_every_manifest_is_one_of_kubernetes(folder: str, version: str) -> None:
    for each in built(KUBERNETES / folder):
        if each["apiVersion"] != OF_THE_OPERATOR:  # its schemas are its own
            kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("folder", [*OURS, "monitoring"])
def test_kustomize_builds_what_these_tests_look_at(folder: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl, which has kustomize in it")
    done = subprocess.run(
        [kubectl, "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=True, timeout=60
    )

    def sorted_by_kind(found: list[Resource]) -> list[Resource]:
        return sorted(found, key=lambda each: str(each["kind"]))

    assert sorted_by_kind(list(yaml.safe_load_all(done.stdout))) == sorted_by_kind(built(KUBERNETES / folder))


@pytest.mark.parametrize("folder", OURS)
def test_names_fit_together(folder: str) -> None:
    job, spec, (container,) = resource(folder, "Job"), pod(folder), pod(folder)["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in spec["volumes"]}
    assert spec["serviceAccountName"] == resource(folder, "ServiceAccount")["metadata"]["name"]
    assert job["spec"]["podFailurePolicy"]["rules"][1]["onExitCodes"]["containerName"] == container["name"]
    monitor = resource(folder, "PodMonitor")
    assert monitor["apiVersion"] == OF_THE_OPERATOR
    chosen = monitor["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    (port,) = (each for each in container["ports"] if each["name"] == endpoint["port"])
    said = environment(folder)
    assert (str(port["containerPort"]), "0.0.0.0") == (said["ASYNCCKPT_METRICS_PORT"], said["ASYNCCKPT_METRICS_ADDR"])  # noqa: S104
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["touch", said["NOTICE_FILE"]]
    assert any(said["NOTICE_FILE"].startswith(each["mountPath"]) for each in container["volumeMounts"])


@pytest.mark.parametrize("folder", OURS)
def test_what_a_pod_does_after_its_notice_ends_before_it_is_killed(folder: str) -> None:
    said, spec = environment(folder), pod(folder)
    most = spec["terminationGracePeriodSeconds"]
    assert float(said["GRACE_SECONDS"]) + float(said["ASYNCCKPT_RUN_GRACE"]) < most
    assert most <= 120, "a spot machine gives no more"
    # Nothing in the way of process 1, which is the image's: only arguments are said here.
    assert "command" not in spec["containers"][0]


def test_a_bucket_needs_no_volume_and_has_a_role() -> None:
    for folder in ("overlays/irsa", "overlays/spot"):
        assert environment(folder)["ROOT"].startswith("s3://")
        assert "persistentVolumeClaim" not in str(pod(folder))
        assert "eks.amazonaws.com/role-arn" in resource(folder, "ServiceAccount")["metadata"]["annotations"]
    assert environment("overlays/spot")["WATCH"] == "aws"
    assert "WATCH" not in environment("base")


def test_the_operator_is_given_the_rules_that_are_tested() -> None:
    groups: list[Any] = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    rule = resource("monitoring", "PrometheusRule")
    assert rule["spec"]["groups"] == groups
    path = DEPLOY / "prometheus" / "prometheusrule.py"
    made = runpy.run_path(str(path))
    assert made["TARGET"].read_text() == made["text"](), f"run python {path}"
