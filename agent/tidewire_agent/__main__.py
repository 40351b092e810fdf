"""`python -m tidewire_agent` is `tidewire-agent`."""

from tidewire_agent.cli import main

main(prog_name="tidewire-agent")
