"""The model server's own process: llama.cpp's HTTP server, for as long as somebody holds its stdin.

    python -m headrace_plugins.forwarders.local_model.child --model FILE --alias NAME

It serves OpenAI's chat, completions and embeddings on a free port of 127.0.0.1, and says which port
in one line of JSON on stdout when it can answer: `{"port": 40123}`. It ends when stdin does: a pipe
closes with the process that holds its other end, however that process dies, so no model server is
left without a gateway.

`process.py` runs this file by its path; it imports nothing but the standard library and xllamacpp.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

WARNINGS = 2
"""llama.cpp's log levels: 1 errors, 2 warnings, 3 what it does."""

TOKENS_AT_A_TIME = 512
"""The longest text that can be embedded, and the longest step that nothing interrupts (2 s). The
first long embedding takes memory for a vocabulary a token: 200 MB at 512, 800 MB at 2048."""

WAITING_CALLS = 128
"""How many connections are heard at once. llama.cpp gives each a thread, also while it is only kept
alive, and its own default of eight is soon too few: all others then hang without a word."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model until stdin ends."""
    options = _options(arguments)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        # Ctrl-C, a closed terminal and systemd's stop reach the whole group. The gateway may have
        # calls to finish, so the gateway says when: it closes stdin.
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    stdin = threading.Thread(target=_leave_with_stdin, daemon=True)
    stdin.start()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is log
    try:
        server = _server(options)
    except ModuleNotFoundError as error:
        print(f"{error}: a local model needs pip install 'headrace[local]'", file=sys.stderr)
        return 1
    except ImportError as error:  # it is installed, and this machine lacks one of its libraries
        print(f"{error}: install it (libgomp.so.1 is in Debian's libgomp1)", file=sys.stderr)
        return 1
    except RuntimeError as error:  # what was wrong, llama.cpp has said on stderr
        print(error, file=sys.stderr)
        return 1
    with answers:
        print(json.dumps({"port": urlsplit(server.listening_address).port}), file=answers)
    stdin.join()
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Serve a model on 127.0.0.1 until stdin ends.")
    parser.add_argument("--model", required=True, metavar="FILE", help="the .gguf file")
    parser.add_argument("--alias", required=True, metavar="NAME", help="its name in replies")
    parser.add_argument(
        "--context", type=int, default=2048, metavar="N", help="tokens of one call, in and out"
    )
    parser.add_argument(
        "--parallel", type=int, default=4, metavar="N", help="calls at once; the others wait"
    )
    parser.add_argument(
        "--threads", type=int, default=-1, metavar="N", help="of the CPU; -1 takes every core"
    )
    return parser.parse_args(arguments)


def _leave_with_stdin() -> None:
    """End this process, whatever it is doing, when stdin ends.

    Only loading the model holds the interpreter, and so this thread, up for a while.
    """
    while os.read(0, 4096):
        pass
    os._exit(0)


def _server(options: argparse.Namespace) -> Any:
    """Load the model and serve it, from threads of its own, for as long as the result is held."""
    # Threads that wait for work must not spin: the gateway runs on the same cores. OpenMP reads
    # this when it is loaded, hence before the import.
    os.environ["OMP_WAIT_POLICY"] = "passive"
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = options.model
    wanted.model_alias = {options.alias}
    wanted.hostnames = ["127.0.0.1"]
    wanted.port = 0
    wanted.n_threads_http = WAITING_CALLS
    wanted.cors_origins = "http://127.0.0.1"  # the default lets in every page a browser shows
    wanted.endpoint_slots = False  # shows other callers' prompts
    wanted.ui = False
    wanted.verbosity = WARNINGS
    # A share of its own for each call: from a pool, one call too many fails all that are running.
    wanted.n_parallel = options.parallel
    wanted.n_ctx = options.context * options.parallel
    wanted.kv_unified = False
    # Old prompts are kept where they were read, and not copied to 8 GB of memory besides.
    wanted.cache_ram_mib = 0
    wanted.cache_idle_slots = False
    # Chat is the same, byte for byte, on a server that also embeds.
    wanted.embedding = True
    wanted.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    wanted.n_batch = wanted.n_ubatch = TOKENS_AT_A_TIME
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = options.threads
    return xllamacpp.Server(wanted)


if __name__ == "__main__":
    sys.exit(main())
