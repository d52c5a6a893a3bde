"""Renders the chart. As a program it writes deploy/helm/rendered."""

import logging
import pathlib

import yaml
from helm_python.chart import Chart, lint

HELM = pathlib.Path(__file__).resolve().parents[1]
CHART = HELM / "outrider"
SETS = {path.stem: path for path in sorted((HELM / "values").glob("*.yaml"))}
# What tests/tests/manifests.rs starts.
STARTED = ["default", "sidecar", "mtls", "target-alone"]

logging.getLogger().setLevel(logging.WARNING)
_chart = Chart.load(str(CHART))


def values(name):
    return {} if name == "default" else yaml.safe_load(SETS[name].read_text())


def text(given, kube_version="1.34.0"):
    """The manifests of a release `outrider` in the namespace `outrider`, one document after the other."""
    given = {**given, "kubeVersion": kube_version}
    files = _chart.render(given, name="outrider", namespace="outrider")
    documents = []
    for name in sorted(files):
        if name.endswith("NOTES.txt"):
            continue
        documents += [part.strip() for part in files[name].split("\n---\n")]
    documents = [part.removeprefix("---\n").strip() for part in documents]
    return "\n---\n".join(part for part in documents if part) + "\n"


def objects(given, kube_version="1.34.0"):
    return [found for found in yaml.safe_load_all(text(given, kube_version)) if found]


def problems():
    return lint(str(CHART), strict=True, kube_version="v1.34.0")


def main():
    for name in STARTED:
        path = HELM / "rendered" / f"{name}.yaml"
        path.write_text(text(values(name)))
        print(path.relative_to(HELM.parents[1]))


if __name__ == "__main__":
    main()
