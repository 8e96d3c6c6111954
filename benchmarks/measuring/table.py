"""Rows of a speed benchmark as a Markdown table, readable as plain text too."""

from __future__ import annotations

from typing import Any

HEAD = (
    "case",
    "K",
    "dtype",
    "updates/s",
    "20–80 %",
    "peer fp32",
    "peer fp64",
    "× its faster dtype (target)",
    "× same dtype (target)",
    "of bound",
    "error",
)


def markdown(result: dict[str, Any]) -> str:
    """The table with what a reader must know above and below it."""
    machine, rows = result["machine"], result["rows"]
    environments = {"ours": machine["versions"]} | result["peer_versions"]
    lines = [
        f"{machine['cpu']} (family/model {machine['cpu_family_model']}; {', '.join(machine['simd'])}), "
        f"{machine['cores']} cores. "
        + runs(rows)
        + " ".join(f"{whose}: {_listed(versions)}." for whose, versions in environments.items()),
        "",
        *grid(rows),
    ]
    if result["peer_versions"]:
        lines += ["", "Settings of the peers, the fastest of those tried: " + "; ".join(settings(rows)) + "."]
    return "\n".join(lines) + "\n"


def grid(rows: list[dict[str, Any]]) -> list[str]:
    """The lines of the table."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(HEAD))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    lines = ["| " + " | ".join(line) + " |" for line in padded]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def runs(rows: list[dict[str, Any]]) -> str:
    """When each case was measured; a case is always measured in one run, ours and the peer in turns."""
    cases: dict[tuple[Any, ...], dict[str, None]] = {}
    for row in rows:
        run = row["run"]
        cases.setdefault((run["date"][:16], run["commit"], run["load_before"]), {})[row["case"]] = None
    return "".join(
        f"{', '.join(names) if len(cases) > 1 else 'All cases'}: {date}, commit {commit}, load {load} before. "
        for (date, commit, load), names in cases.items()
    )


def settings(rows: list[dict[str, Any]]) -> list[str]:
    """One text for each case and dtype of a peer."""
    found: dict[str, None] = {}
    for row in rows:
        for dtype, values in row["peer_settings"].items():
            words = " ".join(f"{key} {value}" for key, value in values.items())
            found[f"{row['case']} {row['peer']} {dtype} {words}"] = None
    return list(found)


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate, peers = row["updates_per_s"], row["peer_updates_per_s"]
    return (
        row["case"],
        "K(X,X)" if row["symmetric"] else "K(X,Z)",
        row["dtype"],
        f"{rate['median']:.3g}",
        f"{rate['q20']:.3g}–{rate['q80']:.3g}",
        *(f"{peers[dtype]['median']:.3g}" if dtype in peers else "–" for dtype in ("float32", "float64")),
        _against(row["ratio_to_faster"], row["target"]),
        _against(row["ratio_to_same_dtype"], row["same_dtype_target"]),
        f"{row['share_of_bound']:.0%}",
        f"{row['error']:.0e}",
    )


def _against(ratio: dict[str, float] | None, target: float | None) -> str:
    if ratio is None:
        return "–"
    text = f"{ratio['median']:.2g}" if ratio["median"] < 10 else f"{ratio['median']:.0f}"
    return (
        text if target is None else f"{text} ({target:g}: {'met' if ratio['median'] >= target else 'MISSED'})"
    )
