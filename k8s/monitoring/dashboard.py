"""Grafana's dashboard, drawn in code: `make monitoring` writes dashboard.json anew. Its SDK needs Python 3.11."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    GraphTresholdsStyleMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

from k8s.monitoring.panels import AT_A_GLANCE, CLOSED, ROWS, Panel

TARGET: Final = Path(__file__).with_name("dashboard.json")

_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_GREEN, _RED = "green", "red"
_WIDTHS: Final = {2: 12, 3: 8, 6: 8}
"""Of 24 columns, by the number of a row's panels; else four stand side by side."""


def dashboard() -> Dashboard:
    """All of it."""
    board = (
        Dashboard("PGN Serve")
        .uid("pgn-serve")
        .description("Made by k8s/monitoring/dashboard.py; changes made here are lost with the next version.")
        .tags(["pgn-serve"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-3h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("namespace", "label_values(pgn_ready, namespace)"))
        .with_variable(_variable("job", 'label_values(pgn_ready{namespace=~"$namespace"}, job)'))
    )
    number = 1
    for panel in AT_A_GLANCE:
        board.with_panel(_stat(panel).id(number).span(3).height(4))
        number += 1
    for title, panels in ROWS:
        row = Row(title).id(number).collapsed(title in CLOSED)
        width = _WIDTHS.get(len(panels), 6)
        drawn = [_lines(panel).id(number + 1 + each).span(width).height(8) for each, panel in enumerate(panels)]
        number += 1 + len(panels)
        if title in CLOSED:
            for each in drawn:
                row.with_panel(each)
            board.with_row(row)
        else:
            board.with_row(row)
            for each in drawn:
                board.with_panel(each)
    return board


def _variable(name: str, query: str) -> QueryVariable:
    everything = VariableOption(selected=True, text="All", value="$__all")
    return (
        QueryVariable(name)
        .datasource(_SOURCE)
        .query({"query": query, "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
        .current(everything)
    )


def _stat(panel: Panel) -> stat.Panel:
    drawn = stat.Panel().title(panel.title).description(panel.text).datasource(_SOURCE).unit(panel.unit)
    drawn.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    for target in _targets(panel):
        drawn.with_target(target.instant())
    return drawn.thresholds(_colours(panel))


def _lines(panel: Panel) -> timeseries.Panel:
    drawn = timeseries.Panel().title(panel.title).description(panel.text).datasource(_SOURCE).unit(panel.unit).min(0)
    drawn.legend(common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM))
    drawn.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    for target in _targets(panel):
        drawn.with_target(target)
    if panel.is_stacked:
        drawn.stacking(common.StackingConfig().mode(StackingMode.NORMAL)).fill_opacity(20)
    if panel.limit is not None:
        drawn.thresholds(_colours(panel))
        drawn.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    return drawn


def _targets(panel: Panel) -> list[Dataquery]:
    return [
        Dataquery().expr(expression).legend_format(legend).datasource(_SOURCE).ref_id(chr(ord("A") + number))
        for number, (expression, legend) in enumerate(panel.queries)
    ]


def _colours(panel: Panel) -> ThresholdsConfig:
    steps = [Threshold(None, _GREEN if panel.good_from is None else _RED)]  # Grafana's own would be red from 80 on
    if panel.limit is not None:
        steps.append(Threshold(panel.limit, _RED))
    if panel.good_from is not None:
        steps.append(Threshold(panel.good_from, _GREEN))
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def dashboard_json() -> str:
    """The file that Grafana imports."""
    return json.dumps(dashboard().build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    TARGET.write_text(dashboard_json())
