"""What can be measured here: contenders, workloads, settings."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence

from bench import contenders, show
from bench.report_names import SETTINGS
from bench.workloads import WORKLOADS


def main(arguments: Sequence[str]) -> int:
    """Print the lists."""
    parser = argparse.ArgumentParser(
        prog="python -m bench list",
        description=__doc__,
        epilog="example:\n  python -m bench list --json | jq -r '.contenders | keys[]'",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--flanneld", metavar="PATH", help="the binary, for the contender flannel")
    parser.add_argument("--json", action="store_true", help="for scripts")
    args = parser.parse_args(arguments)
    known = contenders.registry(contenders.Options(flanneld=args.flanneld))
    missing = {name: item.missing() for name, item in known.items()}
    if args.json:
        document = {
            "contenders": {name: {"missing": why} for name, why in missing.items()},
            "workloads": {
                name: {"title": item.title, "headline": item.headline}
                for name, item in WORKLOADS.items()
            },
            "settings": SETTINGS,
        }
        print(json.dumps(document, indent=2))
        return 0
    blocks = {
        "contenders": [[name, why or "ready"] for name, why in missing.items()],
        "workloads": [
            [name, f"{item.title} ({item.headline})"] for name, item in WORKLOADS.items()
        ],
        "settings of the underlay": [[name, text] for name, text in SETTINGS.items()],
    }
    for title, rows in blocks.items():
        print(f"{title}:")
        for name, text in rows:
            head = f"  {name:14}"
            wrapped = textwrap.wrap(
                text, show.WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
            )
            print("\n".join(wrapped))
        print()
    print(show.HOW_TO)
    return 0
