"""A report: one static HTML file out of result files, for people; it loads nothing from anywhere.

One section for each file: give one per setting, or several days of one setting. The same files
give the same bytes.

    python -m bench report bench/results/*.json -o report.html
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench import report_data, report_html, results
from tunneld.errors import ConfigError


def main(arguments: Sequence[str]) -> int:
    """Write the report; returns the exit code.

    Raises:
        ConfigError: a file that is no result file, or one that cannot be written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE", help="result of `python -m bench run`")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the HTML file")
    args = parser.parse_args(arguments)
    documents = [(Path(path).name, results.load(path)) for path in args.files]
    for path, (_, document) in zip(args.files, documents, strict=True):
        if not document["runs"]:
            raise ConfigError("holds no run yet", source=path, field="runs")
    page = report_html.page(report_data.datasets(documents))
    try:
        Path(args.output).write_text(page)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror}", source="flag --output", field=args.output
        ) from error
    return 0
