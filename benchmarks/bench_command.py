"""Figures of ``tvlars bench`` on this machine, as a table of docs/results.

python benchmarks/bench_command.py
"""

from __future__ import annotations

from harness import asked, options

from tvlars.lab.bench import BenchConfig, bench


def main() -> None:
    arguments = options(__doc__, ["bench"], count=1).parse_args()
    for results, name in asked(arguments):
        found = bench(BenchConfig(accelerator=arguments.device), print)
        table = results.table(name)
        for row in found.rows:
            form, words = (",.2f", "long") if row.unit == "ms" else (",.0f", "fast")
            value = f"{row.value.median:{form}} {row.unit}"
            compared = f"{row.ratio.text()} times as {words} as {row.beside}"
            results.row(table, f"{row.part}: {row.what}", **{"median": value, "in comparison": compared})
        table.note = "; ".join([f"the command took {found.seconds:.0f} s", *found.notes])
        results.save(table)


if __name__ == "__main__":
    main()
