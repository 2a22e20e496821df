"""Figures, measured in one run of some minutes: see docs/benchmarks.md."""

import argparse
import sys
from collections.abc import Callable, Sequence

import cores
import gateway
import imports
import overhead
import report
import rows
import sdk_calls
import sdk_streams
import streams
import telemetry
import throughput
from rounds import Section

PARTS: dict[str, Callable[[], Sequence[Section]]] = {
    "overhead": overhead.sections,
    "throughput": throughput.sections,
    "gateway": gateway.sections,
    "batch": rows.sections,
    "streams": streams.sections,
    "sdk-calls": sdk_calls.sections,
    "sdk-streams": sdk_streams.sections,
    "telemetry": telemetry.sections,
    "import": imports.sections,
}


def main() -> None:
    """Measure what is asked for, print it, and write it down if wished."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--markdown", action="store_true", help="print the text for the docs")
    parser.add_argument("--write", action="store_true", help="rewrite the block in the docs")
    wishes = parser.parse_args()
    unknown = set(wishes.parts) - set(PARTS)
    if unknown or (wishes.parts and wishes.write):
        parser.error(
            f"no such part: {', '.join(unknown)}" if unknown else "--write needs all parts"
        )
    machine = cores.describe()
    tables = sys.stderr if wishes.markdown else sys.stdout
    print(machine, end="\n\n", file=tables)
    measured: list[Section] = []
    for part in wishes.parts or PARTS:
        for section in PARTS[part]():
            print(report.plain(section), file=tables, flush=True)
            measured.append(section)
    text = report.markdown(measured, machine)
    if wishes.markdown:
        print(text)
    if wishes.write:
        report.rewrite(text)


if __name__ == "__main__":
    main()
