#!/usr/bin/env python3
"""Draws the dashboards' panels as Grafana lays them out, from what a Prometheus answers now.

Usage: draw_dashboards.py --prometheus http://127.0.0.1:9090 --output docs/images deploy/dashboards/*.json

Writes one PNG for each dashboard, named as its file. Needs matplotlib; check_dashboards.py says which queries are empty.
Exit status: 0, 1 where a query is refused or a file cannot be written, 2 for a wrong argument.
"""

import json
import math
import pathlib
import re
import sys
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MultipleLocator

from check_dashboards import Prometheus, argument_parser, panels_of, substitute, values_of

COLUMNS = 24
COLUMN_INCHES = 0.72
ROW_INCHES = 0.34
COLOURS = ["#3b6fd4", "#2f9e6e", "#dd8a2f", "#8a6bbf", "#c73a3a", "#2a9fb5", "#b0a030", "#70757d"]
SCALES = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")]
UNITS = {"s": "s", "percentunit": "%", "reqps": " req/s", "cps": "/s", "cpm": "/min", "bytes": "B", "Bps": "B/s", "flops": "FLOP/s"}


def shown(unit):
    """A number as Grafana would show it in this unit."""
    suffix = unit.removeprefix("suffix:") if unit.startswith("suffix:") else UNITS.get(unit, "")

    def text(value, _=None):
        if unit == "percentunit":
            return f"{100 * value:.3g}%"
        if value and abs(value) < 1e-12:
            value = 0
        if value == 0 or unit in ("none", "cpm", "cps", "reqps") or unit.startswith("suffix:"):
            return f"{value:.3g}{suffix}"
        scale, prefix = next(((s, p) for s, p in SCALES if abs(value) >= s), SCALES[-1])
        return f"{value / scale:.3g} {prefix}{suffix}"

    return text


def legend(target, labels):
    return re.sub(r"\{\{(\w+)\}\}", lambda m: labels.get(m[1], ""), target.get("legendFormat", "")) or "value"


def series_of(panel, prometheus, values):
    """Name, times in seconds before now, and numbers of each series of a panel."""
    end = time.time()
    step_s = max(prometheus.span_s / 120, 1)
    for target in panel["targets"]:
        expr = substitute(target["expr"], values)
        answer = prometheus.get("query_range", query=expr, start=end - prometheus.span_s, end=end, step=step_s)
        for series in answer["result"]:
            points = [(float(at) - end, float(value)) for at, value in series["values"]]
            points = [(at, value) for at, value in points if math.isfinite(value)]
            yield legend(target, series["metric"]), [at for at, _ in points], [value for _, value in points]


def draw(panel, axes, prometheus, values):
    defaults = panel["fieldConfig"]["defaults"]
    text = shown(defaults.get("unit", "none"))
    all_series = list(series_of(panel, prometheus, values))
    axes.set_title(panel["title"], fontsize=9, loc="left", fontweight="bold")
    if panel["type"] == "stat":
        axes.axis("off")
        told = [(name, numbers[-1]) for name, _, numbers in all_series if numbers]
        for at, (name, number) in enumerate(told):
            x = (at + 0.5) / len(told)
            axes.text(x, 0.55, text(number), fontsize=20, ha="center", va="center", transform=axes.transAxes)
            axes.text(x, 0.12, name, fontsize=8, color="#646d79", ha="center", va="center", transform=axes.transAxes)
        return
    if panel["type"] == "bargauge":
        names = [name for name, _, _ in all_series]
        axes.bar(names, [numbers[-1] if numbers else 0 for _, _, numbers in all_series], color=COLOURS[1])
        axes.yaxis.set_major_formatter(FuncFormatter(text))
        return
    stacked = defaults.get("custom", {}).get("stacking", {}).get("mode", "none") != "none"
    if stacked:
        times = sorted({at for _, ats, _ in all_series for at in map(round, ats)})
        at_time = [dict(zip(map(round, ats), numbers)) for _, ats, numbers in all_series]
        layers = [[layer.get(at, 0.0) for at in times] for layer in at_time]
        axes.stackplot(times, layers, labels=[name for name, _, _ in all_series], colors=COLOURS)
    else:
        for at, (name, times, numbers) in enumerate(all_series):
            style = "--" if re.search(r"roof|ridge|limit|break-even", name) else "-"
            axes.plot(times, numbers, style, label=name, color=COLOURS[at % len(COLOURS)], linewidth=1.3)
    highest = max((number for _, _, numbers in all_series for number in numbers), default=0)
    axes.set_ylim(0, 1.35 * (axes.dataLim.y1 if stacked else highest) or 1)
    axes.set_xlim(-prometheus.span_s, 0)
    axes.yaxis.set_major_formatter(FuncFormatter(text))
    axes.xaxis.set_major_locator(MultipleLocator(60))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at / 60:.0f} min" if at else "now"))
    axes.grid(color="#d9dee5", linewidth=0.5)
    if all_series:
        axes.legend(fontsize=6.5, loc="upper left", ncols=2, frameon=True, framealpha=0.8)


def draw_dashboard(path, prometheus, rate_interval, output):
    dashboard = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    values, problems = values_of(dashboard, prometheus, rate_interval)
    if problems:
        raise ValueError("; ".join(problems))
    panels = list(panels_of(dashboard["panels"]))
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    width, height = COLUMNS * COLUMN_INCHES, (rows + 2) * ROW_INCHES
    figure = plt.figure(figsize=(width, height))
    figure.text(0.01, 1 - 0.6 * ROW_INCHES / height, dashboard["title"], fontsize=14, fontweight="bold", va="center")
    for panel in panels:
        at = panel["gridPos"]
        left, right = 0.045, 0.01
        bottom, top = (0.1, 0.9) if panel["type"] == "stat" else (0.55, 0.95)
        axes = figure.add_axes(
            (
                at["x"] / COLUMNS + left,
                1 - (at["y"] + at["h"] + 1.2 - bottom) * ROW_INCHES / height,
                at["w"] / COLUMNS - left - right,
                (at["h"] - bottom - top) * ROW_INCHES / height,
            )
        )
        axes.tick_params(labelsize=7)
        draw(panel, axes, prometheus, values)
    target = pathlib.Path(output) / f"dashboard-{pathlib.Path(path).stem}.png"
    figure.savefig(target, dpi=80)
    print(f"{target}: {len(panels)} panels")


def main():
    parser = argument_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="where the pictures go")
    arguments = parser.parse_args()
    prometheus = Prometheus(arguments.prometheus, arguments.span, arguments.timeout)
    try:
        for path in arguments.dashboards:
            draw_dashboard(path, prometheus, arguments.rate_interval, arguments.output)
    except (OSError, KeyError, ValueError) as error:
        sys.exit(f"cannot draw: {error!r}")


if __name__ == "__main__":
    main()
