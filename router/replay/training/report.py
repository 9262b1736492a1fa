"""A training's figures as pictures, and as a page that stands alone."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import ConfigurationError
from router.replay.evaluation.plot import load_matplotlib

RELIABILITY, CURVE, PAGE = "reliability.png", "learning_curve.png", "report.html"
_INK, _MUTED, _GRID = "#1f2933", "#52606d", "#e4e7eb"
_NEW, _SHIPPED = "#1264d6", "#c2571a"
_DPI = 150
_STYLE = {
    "font.size": 10,
    "axes.edgecolor": "#cbd2d9",
    "axes.labelcolor": _MUTED,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
}
_CSS = """
body { margin: 2.5rem auto; max-width: 62rem; padding: 0 1rem; color: #1f2933;
       font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
.verdict { border-left: 5px solid; padding: .7rem 1rem; background: #f5f7fa; font-size: 1.05rem }
.good { border-color: #2f9e5b } .bad { border-color: #c2571a }
img { width: 100%; height: auto } p.note { color: #52606d; font-size: .9rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem 1rem .25rem 0; border-bottom: 1px solid #e4e7eb }
th:first-child, td:first-child { text-align: left }
@media (max-width: 40rem) { table { display: block; overflow-x: auto } }
"""


def write_report(figures: Mapping[str, Any], folder: str | Path) -> list[Path]:
    """Write the reliability diagram, the learning curve and the page that shows both.

    Parameters: `figures` of `Trained.as_dict`; `folder` is made where it is missing.
    Returns the files. Raises `ConfigurationError` where matplotlib is missing or the folder cannot
    be written.
    """
    matplotlib, pyplot = load_matplotlib()
    at = Path(folder)
    try:
        at.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(_STYLE):
            _reliability(pyplot, figures, at / RELIABILITY)
            pictures = [RELIABILITY]
            if sum(point["area"] is not None for point in figures["learning_curve"]) > 1:
                _learning_curve(pyplot, figures, at / CURVE)
                pictures.append(CURVE)
        page = _page(figures, {name: (at / name).read_bytes() for name in pictures})
        (at / PAGE).write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{at}: the report cannot be written: {error}") from error
    return [at / name for name in (*pictures, PAGE)]


def _plain_axes(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(color=_GRID, linewidth=0.8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)


def _head(figure: Any, title: str, under: str, height: float, left: float) -> None:
    """Title and a line under it, at a fixed distance from the top of a picture `height` inches."""
    figure.text(left, 1 - 0.42 / height, title, fontsize=14, fontweight="bold")
    figure.text(left, 1 - 0.70 / height, under, color=_MUTED)


def _reliability(pyplot: Any, figures: Mapping[str, Any], path: Path) -> None:
    """One panel a tier: what was predicted against what came, in ten bins of equal count."""
    tiers = {name: one for name, one in figures["held_out"]["tiers"].items() if one["bins"]}
    width, height = max(7.0, 3.3 * len(tiers)), 4.9
    figure, panels = pyplot.subplots(
        1, len(tiers), figsize=(width, height), sharey=True, squeeze=False
    )
    try:
        for axes, (tier, new) in zip(panels[0], tiers.items(), strict=True):
            _plain_axes(axes)
            axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (5, 3)))
            shipped = figures["shipped"]["tiers"][tier]
            for one, colour, marker, label in (
                (shipped, _SHIPPED, "s", "shipped model"),
                (new, _NEW, "o", "new model"),
            ):
                if one["bins"]:
                    _bins(axes, one["bins"], colour, marker, label)
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.set_aspect("equal")
            axes.set_title(
                f"{tier}  ECE {new['ece']['value']:.3f}", loc="left", fontsize=10.5, color=_INK
            )
            axes.set_xlabel("predicted P(good)")
            ticks = [0, 0.25, 0.5, 0.75, 1]
            axes.set_xticks(ticks, ["0", ".25", ".5", ".75", "1"])
            axes.set_yticks(ticks, ["0", ".25", ".5", ".75", "1"])
        panels[0][0].set_ylabel("share of good answers")
        left = 0.6 / width
        _head(
            figure,
            "Can the predicted probabilities be believed?",
            f"{figures['judged']:,} held-out requests in ten bins of equal count; bars: 95%",
            height,
            left,
        )
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(
            handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(left - 0.01, 0.0),
            ncols=2, frameon=False,
        )  # fmt: skip
        figure.subplots_adjust(left=left, right=0.985, top=0.77, bottom=0.2, wspace=0.1)
        figure.savefig(path, dpi=_DPI)
    finally:
        pyplot.close(figure)


def _bins(axes: Any, bins: list[list[float]], colour: str, marker: str, label: str) -> None:
    predicted, came, count = np.array(bins).T
    spread = 1.96 * np.sqrt(np.clip(came * (1 - came), 0, None) / count)
    axes.errorbar(
        predicted,
        came,
        yerr=[np.minimum(spread, came), np.minimum(spread, 1 - came)],
        fmt=marker,
        color=colour,
        ecolor=colour,
        elinewidth=1,
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=label,
        alpha=0.95,
    )


def _learning_curve(pyplot: Any, figures: Mapping[str, Any], path: Path) -> None:
    points = [point for point in figures["learning_curve"] if point["area"] is not None]
    found = figures["comparison"]
    rows = np.array([point["rows"] for point in points], dtype=float)
    area = np.array([point["area"] for point in points], dtype=float)
    low, high = np.array([point["interval"] for point in points], dtype=float).T
    width, height = 8.0, 5.0
    figure, axes = pyplot.subplots(figsize=(width, height))
    try:
        _plain_axes(axes)
        axes.fill_between(rows, low, high, color=_NEW, alpha=0.14, linewidth=0)
        axes.plot(rows, area, "o-", color=_NEW, linewidth=2.4, markersize=6.5,
                  markeredgecolor="white", label="new model, 95% band")  # fmt: skip
        axes.axhline(found["shipped"], color=_SHIPPED, linewidth=1.8, label="shipped model")
        axes.axhline(0.5, color=_MUTED, linewidth=1.2, linestyle=(0, (5, 3)), label="random order")
        axes.set_xscale("log")
        axes.set_xlim(rows[0] / 1.12, rows[-1] * 1.12)
        axes.set_xticks(rows, [f"{count:,.0f}" for count in rows])
        axes.minorticks_off()
        values = [*low, *high, found["shipped"], 0.5]
        room = 0.1 * (np.nanmax(values) - np.nanmin(values))
        axes.set_ylim(np.nanmin(values) - room, np.nanmax(values) + room)
        axes.set_xlabel("requests learnt from")
        axes.set_ylabel("gain area")
        left = 0.78 / width
        _head(
            figure,
            "What more data would bring",
            "How well gains from a dearer tier are ordered: 1 an oracle, 0.5 a random order",
            height,
            left,
        )
        figure.legend(loc="lower left", bbox_to_anchor=(left - 0.012, 0.0), ncols=3, frameon=False)
        figure.subplots_adjust(left=left, right=0.97, top=0.81, bottom=0.2)
        figure.savefig(path, dpi=_DPI)
    finally:
        pyplot.close(figure)


def _page(figures: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    captions = {
        RELIABILITY: ("Reliability", "Points on the dashed line mean what they say: of requests "
                      "with a predicted 0.7, seven in ten were answered well."),
        CURVE: ("Learning curve", "Each model was fitted to a part of the same rows and judged on "
                "the same others. A curve that still rises says that more labels would help."),
    }  # fmt: skip
    shown = "".join(
        f'<h2>{captions[name][0]}</h2><img alt="{captions[name][0]}" '
        f'src="data:image/png;base64,{b64encode(data).decode()}">'
        f'<p class="note">{captions[name][1]}</p>'
        for name, data in pictures.items()
    )
    good = "good" if figures["promoted"] else "bad"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>router train</title><style>{_CSS}</style>"
        f"<h1>A new model from {figures['rows']:,} requests</h1>"
        f'<p class="verdict {good}">{escape(figures["sentence"])}</p>'
        f'<p class="note">Judged by {escape(figures["how"])}; fitted to {figures["fitted"]:,}; '
        f"carries {figures['calibration_queries']:,} calibration queries; compared with "
        f"{escape(figures['shipped']['model'])}.</p>"
        f"<h2>Held-out figures</h2>{_table(figures)}{shown}</html>\n"
    )


def _table(figures: Mapping[str, Any]) -> str:
    heads = ("tier", "model", "AUC", "Brier", "ECE", "≤ P50", "≤ P90", "≤ P95")
    rows = [f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"]
    rows += [
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in table_rows(figures)
    ]
    return f"<table>{''.join(rows)}</table>"


def table_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Each tier's held-out figures as text: AUC, Brier and ECE with intervals, token coverage."""
    rows = []
    for tier in figures["tiers"]:
        for name, source in (("new", figures["held_out"]), ("shipped", figures["shipped"])):
            one = source["tiers"][tier]
            covered = one["token_coverage"] or {}
            rows.append(
                [
                    tier,
                    name,
                    *(with_interval(one[key]) for key in ("auc", "brier", "ece")),
                    *(
                        f"{covered[key]['value']:.0%}" if key in covered else "-"
                        for key in ("p50", "p90", "p95")
                    ),
                ]
            )
    return rows


def with_interval(figure: Mapping[str, Any] | None) -> str:
    """A figure and its 95% interval as text."""
    if figure is None:
        return "-"
    spread = figure["interval"]
    if spread is None or spread[0] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{spread[0]:.3f}, {spread[1]:.3f}]"
