"""Any server that speaks OpenAI's API over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from headrace import (
    PASSTHROUGH,
    Call,
    Found,
    Keyring,
    Reply,
    Secret,
    Transport,
    UpstreamError,
    bearing,
    check_base_url,
    check_headers,
    exchange,
    fetch_json,
)

_LISTING_SIZE = 4_000_000

# Services whose own documentation gives an OpenAI-compatible base URL, by the variable that their
# own clients read the key from.
_SERVICES = {
    "OPENAI_API_KEY": ("openai", "https://api.openai.com/v1"),
    "ANTHROPIC_API_KEY": ("anthropic", "https://api.anthropic.com/v1"),
    "GEMINI_API_KEY": ("gemini", "https://generativelanguage.googleapis.com/v1beta/openai"),
    "GROQ_API_KEY": ("groq", "https://api.groq.com/openai/v1"),
    "MISTRAL_API_KEY": ("mistral", "https://api.mistral.ai/v1"),
    "DEEPSEEK_API_KEY": ("deepseek", "https://api.deepseek.com/v1"),
    "OPENROUTER_API_KEY": ("openrouter", "https://openrouter.ai/api/v1"),
    "TOGETHER_API_KEY": ("together", "https://api.together.xyz/v1"),
    "XAI_API_KEY": ("xai", "https://api.x.ai/v1"),
    "HF_TOKEN": ("huggingface", "https://router.huggingface.co/v1"),
}

# What OpenTelemetry's conventions for generative AI call a service (gen_ai.provider.name); of those
# that have no name there, their own.
_PROVIDERS = {
    "anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "deepseek.com": "deepseek",
    "openrouter.ai": "openrouter",
    "together.xyz": "together",
    "x.ai": "x_ai",
    "huggingface.co": "huggingface",
    "azure.com": "azure.ai.openai",
}


@dataclass(kw_only=True)
class OpenAI:
    """Ask a server that speaks OpenAI's API: OpenAI itself, vLLM, llama.cpp, LM Studio, and others.

    Bodies go through byte for byte but for what plugins change.
    """

    base_url: str = "https://api.openai.com/v1"
    """Where its API begins; most often this ends in `/v1`."""
    api_key: Secret | list[Secret] | None = None
    """Sent as `Authorization: Bearer`, to this server alone; of several, each in turn."""
    headers: dict[str, str] = field(default_factory=dict)
    """Sent with every request, such as `OpenAI-Organization`."""
    transport: Transport = field(default_factory=Transport.of_server)

    def __post_init__(self) -> None:
        self.base_url = check_base_url(self.base_url)
        self._ring = Keyring(self.api_key)
        for key in self._ring.keys or (None,):
            check_headers(bearing(key, self.headers))

    @property
    def provider(self) -> str:
        """The service that it asks; of any other server, whose API that speaks."""
        host = f".{urlsplit(self.base_url).hostname}"
        known = (name for end, name in _PROVIDERS.items() if host.endswith(f".{end}"))
        return next(known, "openai")

    async def __call__(self, call: Call) -> Reply:
        """Send the call to the path of its operation, or to the client's own path."""
        return await self._ring.ask(
            lambda key: exchange(
                call,
                self.transport,
                base_url=self.base_url,
                path=self._path(call),
                headers=bearing(key, self.headers),
            )
        )

    async def models(self) -> list[str]:
        """The ids of `GET /models`."""
        listed = await fetch_json(
            self.transport,
            f"{self.base_url}/models",
            bearing(self._ring.first, self.headers),
            patience=2,
            limit=_LISTING_SIZE,
        )
        try:
            return [str(model["id"]) for model in listed["data"]]
        except (KeyError, TypeError):
            raise UpstreamError("its list of models is none", code="upstream_invalid") from None

    @classmethod
    async def find(cls, environ: Mapping[str, str]) -> list[Found]:
        """The services whose key is in the environment, OpenAI first."""
        found = []
        for rank, (variable, (name, base_url)) in enumerate(_SERVICES.items(), 10):
            if not environ.get(variable):
                continue
            if name == "openai":
                base_url = "${OPENAI_BASE_URL}" if environ.get("OPENAI_BASE_URL") else base_url
            options = {"base_url": base_url, "api_key": f"${{{variable}}}"}
            found.append(Found(name=name, says=f"{variable} is set", options=options, rank=rank))
        return found

    def _path(self, call: Call) -> str:
        if call.operation != PASSTHROUGH:
            return call.dialect.path(call.operation)
        # A client's /v1/files is this server's {base_url}/files where the base URL has the version.
        return call.path.removeprefix("/v1") if call.path.startswith("/v1/") else call.path
