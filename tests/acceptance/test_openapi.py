"""A live market answers what its OpenAPI page says, and nothing else."""

from contextlib import suppress

import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi import checks

CHECKED = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
bounded = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def test_a_live_gateway_keeps_to_its_page(market, new_key):
    """Requests from the page, right and wrong, get no failure of ours and no undeclared answer from real nodes."""
    document = schemathesis.openapi.from_url(f"{market.base}/openapi.json")
    headers = {"authorization": f"Bearer {new_key('5')['key']}"}
    for found in document.get_all_operations():
        for mode in schemathesis.GenerationMode:

            @bounded
            @given(case=found.ok().as_strategy(generation_mode=mode))
            def check(case):
                answer = case.call(headers=headers, timeout=30)
                assert answer.status_code != 500
                case.validate_response(answer, checks=CHECKED)

            with suppress(Unsatisfiable):  # a door that asks for nothing can be asked nothing wrong
                check()
