"""`python -m tidewire_hub` is `tidewire-hub`."""

from tidewire_hub.cli import main

main()
