"""`python -m tidewire_hub.demo` is `tidewire-hub demo`."""

from tidewire_hub.demo import command

command()
