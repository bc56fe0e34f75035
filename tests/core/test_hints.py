"""When an upstream says to come back, and what of that is believed."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from headrace.http_exchange import retry_after

REQUESTS, TOKENS = (
    {f"x-ratelimit-remaining-{counted}": "0", f"x-ratelimit-reset-{counted}": reset}
    for counted, reset in (("requests", "1m30s"), ("tokens", "6m0s"))
)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (REQUESTS, 90),
        ({**REQUESTS, **TOKENS}, 360),
        ({**TOKENS, "retry-after": "7"}, 7),
        ({**REQUESTS, "x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({**REQUESTS, "x-ratelimit-reset-requests": "1.5s"}, 1.5),
        ({**REQUESTS, "x-ratelimit-reset-requests": "1h0m0s"}, 3600),
        ({**REQUESTS, "x-ratelimit-reset-requests": "2h0m0s"}, None),
        ({**REQUESTS, "x-ratelimit-reset-requests": "0s"}, None),
        ({**REQUESTS, "x-ratelimit-reset-requests": ""}, None),
        ({**REQUESTS, "x-ratelimit-reset-requests": "soon"}, None),
        ({**REQUESTS, "x-ratelimit-reset-requests": "9" * 400 + "s"}, None),
        ({**REQUESTS, "x-ratelimit-remaining-requests": "3"}, None),
        ({"x-ratelimit-reset-requests": "1s"}, None),
    ],
)
def test_a_limit_that_is_used_up_says_when_it_is_reset(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(Headers(headers)) == seconds
