"""`python -m tunneld` is the same as the installed `tunneld` command."""

import sys

from tunneld.cli import main

sys.exit(main())
