"""Is the server there, and does it know the model? Asked once, before anything else happens."""

from __future__ import annotations

from typing import Any

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.oracles.vlm.client import PATIENCE, REDIRECTS, import_openai, redact, smallest_request
from prefenvs.oracles.vlm.config import VLMConfig

SHOWN = 8


def check_server(model: str, config: VLMConfig) -> None:
    """Raise a PrefenvsError, in one line, if the server cannot be reached, refuses the key or lacks the model.

    It is asked for the list of its models. Servers that have no such list, or that take models which are not on it, get
    a request of one word and one token, without pictures. Whatever else is wrong with a server may pass, and is left to
    the calls that follow.
    """
    openai = import_openai()
    key = config.read_key()
    http = openai.DefaultHttpxClient(trust_env=not config.local, max_redirects=REDIRECTS)
    settings = {"base_url": config.base_url, "max_retries": 0, "timeout": min(config.timeout, PATIENCE)}
    with openai.OpenAI(api_key=key or "none", http_client=http, **settings) as client:
        try:
            known = _list_models(client)
        except openai.AuthenticationError:
            raise PrefenvsError(
                f"{config.base_url} does not accept the key: check the environment variable {config.key_name}"
            ) from None
        except openai.APIConnectionError as error:
            cause = "no reply" if isinstance(error, openai.APITimeoutError) else _line(error.__cause__ or error, key)
            raise PrefenvsError(
                f"{config.base_url} cannot be reached ({cause}): is the server running, and the address right?"
            ) from None
        except openai.APIStatusError as error:
            known = []
            if error.status_code in (429, 500, 502, 503, 504):
                return
        except (ValueError, RecursionError):
            known = []
        if model not in known:
            _try_model(client, model, config, [redact(name, key) for name in known])


def _list_models(client: Any) -> list[str]:
    """Return the names of the server's models, none if what it sends is no list of them."""
    found = client.get("/models", cast_to=object)
    entries = found.get("data") if isinstance(found, dict) else None
    entries = entries if isinstance(entries, list) else []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]


def _try_model(client: Any, model: str, config: VLMConfig, known: list[str]) -> None:
    openai = import_openai()
    try:
        client.post("/chat/completions", cast_to=object, body=smallest_request(model, config))
    except openai.NotFoundError:
        shown = f"; it has {', '.join(known[:SHOWN])}{', ...' if len(known) > SHOWN else ''}" if known else ""
        hint = shown or ", or the address is wrong: most end in /v1"
        raise PrefenvsError(
            f"{config.base_url} does not know the model {model!r}{hint}.{near_matches(model, known)}"
        ) from None
    except openai.AuthenticationError:
        raise PrefenvsError(
            f"{config.base_url} does not accept the key: check the environment variable {config.key_name}"
        ) from None
    except (openai.APIError, ValueError, RecursionError):
        # It loads the model, is busy, or wants pictures.
        return


def _line(error: object, key: str) -> str:
    return redact(" ".join(str(error).split()), key)[:200]
