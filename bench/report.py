"""Figures, their medians over the rounds, and the one table they become."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

Values = Mapping[str, float]
"""Column -> figure, of one program in one round."""
COUNTS = frozenset(("missed", "doubled"))
"""Columns of which a ratio would say nothing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One program under one condition; `ratio` is how it stands to the named reference, per column."""

    suite: str
    condition: str
    program: str
    values: dict[str, float]
    rounds: int = 1
    ratios: dict[str, dict[str, float]] = field(default_factory=dict)
    """Reference program -> column -> this program / the reference."""


def rows_of(suite: str, condition: str, rounds: Sequence[Mapping[str, Values]], references: Sequence[str]) -> list[Row]:
    """`rounds`: program -> figures, once per round; ratios are of the medians."""
    names = dict.fromkeys(name for one in rounds for name in one)
    medians = {name: _medians([one[name] for one in rounds if name in one]) for name in names}
    return [
        Row(suite, condition, name, medians[name], len(rounds), _ratios(name, medians, references)) for name in names
    ]


def _medians(figures: Sequence[Values]) -> dict[str, float]:
    columns = dict.fromkeys(column for one in figures for column in one)
    return {column: median(one[column] for one in figures if column in one) for column in columns}


def _ratios(name: str, medians: Mapping[str, Values], references: Sequence[str]) -> dict[str, dict[str, float]]:
    own = medians[name]
    return {
        reference: {c: own[c] / v for c, v in medians[reference].items() if v and c in own and c not in COUNTS}
        for reference in references
        if reference in medians
    }


def table(rows: Sequence[Row]) -> str:
    """Markdown, a table per condition. A cell: the ratio to each reference, then the figure itself."""
    parts: list[str] = []
    for key in dict.fromkeys((row.suite, row.condition) for row in rows):
        parts += _section([row for row in rows if (row.suite, row.condition) == key])
    return "\n".join(parts)


def _section(rows: Sequence[Row]) -> list[str]:
    columns = list(dict.fromkeys(column for row in rows for column in row.values))
    present = dict.fromkeys(row.program for row in rows)
    references = [r for r in dict.fromkeys(r for row in rows for r in row.ratios) if r in present]
    cells = "".join(f"x {reference} / " for reference in references)[:-3]
    cells = f"; cells: {cells} · figure" if cells else ""
    title = f"## {rows[0].suite}: {rows[0].condition}\n\nMedian of {rows[0].rounds}{cells}.\n"
    lines = [["program", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row.program, *(_cell(row, column, references) for column in columns)] for row in rows]
    return ["", title, *("| " + " | ".join(line) + " |" for line in lines)]


def _cell(row: Row, column: str, references: Sequence[str]) -> str:
    if column not in row.values:
        return "-"
    ratios = [_number(row.ratios[name][column]) if column in row.ratios.get(name, {}) else "-" for name in references]
    figure = _number(row.values[column])
    return figure if set(ratios) <= {"-"} else f"{' / '.join(ratios)} · {figure}"


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2g}"


def write_json(rows: Sequence[Row], about: Mapping[str, object], path: Path) -> None:
    path.write_text(json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=1), encoding="utf-8")
