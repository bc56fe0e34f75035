"""A collector to look at: prints every span that comes to http://127.0.0.1:4318."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

SHOWN = ("gen_ai.provider.name", "gen_ai.response.model", "gen_ai.usage.output_tokens")
SHOWN = (*SHOWN, "headrace.route", "headrace.upstream", "error.type")


class Collector(BaseHTTPRequestHandler):
    """Takes spans as OTLP over HTTP brings them."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    show(span)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: what is of interest are the spans."""


def show(span) -> None:
    """One line: trace, span and parent by their first digits, name, time, and what is told."""
    told = {each.key: next(iter(each.value.ListFields()))[1] for each in span.attributes}
    ids = [
        each.hex()[:6] or "------" for each in (span.trace_id, span.span_id, span.parent_span_id)
    ]
    took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
    told = " ".join(f"{name}={told[name]}" for name in SHOWN if name in told)
    print("{} {} in {}".format(*ids), f"{span.name!r} {took:.1f} ms", told, flush=True)


server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "4318"))), Collector)
print(f"collecting at http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
