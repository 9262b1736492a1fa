"""The cost-quality picture of an evaluation, as PNG, SVG or a page that stands alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import ConfigurationError
from router.replay.evaluation.curves import upper_hull
from router.replay.recorded.rows import TRAIN_EXTRA

_INK, _MUTED, _GRID = "#1f2933", "#52606d", "#e4e7eb"
_ROUTER, _MIX, _SINGLE = "#1264d6", "#7b8794", "#1f2933"
# Line colour and dash of each comparison; told apart without colour, too.
_STYLES: Mapping[str, tuple[str, Any, str]] = {
    "task_table": ("#2f9e5b", (0, (5, 1.5)), "true-task table"),
    "knn": ("#b7791f", (0, (3, 1, 1, 1)), "nearest neighbours"),
    "length": ("#c2417c", (0, (1, 1)), "length heuristic"),
    "shuffled_labels": ("#9aa5b1", (0, (2, 2)), "shuffled labels"),
    "oracle": ("#7c5cc4", (0, (1, 2.2)), "oracle (inflated by noise)"),
}
SUFFIXES = (".png", ".svg", ".pdf", ".html")


def draw(report: Mapping[str, Any], path: str | Path) -> None:
    """Draw cost against quality: the router with its 95% band, single models and comparisons.

    Parameters: `report` of an `Evaluation`; `path` ends in one of `SUFFIXES`.
    Raises `ConfigurationError` where matplotlib is missing, the suffix is another one, the file
    cannot be written, or the outcomes have no scores or no cost to draw.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigurationError(f"{path}: a plot ends in one of {', '.join(SUFFIXES)}")
    points = report["curve"]
    if report["judged"] == 0 or points[0]["cost_pct"] is None:
        raise ConfigurationError(f"{path}: nothing to draw, since scores or costs are unknown")
    matplotlib, pyplot = load_matplotlib()
    style = {
        "font.size": 10,
        "axes.edgecolor": _GRID,
        "axes.labelcolor": _MUTED,
        "text.color": _INK,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
        "svg.hashsalt": "tiered-router",
        "text.parse_math": False,  # a file's name may have dollars in it
    }
    with matplotlib.rc_context(style):
        figure, panels = pyplot.subplots(
            1, 2, figsize=(12.5, 6.4), sharey=True, width_ratios=(3, 2)
        )
        try:
            _panel(panels[0], report, logarithmic=True)
            _panel(panels[1], report, logarithmic=False)
            _frame(figure, panels, report)
            _save(figure, file, report)
        finally:
            pyplot.close(figure)


def load_matplotlib() -> tuple[Any, Any]:
    """Import matplotlib, without a display, and pyplot; `ConfigurationError` if missing."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise ConfigurationError(f"a plot needs matplotlib: {TRAIN_EXTRA}") from None
    return matplotlib, pyplot


def _panel(axes: Any, report: Mapping[str, Any], *, logarithmic: bool) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=_GRID, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    comparisons = report["comparisons"]
    singles = {
        name.removeprefix("single:"): (one["curve"]["cost_pct"][0], one["curve"]["quality"][0])
        for name, one in comparisons.items()
        if name.startswith("single:")
    }
    for name, (colour, dash, label) in _STYLES.items():
        if name in comparisons:
            axes.plot(
                *_line(comparisons[name]["curve"]),
                color=colour,
                linestyle=dash,
                linewidth=1.6,
                label=label,
            )
    if "random_mix" in comparisons:
        mix = _line(comparisons["random_mix"]["curve"])
        axes.plot(*mix, color=_MIX, linewidth=1.4, label="best random mix")
    if report["band"]:
        band = report["band"]
        axes.fill_between(
            band["cost_pct"], band["low"], band["high"], color=_ROUTER, alpha=0.13, linewidth=0
        )
    router = _line({key: [p[key] for p in report["curve"]] for key in ("cost_pct", "quality")})
    axes.plot(*router, color=_ROUTER, linewidth=2.8, label="router, 95% band")
    if "litellm_heuristic" in comparisons:
        point = comparisons["litellm_heuristic"]["curve"]
        axes.plot(
            point["cost_pct"],
            point["quality"],
            "X",
            color="#d64545",
            markersize=9,
            linestyle="none",
            markeredgecolor="white",
            label="litellm's heuristic",
        )
    for tier, (x, y) in singles.items():
        axes.plot(x, y, "o", color=_SINGLE, markersize=7, markeredgecolor="white", zorder=5)
        # Neighbours a few percent apart: the dearest one's name stands above its point.
        crowded = any(1 < x / other < 1.15 for other, _ in singles.values() if other > 0)
        right = x > (90 if logarithmic else 60)
        axes.annotate(
            tier,
            (x, y),
            (-8 if right else 8, 9 if crowded else -13),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=9,
            fontweight="bold",
            color=_INK,
            zorder=6,
        )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_percent)
        axes.xaxis.set_minor_formatter(lambda value, at: "")
    else:
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlim(left=-2)


def _frame(figure: Any, panels: Sequence[Any], report: Mapping[str, Any]) -> None:
    qualities = [p["quality"] for p in report["curve"]]
    tops = [one["curve"]["quality"] for one in report["comparisons"].values()]
    singles = [one for name, one in report["comparisons"].items() if name.startswith("single:")]
    frontier = singles[-1]["curve"]["quality"][0] if singles else max(qualities)
    high = max(max(qualities), frontier, *(max(one) for one in tops))
    low = min(min(qualities), *(min(one) for one in tops)) if tops else min(qualities)
    # An oracle far above would press everything else flat: it may leave through the roof.
    roof = min(high, max(max(qualities), frontier) + 0.45 * (max(qualities) - low))
    room = 0.04 * (roof - low) or 0.01
    for axes in panels:
        axes.set_ylim(low - 1.6 * room, roof + room)
        axes.axhline(frontier, color=_MUTED, linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)
        axes.set_xlabel("cost, % of always frontier")
        axes.yaxis.set_major_formatter(lambda value, at: f"{value:.2f}")
    panels[0].annotate(
        "always frontier's quality",
        (0.01, frontier),
        (0, 4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8.5,
        color=_MUTED,
    )
    panels[0].set_ylabel("mean quality")
    panels[0].set_title("the cheap end (logarithmic)", loc="left", fontsize=10, color=_MUTED)
    panels[1].set_title("the whole range (linear)", loc="left", fontsize=10, color=_MUTED)
    name = Path(report["outcomes"]).stem
    how = f"{report['folds']}-fold" if report["folds"] else f"model {report['model']}"
    figure.suptitle(
        f"Cost against quality on {name}",
        x=0.06,
        y=0.975,
        ha="left",
        fontsize=15,
        fontweight="bold",
    )
    figure.text(
        0.06, 0.905, f"{report['judged']:,} queries · {how} · seed {report['seed']}", color=_MUTED
    )
    handles, labels = panels[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("router"))
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=9.5,
        handlelength=3,
        labelcolor=_INK,
    )
    figure.subplots_adjust(left=0.06, right=0.985, top=0.85, bottom=0.2, wspace=0.06)


def _line(curve: Mapping[str, Any]) -> tuple[Any, Any]:
    """A hull with points on the way: a straight line is none on a logarithmic axis."""
    xs, ys = upper_hull(np.array(curve["cost_pct"]), np.array(curve["quality"]))
    if len(xs) < 2 or xs[0] <= 0:
        return xs, ys
    grid = np.union1d(xs, np.geomspace(xs[0], xs[-1], 200))
    return grid, np.interp(grid, xs, ys)


def _percent(value: float, at: int) -> str:
    return f"{value:g}%"


def _save(figure: Any, file: Path, report: Mapping[str, Any]) -> None:
    try:
        if file.suffix.lower() != ".html":
            figure.savefig(file, dpi=150)
            return
        svg = StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None})
        drawing = svg.getvalue()
        title = escape(f"Cost against quality on {Path(report['outcomes']).stem}")
        file.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            "<style>body{margin:2rem auto;max-width:75rem;font-family:system-ui,sans-serif}"
            f"svg{{width:100%;height:auto}}</style>{drawing[drawing.index('<svg') :]}</html>\n",
            encoding="utf-8",
        )
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be written: {error}") from error
