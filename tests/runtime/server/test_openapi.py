"""The document at /openapi.json is true: schemathesis sends what it allows and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from adapthub.runtime.server.lifecycle import Running

# schemathesis' own integration into pytest asks for an older pytest.
CHECKS: list[Any] = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_documented(server: Running, mode: GenerationMode) -> None:
    document = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    operations = [result.ok() for result in document.get_all_operations() if isinstance(result, Ok)]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/models"} <= {one.path for one in operations}
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not operation.body:
            continue  # nothing can be wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=100,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answers(case: schemathesis.Case[Any]) -> None:
            if mode is GenerationMode.POSITIVE and isinstance(case.body, dict) and "model" in case.body:
                # Else all of them end at a model that is not there; and short answers are enough.
                case.body |= {"model": server.serving.catalog.base_name, "max_tokens": 2}
            case.call_and_validate(checks=CHECKS, timeout=60)

        answers()
