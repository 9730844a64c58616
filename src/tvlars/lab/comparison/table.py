"""A comparison's table for people: on a terminal, and as Markdown for docs."""

from __future__ import annotations

import pandas as pd
from rich.console import Console
from rich.table import Table

from tvlars.lab.comparison.comparison import Comparison
from tvlars.lab.comparison.statistics import percent
from tvlars.lab.comparison.verdict import p_text


def print_table(comparison: Comparison) -> None:
    """Print the table to standard output, as wide as it has to be, and what it says in words."""
    rows = table_rows(comparison)
    if not rows:
        print("no run has finished")
        return
    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="left" if name == "optimizer" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table)
    for sentence in comparison.answers():
        print(sentence)


def markdown_table(comparison: Comparison) -> str:
    """The table in Markdown."""
    rows = table_rows(comparison)
    if not rows:
        return "no run has finished\n"
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def table_rows(comparison: Comparison) -> list[dict[str, str]]:
    """The table of a comparison with its cells as text; p is that of the difference from the highest mean."""
    rows = []
    for record in comparison.table().to_dict("records"):
        done = record["seeds"] > 0
        rows.append(
            {
                "optimizer": str(record["optimizer"]),
                "batch size": f"{record['batch_size']:,}",
                "lr": f"{record['lr']:.4g}",
                comparison.measure: percent(record["accuracy"], record["interval"]),
                "p (Holm)": "-" if pd.isna(record["p_adjusted"]) else p_text(record["p_adjusted"]),
                "each seed": " ".join(f"{100 * a:.2f}" for a in record["accuracies"] if a == a) or "-",
                "train loss": f"{record['train_loss']:.4f}" if done else "-",
                "test loss": f"{record['test_loss']:.4f}" if done else "-",
                "images/s": f"{record['images_per_second']:,.0f}" if done else "-",
                "runs": f"{record['seeds']}" + (f" of {record['of']}" if record["seeds"] < record["of"] else ""),
            }
        )
    return rows
