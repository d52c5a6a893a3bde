#!/usr/bin/env python3
"""Sends each query of the dashboards to a Prometheus, and says how many series come back.

Usage: check_dashboards.py --prometheus http://127.0.0.1:9090 deploy/dashboards/*.json

Variables become what Grafana would put in their place: what the dashboard has chosen where Prometheus knows it, else the
first value that it knows. A query that is refused, or answers nothing but NaN, is an error, and so is a panel without one.
Exit status: 0, 1 for such an error, 2 for a wrong argument. Traffic of a few minutes, some of it with proposals and some
without, fills all panels.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Prometheus:
    def __init__(self, url, span_s, timeout_s):
        self.url, self.span_s, self.timeout_s = url.rstrip("/"), span_s, timeout_s

    def get(self, path, **parameters):
        """The data of an answer; ValueError with Prometheus' own words where it refuses."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=self.timeout_s) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            body = error.read().decode(errors="replace")
            try:
                body = json.loads(body)["error"]
            except (ValueError, KeyError, TypeError):
                pass
            raise ValueError(f"{error.code}: {body}") from error

    def label_values(self, selector, label):
        end = time.time()
        return self.get(f"label/{label}/values", **{"match[]": selector, "start": end - self.span_s, "end": end})

    def series(self, expr):
        """How many series have a number within the span."""
        end = time.time()
        step_s = max(self.span_s / 60, 1)
        result = self.get("query_range", query=expr, start=end - self.span_s, end=end, step=step_s)["result"]
        return sum(any(value != "NaN" for _, value in series["values"]) for series in result)


def substitute(text, values):
    """Puts values in the place of $name, ${name} and ${name:format}."""
    names = "|".join(sorted(map(re.escape, values), key=len, reverse=True))
    return re.sub(rf"\$(?:\{{({names})(?::\w+)?\}}|({names})\b)", lambda m: values[m[1] or m[2]], text)


def choose(variable, prometheus, values):
    """What a variable stands for in a query."""
    query = variable["query"]
    query = query["query"] if isinstance(query, dict) else query
    call = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
    if not call:
        raise ValueError(f"not a label_values query: {query}")
    known = prometheus.label_values(substitute(call[1], values), call[2])
    if not known:
        raise ValueError(f"no values: {query}")
    chosen = variable.get("current", {}).get("value", [])
    chosen = chosen if isinstance(chosen, list) else [chosen]
    if "$__all" in chosen:
        return variable.get("allValue") or regex(known)
    return regex([value for value in chosen if value in known] or known[:1])


def regex(values):
    escaped = [re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\\\1", value) for value in values]
    return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"


def panels_of(panels):
    """All panels but rows, those in collapsed rows too."""
    for panel in panels:
        yield from panels_of(panel.get("panels", []))
        if panel["type"] != "row":
            yield panel


def check_panel(panel, prometheus, values):
    """Prints how many series each query of a panel has; returns how many errors there were."""
    errors = 0
    targets = panel.get("targets", [])
    if not targets:
        print(f"  FAILED  {panel['title']}: no query")
        errors += 1
    for target in targets:
        name = panel["title"] if len(targets) == 1 else f"{panel['title']}, {target['refId']}"
        expr = substitute(target["expr"], values)
        try:
            count = prometheus.series(expr)
        except ValueError as error:
            print(f"  FAILED  {name}: {error}\n          {expr}")
            errors += 1
            continue
        if count:
            print(f"  {count:6}  {name}")
        else:
            print(f"   EMPTY  {name}\n          {expr}")
            errors += 1
    return errors


def values_of(dashboard, prometheus, rate_interval):
    """What each variable of a dashboard stands for, and what is wrong with those that have no value, which stand for anything."""
    problems = []
    values = {"__rate_interval": rate_interval, "__interval": "15s", "__range": f"{prometheus.span_s:.0f}s"}
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "datasource":
            name = variable["name"]
            try:
                values[name] = choose(variable, prometheus, values)
            except ValueError as error:
                problems.append(f"${name}: {error}")
                values[name] = ".*"
    return values, problems


def check(path, prometheus, rate_interval):
    """Checks one dashboard; returns how many errors there were."""
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    print(f"{dashboard['title']} ({path})")
    values, problems = values_of(dashboard, prometheus, rate_interval)
    for problem in problems:
        print(f"  FAILED  {problem}")
    for name, value in values.items():
        print(f"          ${name} = {value}")
    return len(problems) + sum(check_panel(panel, prometheus, values) for panel in panels_of(dashboard["panels"]))


def argument_parser(doc):
    """What every tool for these dashboards is told."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--prometheus", required=True, metavar="URL", help="for example http://127.0.0.1:9090")
    parser.add_argument("--rate-interval", default="1m", metavar="DURATION", help="what $__rate_interval is (1m)")
    parser.add_argument("--span", type=float, default=300, metavar="SECONDS", help="how far back to look (300)")
    parser.add_argument("--timeout", type=float, default=30, metavar="SECONDS", help="for one query (30)")
    parser.add_argument("dashboards", nargs="+", metavar="FILE")
    return parser


def main():
    arguments = argument_parser(__doc__).parse_args()
    prometheus = Prometheus(arguments.prometheus, arguments.span, arguments.timeout)
    try:
        errors = sum(check(path, prometheus, arguments.rate_interval) for path in arguments.dashboards)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        sys.exit(f"cannot check: {error!r}")
    print("all panels have data" if not errors else f"{errors} errors")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
