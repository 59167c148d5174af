"""Each user's own AI provider keys.

    with user_api_keys(user_id) as keys:
        gemini_key = keys.get("gemini")

In Production a key is opened by the function open-keys, for the person whose session token is at hand
(``token=``, or ``session_token(...)`` around the request), or, where the stack trusts its back end, for
the user id alone. In Local mode, on a developer's own machine, it comes from ``backend/.env``, else from
the environment; where something speaks against Local mode, ``Misconfigured`` says what.

A user without the key has ``None``; whatever fails is an exception. There is no other key to fall back
to. Nothing is kept once the ``with`` ends, and ``os.environ`` is only read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dotenv import dotenv_values

__all__ = [
    "KeysUnavailable", "Misconfigured", "NotAllowed", "UserAPIKeyContext", "UserApiKeysError", "WrongUser",
    "get_copilotkit_key", "get_exa_key", "get_gemini_key", "get_user_api_key", "session_token", "user_api_keys",
]

# Names of the variables of Local mode, in the order of the service's own list.
_VARIABLES = {name: f"{name.upper()}_API_KEY" for name in (
    "gemini", "exa", "copilotkit", "openai", "anthropic", "mistral", "tavily", "serper", "firecrawl", "stability", "wavespeed")}
# What hosts put into the environment of all that they run.
_HOST = re.compile(r"""
    AWS_LAMBDA_\w+ | LAMBDA_TASK_ROOT | AWS_EXECUTION_ENV
    | ECS_CONTAINER_METADATA_URI\w* | ECS_AGENT_URI | AWS_CONTAINER_CREDENTIALS_(RELATIVE|FULL)_URI
    | KUBERNETES_(SERVICE|PORT)\w* | NOMAD_(ALLOC|JOB|TASK)\w+
    | RENDER(_\w+)? | RAILWAY_\w+ | VERCEL(_\w+)? | NOW_REGION | NETLIFY
    | DYNO | HEROKU_(APP|DYNO|RELEASE|BUILD|SLUG)_\w+
    | K_(SERVICE|REVISION|CONFIGURATION) | CLOUD_RUN_\w+ | GAE_\w+
    | WEBSITE_(SITE_NAME|INSTANCE_ID|HOSTNAME) | CONTAINER_APP_\w+
    | FLY_(APP_NAME|MACHINE_ID|ALLOC_ID|REGION) | KOYEB_\w+ | ZEABUR_\w+ | VCAP_APPLICATION
    | SPACE_ID | REPLIT_DEPLOYMENT | PYTHONANYWHERE_(DOMAIN|SITE) | MODAL_(TASK_ID|IS_REMOTE)
    """, re.VERBOSE)
_REMOTE = ("OPEN_KEYS_FUNCTION", "AWS_ENDPOINT_URL_LAMBDA")
# Hashes of the keys that .env was seen to hold: what equals one of them in os.environ came from there.
_seen: set[int] = set()
_token: ContextVar[str | None] = ContextVar("session_token", default=None)
_client_lock = threading.Lock()
_client: Any = None


class UserApiKeysError(Exception):
    """The key cannot be had. ``code`` is the service's; the text says what to do and holds no key."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


class NotAllowed(UserApiKeysError):
    """The token does not count (any more), or a user id alone is not accepted."""


class Misconfigured(UserApiKeysError):
    """Whether this is a developer's own machine is not plain, or its .env cannot be read."""

    def __init__(self, detail: str) -> None:
        super().__init__("misconfigured", detail)


class WrongUser(UserApiKeysError):
    """The session token is of another user than the user id."""


class KeysUnavailable(UserApiKeysError):
    """The service did not answer, or failed; worth trying again."""


def _local_mode(token: str | None) -> bool:
    """Whether the keys are the developer's own. In doubt an error: else everybody would spend the operator's."""
    # A back end that never calls load_dotenv() has these two in the file alone. Where DEPLOY_ENV is set, no file is read.
    settings = os.environ if os.environ.get("DEPLOY_ENV") else {**_dotenv(), **_set(os.environ)}
    debug, deploy_env = settings.get("DEBUG"), settings.get("DEPLOY_ENV") or ""
    meant = deploy_env.strip().casefold()
    if meant in ("", "local") and deploy_env != meant:
        raise Misconfigured(f"DEPLOY_ENV is {deploy_env!r}: write local, in lower case and without spaces, or leave it out.")
    if meant not in ("", "local"):
        if debug == "true":
            raise Misconfigured(
                f"DEBUG=true says Local mode and DEPLOY_ENV={deploy_env} says Production: take one of the two away.")
        return False
    sign = None if meant == "local" else _sign_of_a_service(token, settings)
    if sign is not None:
        raise Misconfigured(
            f"{sign}, and DEPLOY_ENV is not set: the keys of this environment would be used for everybody. "
            "Set DEPLOY_ENV to the stack's name and OPEN_KEYS_FUNCTION to its open-keys; "
            "on a developer's own machine set DEPLOY_ENV=local.")
    return True


def _sign_of_a_service(token: str | None, settings: Mapping[str, str]) -> str | None:
    """What says that others than one developer are served here; None if nothing does."""
    if token is not None:
        return "A session token is given"
    for name in sorted(settings):
        if name in _REMOTE:
            return f"{name} is set"
        if _HOST.fullmatch(name):
            return f"{name} says that this runs on a host"
    return None


def _set(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if value}


@contextmanager
def session_token(token: str) -> Iterator[None]:
    """Around the work for one request: the person's session token, for every key asked for within.

    Holds for this thread, or this asyncio task and those that it starts.
    """
    before = _token.set(token)
    try:
        yield
    finally:
        _token.reset(before)


class UserAPIKeyContext:
    """The keys of one person. Opened one by one, when they are asked for, and forgotten at the end."""

    def __init__(self, user_id: str | None = None, *, token: str | None = None, purpose: str = "back end") -> None:
        """``purpose`` (1 to 100 characters) stands on the person's own audit log."""
        self.user_id = user_id
        # An empty one is one that the caller meant to give: refused, not left out.
        self._token = _token.get() if token is None else token
        self._purpose = purpose
        self._keys: dict[str, str | None] = {}
        self._lock = threading.Lock()
        self._local = _local_mode(self._token)
        if not self._local:
            if self._token is None and not user_id:
                raise NotAllowed("unauthorized", "Give the person's session token, or their user id.")
            if self._token is not None and user_id:
                _same_person(self._token, user_id)

    def __repr__(self) -> str:
        return f"UserAPIKeyContext(user_id={self.user_id!r})"

    def __enter__(self) -> UserAPIKeyContext:
        return self

    def __exit__(self, *_: object) -> None:
        self._keys.clear()
        self._token = None

    async def __aenter__(self) -> UserAPIKeyContext:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def get(self, provider: str, default: str | None = None) -> str | None:
        """The person's key of ``provider``; ``default`` if they have none that can be used.

        Raises UserApiKeysError: the service failed or refused, or there is no such provider.
        """
        with self._lock:
            if provider not in self._keys:
                self._keys[provider] = self._open(provider)
            key = self._keys[provider]
        return default if key is None else key

    async def aget(self, provider: str, default: str | None = None) -> str | None:
        """``get`` without holding up the event loop."""
        return await asyncio.to_thread(self.get, provider, default)

    def _open(self, provider: str) -> str | None:
        if self._local:
            return _of_developer(provider)
        event: dict[str, Any] = {"providers": [provider], "purpose": self._purpose}
        if self._token is not None:
            event["token"] = self._token
        elif self.user_id:
            event["user_id"] = self.user_id
        else:
            raise NotAllowed("unauthorized", "These keys were given back; begin a new with.")
        answer = _invoke(event)
        opened = answer["keys"].get(provider)
        if opened is not None:
            return str(opened["api_key"])
        if provider in answer["missing"]:
            return None
        raise KeysUnavailable("internal", "The service answered something else than was asked.")


def _same_person(token: str, user_id: str) -> None:
    """The service decides by the token; that it is the user id's, only this side can see."""
    try:
        payload = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["sub"]
    except Exception:
        # Not a token at all; the service says so in its own words.
        return
    if subject != user_id:
        raise WrongUser("wrong_user", "The session token is of another person than the user id.")


def _of_developer(provider: str) -> str | None:
    variable = _VARIABLES.get(provider)
    if variable is None:
        raise UserApiKeysError("unknown_provider", f"Known providers: {', '.join(_VARIABLES)}.")
    file = _dotenv().get(variable, "").strip()
    environment = os.environ.get(variable, "").strip()
    # The file first: what stands in os.environ may be load_dotenv()'s copy of what the file was.
    if not file and hash((variable, environment)) in _seen:
        return None
    return file or environment or None


def _dotenv() -> dict[str, str]:
    """What ``.env`` says. Read anew each time: a key that was saved, replaced or deleted meanwhile counts."""
    path = _dotenv_path()
    try:
        # As python-dotenv reads it, but for interpolation and an editor's byte order mark.
        read = dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        # A UnicodeError holds the file.
        raise Misconfigured(f"{path} cannot be read ({type(error).__name__}).") from None
    lines = {name: value for name, value in read.items() if value}
    _seen.update(hash((name, lines[name].strip())) for name in _VARIABLES.values() if name in lines)
    return lines


def _dotenv_path() -> str:
    """``BACKEND_ENV_FILE``, else ``backend/.env`` as seen from the project's folder or from ``backend/``."""
    configured = os.environ.get("BACKEND_ENV_FILE")
    if configured:
        return configured
    path = os.path.join("backend", ".env")
    inside = os.path.basename(os.getcwd()) == "backend" and not os.path.exists(path)
    return ".env" if inside else path


def _lambda() -> Any:
    """One client of the process; boto3's clients may be shared by threads, and not made by several at once."""
    global _client
    with _client_lock:
        if _client is None:
            config = Config(connect_timeout=2, read_timeout=10, retries={"mode": "standard", "max_attempts": 3}, max_pool_connections=64)
            # boto3 knows AWS_DEFAULT_REGION only; every other SDK, and Lambda, say AWS_REGION.
            region = os.environ.get("AWS_REGION") or None
            _client = boto3.session.Session(region_name=region).client("lambda", config=config)
        return _client


def _invoke(event: dict[str, Any]) -> dict[str, Any]:
    function = os.environ.get("OPEN_KEYS_FUNCTION") or "open-keys"
    try:
        answer = _lambda().invoke(FunctionName=function, Payload=json.dumps(event).encode())
        payload = json.loads(answer["Payload"].read())
    except (BotoCoreError, ClientError, ValueError) as error:
        # Its words may name ARNs; the class says what kind it is.
        raise KeysUnavailable("temporarily_unavailable", f"open-keys cannot be invoked ({type(error).__name__}).") from None
    if "FunctionError" not in answer:
        return dict(payload)
    code, detail = str(payload.get("errorType")), str(payload.get("errorMessage"))
    kind = {"unauthorized": NotAllowed, "forbidden": NotAllowed, "invalid_request": UserApiKeysError,
            "unknown_provider": UserApiKeysError}.get(code, KeysUnavailable)
    raise kind(code, detail)


@contextmanager
def user_api_keys(
    user_id: str | None = None, *, token: str | None = None, purpose: str = "back end"
) -> Iterator[UserAPIKeyContext]:
    """The keys of one person, for as long as the ``with`` lasts."""
    with UserAPIKeyContext(user_id, token=token, purpose=purpose) as keys:
        yield keys


def get_user_api_key(user_id: str | None, provider: str, *, token: str | None = None) -> str | None:
    """One key of one person."""
    with UserAPIKeyContext(user_id, token=token) as keys:
        return keys.get(provider)


def get_gemini_key(user_id: str | None = None, *, token: str | None = None) -> str | None:
    """The person's Gemini key."""
    return get_user_api_key(user_id, "gemini", token=token)


def get_exa_key(user_id: str | None = None, *, token: str | None = None) -> str | None:
    """The person's Exa key."""
    return get_user_api_key(user_id, "exa", token=token)


def get_copilotkit_key(user_id: str | None = None, *, token: str | None = None) -> str | None:
    """The person's CopilotKit key."""
    return get_user_api_key(user_id, "copilotkit", token=token)


# What load_dotenv() read before this module was imported.
if os.environ.get("DEPLOY_ENV", "") in ("", "local"):
    with suppress(Misconfigured):
        _dotenv()
