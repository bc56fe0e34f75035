"""The model server's own process: llama.cpp's HTTP server, for as long as somebody holds its stdin.

    python -m headrace_plugins.forwarders.local_model.child --model FILE --alias NAME

It serves OpenAI's chat, completions and embeddings on a free port of 127.0.0.1 and says which in
one line of JSON on stdout, once it can answer: `{"port": 40123}`. It ends when stdin does. A pipe
closes with the process that holds its other end, however that process dies, so there is never a
model server without a gateway.

`server.py` runs this file by its path: nothing is imported here but the standard library and
xllamacpp.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

ALONE = "http://127.0.0.1"
MEGABYTES_OF_OLD_PROMPTS = 0
WARNINGS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model until stdin ends."""
    options = _options(arguments)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Ctrl-C, a closed terminal and systemd's stop go to the whole group. Only the gateway
        # knows whether calls are still under way: it closes stdin when they are not.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    watch = threading.Thread(target=_leave_at_end_of_stdin, daemon=True)
    watch.start()
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints belongs to the log, not in front of our line
    try:
        port = _serve(options)
    except (ImportError, RuntimeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    with stdout:
        print(json.dumps({"port": port}), file=stdout)
    watch.join()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="child", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="FILE", help="a .gguf file")
    parser.add_argument("--alias", required=True, metavar="NAME", help="what the model is called")
    parser.add_argument(
        "--context", type=int, default=2048, metavar="N", help="tokens of one call, in and out"
    )
    parser.add_argument(
        "--parallel", type=int, default=4, metavar="N", help="calls answered at once; others wait"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one for each core)"
    )
    return parser.parse_args(arguments)
