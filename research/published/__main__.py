"""Play what others have published again, and write the tables and pictures of docs/background/published.md and docs/background/theory.md."""

import argparse
import os

from kept import ROOT
from marked import Block
from published import theory
from published.page import page
from published.plots import draw
from published.study import study

TABLES = Block(
    ROOT / "docs" / "background" / "published.md", "<!-- tables: begin -->", "<!-- tables: end -->"
)


def main() -> None:
    """Run, draw and write."""
    parser = argparse.ArgumentParser(prog="published", description=__doc__)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["published", "theory"], help="one of the two pages")
    options = parser.parse_args()
    if options.only != "theory":
        done = study(options.jobs)
        draw(done, ROOT / "docs" / "background" / "published")
        TABLES.write(page(done))
    if options.only != "published":
        theory.rewrite()


if __name__ == "__main__":
    main()
