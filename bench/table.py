"""Measures the table of targets, and writes it as Markdown.

    python bench/table.py --list
    python bench/table.py --models FOLDER --peer-python PEER/bin/python --ik-python IK/bin/python \
        --repack --out RESULTS.md
    python bench/table.py ... --row decode-Q4_0 --row first-token --again

For each row, first the sweep: the peer alone, with each of its settings. Then we race the best of
them. What a row gave is kept at once, in JSON lines beside the results, so that a run that was cut
off goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from contenders import PeerError, at_least_one
from facts import facts_of_run
from measurements import Setup, measure, say
from results import Record, append_record, is_done, read_records, render
from targets import MODELS, ROWS, Row

from pymixtral import FormatError, PymixtralError
from pymixtral.engine import default_threads


def parse_arguments() -> argparse.Namespace:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="show the rows, and measure nothing")
    parser.add_argument("--models", type=Path, default=Path(), help="folder of the model files (.)")
    parser.add_argument(
        "--peer-python", default=sys.executable, help="an interpreter that has llama_cpp (this one)"
    )
    parser.add_argument(
        "--ik-python", default=sys.executable, help="one that has ik_llama_cpp (this one)"
    )
    parser.add_argument(
        "--row", action="append", choices=names, metavar="NAME", help="only this; can be repeated"
    )
    parser.add_argument("--again", action="store_true", help="measure rows anew that have results")
    parser.add_argument("-r", "--rounds", type=at_least_one, default=5, help="rounds of a race (5)")
    parser.add_argument("-t", "--threads", type=int, help="default: all that may be used")
    parser.add_argument(
        "--repack", action="store_true", help="our weights repacked, where speeds are raced"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("RESULTS.md"),
        help="what to write, and to go on with (./RESULTS.md)",
    )
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.list:
        list_rows(ROWS)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    kept = options.out.with_suffix(".jsonl")
    records = read_records(kept)
    setup = make_setup(options)
    check_machine(setup, records, options.out)
    for row in ROWS:
        if options.row and row.name not in options.row:
            continue
        if is_done(records.get(row.name)) and not options.again:
            say(f"{row.name}: has a result already (--again measures it anew)")
            continue
        say(f"{row.name}:")
        record = run_row(row, setup)
        if record.not_run:
            say(f"  NOT RUN: {record.not_run}")
        for figure in record.figures:
            say("  " + " | ".join(filter(None, figure.cells())))
        append_record(kept, record)
        records = read_records(kept)
        options.out.write_text(render(ROWS, records), encoding="utf-8")
    say(f"wrote {options.out}")


def check_machine(setup: Setup, records: Mapping[str, Record], out: Path) -> None:
    """One table is of one machine."""
    others = {record.facts["CPU"] for record in records.values()} - {setup.facts["CPU"]}
    if others:
        raise SystemExit(
            f"error: {out} has results of another CPU ({', '.join(others)}); choose another --out"
        )


def list_rows(rows: Sequence[Row]) -> None:
    for row in rows:
        tried = len(row.sweep()) if row.choices else 0
        print(f"{row.name:28} {row.model:28} {row.package:12} {tried:3} settings in the sweep")


def run_row(row: Row, setup: Setup) -> Record:
    """What the row gave, or why it was not run."""
    path = setup.path(row)
    if not path.exists():
        how = f"there is no {row.model}; make it: python bench/make_synthetic.py {row.model} "
        return Record(row.name, setup.facts, not_run=how + MODELS[row.model])
    try:
        return measure(row, setup)
    except (PeerError, PymixtralError, FormatError) as error:
        return Record(row.name, setup.facts, not_run=str(error))


def make_setup(options: argparse.Namespace) -> Setup:
    threads = options.threads or default_threads()
    return Setup(
        models=options.models,
        pythons={"llama_cpp": options.peer_python, "ik_llama_cpp": options.ik_python},
        threads=threads,
        rounds=options.rounds,
        repack=options.repack,
        facts=facts_of_run(threads, options.rounds),
    )


if __name__ == "__main__":
    main()
