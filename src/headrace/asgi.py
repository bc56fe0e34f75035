"""The gateway for any ASGI server: `uvicorn headrace.asgi:app`, configured by `HEADRACE_CONFIG`."""

from __future__ import annotations

import os

from headrace.gateway import Gateway

app = Gateway.load(os.environ.get("HEADRACE_CONFIG", "gateway.yaml"))
