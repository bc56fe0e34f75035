"""What spans and their attributes are called.

Names that begin with `gen_ai.` are those of github.com/open-telemetry/semantic-conventions-genai,
docs/gen-ai/gen-ai-spans.md. All of them are of Development status: they may change, and change here
alone. `error.type` and `http.response.status_code` are stable
(github.com/open-telemetry/semantic-conventions). The others are ours.
"""

from __future__ import annotations

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"

REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"

RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"

INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"

ERROR: Final = "error.type"
STATUS: Final = "http.response.status_code"

REQUEST_ID: Final = "headrace.request.id"
CALLER: Final = "headrace.caller"
TENANT: Final = "headrace.tenant"
ROUTE: Final = "headrace.route"
UPSTREAM: Final = "headrace.upstream"
ATTEMPTS: Final = "headrace.attempts"
ATTEMPT: Final = "headrace.attempt"
CACHE: Final = "headrace.cache"
LIMIT: Final = "headrace.limit.outcome"
LIMITED_BY: Final = "headrace.limit.policies"
OUTCOME: Final = "headrace.outcome"
ESTIMATED_TOKENS: Final = "headrace.usage.estimated_output_tokens"

OPERATIONS: Final = {"chat": "chat", "completion": "text_completion", "embedding": "embeddings"}
"""Operations by ours; others are none of the conventions'."""

REQUESTED: Final = {
    "max_tokens": REQUEST_MAX_TOKENS,
    "max_completion_tokens": REQUEST_MAX_TOKENS,
    "temperature": REQUEST_TEMPERATURE,
    "top_p": REQUEST_TOP_P,
    "top_k": REQUEST_TOP_K,
    "frequency_penalty": REQUEST_FREQUENCY_PENALTY,
    "presence_penalty": REQUEST_PRESENCE_PENALTY,
    "seed": REQUEST_SEED,
    "n": REQUEST_CHOICES,
}
"""Attributes by members of a request. All are numbers: what is text may be a part of the prompt."""
