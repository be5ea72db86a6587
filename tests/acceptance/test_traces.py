"""One request followed over two nodes, by spans that real processes send to a collector of this test."""

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.acceptance.conftest import PYTHON, environment

pytestmark = pytest.mark.slow

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WORDS = "the lighthouse at the end of the world"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP; keeps every span, and every byte."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.spans, self.seen = [], b""


class _Door(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        self.server.seen += data
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            self.server.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Quiet."""


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def start(tmp_path, collector):
    """Starts a program that serves; all end in order, so that their last spans are sent."""
    running = []
    traced = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }

    def begin(name: str, *command: str):
        data = tmp_path / name
        with (tmp_path / f"{name}.log").open("ab") as log:
            arguments = [*command, "--data", str(data), "--port", "0", "--traces"]
            running.append(
                subprocess.Popen(
                    [PYTHON, "-P", "-m", "wwwmarket", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=os.environ | environment() | traced,
                )
            )
        return data / "running.json"

    yield begin
    for process in reversed(running):
        process.terminate()
        assert process.wait(60) == 0


TERMS = (
    *("--engine", "embedded", "--no-benchmark", "--price-input", "20", "--price-output", "80"),
    *("--ttft-ms", "4000", "--tpot-ms", "200", "--capacity", "2"),
)


def attributes_of(span) -> dict[str, object]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def test_one_request_is_followed_from_the_client_over_both_nodes(start, collector, until, program):
    """The client's trace goes on at the gateway, at the winner and at its engine; no word of the request is in it."""
    node = start("node", "node", "run")
    until(node.exists, "the node serves")
    serving = json.loads(node.read_text())
    seller = start("seller", "provider", "join", "--market", serving["gateway"], *TERMS)
    until(seller.exists, "the provider sells")
    made = program(
        *("node", "keys", "create", "--name", "ada", "--budget", "5", "--json"),
        gateway=serving["gateway"],
        admin_token_file=serving["admin_token_file"],
    )
    with openai.OpenAI(base_url=serving["openai"], api_key=json.loads(made.stdout)["key"], max_retries=0) as client:
        answer = client.chat.completions.create(
            model="wwwmarket-tiny",
            messages=[{"role": "user", "content": WORDS}],
            max_tokens=8,
            extra_headers={"traceparent": f"00-{TRACE}-{CALLER}-01"},
        )
    until(lambda: len(collector.spans) >= 3, "all spans are here")
    spans = {(span.name, span.kind): span for span in collector.spans if span.trace_id.hex() == TRACE}
    server, client_kind = 2, 3
    bought = spans["chat wwwmarket-tiny", server]
    sold, engine = spans["execution", server], spans["chat wwwmarket-tiny", client_kind]
    assert bought.parent_span_id.hex() == CALLER
    assert (sold.parent_span_id, engine.parent_span_id) == (bought.span_id, sold.span_id)
    told = attributes_of(bought)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.usage.output_tokens"] == answer.usage.completion_tokens
    assert told["wwwmarket.award.id"] == attributes_of(sold)["wwwmarket.award.id"]
    assert [event.name for event in bought.events] == ["first token"]
    assert WORDS.encode() not in collector.seen
    assert answer.choices[0].message.content.encode() not in collector.seen
