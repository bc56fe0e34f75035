"""The command line: each command is imported when it is called."""

from __future__ import annotations

import sys

_COMMANDS = {
    "serve": "Serve a gateway.",
    "init": "Write a gateway.yaml to begin with.",
    "check": "Say every problem of a configuration, and nothing else.",
    "doctor": "Try whether all that a configuration leans on is there, and say what to do.",
    "health": "Ask whether the gateway on this machine is ready, for health checks.",
    "diff": "Say what would change if one configuration took the place of another.",
    "explain": "Print what was understood of a configuration, and what becomes of a request.",
    "cache": "Clear what caches keep in the store.",
    "keys": "Make, list and take back the keys of callers that a file keeps.",
    "plugins": "List what can be named in gateway.yaml, or tell what one of it is for.",
    "schema": "Print the JSON Schema of gateway.yaml, for editors.",
}


def main() -> None:
    """The entry point of `headrace`."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from headrace.version import __version__

        sys.stdout.write(f"headrace {__version__}\n")
        return
    from headrace.cli.group import group

    group(_COMMANDS)(prog_name="headrace")
