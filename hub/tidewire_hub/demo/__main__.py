"""`python -m tidewire_hub.demo` is `tidewire-hub demo`."""

import sys

from tidewire_hub.cli import main

main(["demo", *sys.argv[1:]])
