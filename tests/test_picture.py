"""The README's picture shows the figures that are committed."""

from __future__ import annotations

from picture import PICTURE, QUALITIES, SOURCES, bars, picture


def test_the_picture_is_drawn_from_the_committed_results():
    assert PICTURE.read_text(encoding="utf-8") == picture()


def test_the_picture_has_a_bar_for_every_cost_that_is_reached():
    shown = [bar for source in SOURCES for quality in QUALITIES for bar in bars(source, quality)]
    drawn = picture().count("<rect") - 1  # one is the background
    assert drawn == sum(bar.cost is not None for bar in shown) > 0
    assert picture().count("never reached") == sum(bar.cost is None for bar in shown)
