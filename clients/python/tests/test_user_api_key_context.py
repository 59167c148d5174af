"""Against a running server in Production mode, which answers Lambda's own invoke path for open-keys."""

import asyncio
import json
import os
import subprocess
import threading
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import user_api_key_context as module
from user_api_key_context import (KeysUnavailable, NotAllowed, UserAPIKeyContext, UserApiKeysError, WrongUser,
    get_copilotkit_key, get_gemini_key, session_token, user_api_keys)

A, B = "user_aaaaaaaa1", "user_bbbbbbbb2"
KEYS = {A: "AQ.key-of-person-a-0001", B: "AQ.key-of-person-b-7777"}
PLAIN, TRUSTING = os.environ["PLAIN_SERVER"], os.environ["TRUSTING_SERVER"]


def token(user: str) -> str:
    command = [os.environ["LOCAL"], "token", "--user", user, "--lifetime-s", "600"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def save(server: str, user: str, provider: str, key: str) -> None:
    body = json.dumps({"provider": provider, "api_key": key}).encode()
    request = urllib.request.Request(f"{server}/api/onboarding/api-keys", body,
        {"content-type": "application/json", "authorization": f"Bearer {TOKENS[user]}"})
    urllib.request.urlopen(request).close()


TOKENS = {user: token(user) for user in (A, B)}
for server in (PLAIN, TRUSTING):
    for user, key in KEYS.items():
        save(server, user, "gemini", key)


class At(unittest.TestCase):
    server = PLAIN
    settings: dict[str, str] = {}

    def setUp(self) -> None:
        settings = {"DEPLOY_ENV": "production", "AWS_ENDPOINT_URL_LAMBDA": self.server, "AWS_REGION": "us-east-1",
                    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                    # The operator's own: nobody may ever get it in Production.
                    "GEMINI_API_KEY": "AQ.key-of-the-operator"} | self.settings
        environment = mock.patch.dict(os.environ, settings)
        environment.start()
        self.addCleanup(environment.stop)
        os.environ.pop("DEBUG", None)
        module._client = None
        self.before = dict(os.environ)
        self.addCleanup(lambda: self.assertEqual(dict(os.environ), self.before))


class Production(At):
    def test_a_persons_token_opens_their_own_key_and_a_missing_one_is_none(self) -> None:
        for user, key in KEYS.items():
            with session_token(TOKENS[user]), user_api_keys(user, purpose="a test") as keys:
                self.assertEqual(keys.get("gemini"), key)
                self.assertIsNone(keys.get("exa"))
                self.assertEqual(keys.get("exa", "other"), "other")
            self.assertEqual(get_gemini_key(user, token=TOKENS[user]), key)
            self.assertIsNone(get_copilotkit_key(token=TOKENS[user]))

    def test_a_key_is_opened_once_in_a_with_and_forgotten_after_it(self) -> None:
        context = UserAPIKeyContext(A, token=TOKENS[A])
        with context as keys, mock.patch.object(module, "_invoke", wraps=module._invoke) as invoke:
            for _ in range(3):
                keys.get("gemini")
            self.assertEqual(invoke.call_count, 1)
            self.assertNotIn("AQ.", repr(keys))
        self.assertEqual(context._keys, {})
        with self.assertRaises(NotAllowed):
            UserAPIKeyContext().get("gemini")

    def test_a_token_of_another_person_is_noticed_before_anything_is_sent(self) -> None:
        with mock.patch.object(module, "_invoke") as invoke, self.assertRaises(WrongUser):
            get_gemini_key(B, token=TOKENS[A])
        invoke.assert_not_called()

    def test_a_bare_user_id_and_a_bad_token_are_refused_and_no_other_key_comes_in_their_place(self) -> None:
        for arguments in ({"user_id": A}, {"token": "a.b.c"}, {"user_id": A, "token": "x"}, {"user_id": A, "token": ""}):
            with self.assertRaises(NotAllowed) as refused:
                get_gemini_key(**arguments)
            self.assertEqual(refused.exception.code, "unauthorized")
            self.assertNotIn("AQ.", str(refused.exception))

    def test_an_unknown_provider_is_an_error_that_names_the_known(self) -> None:
        with user_api_keys(A, token=TOKENS[A]) as keys, self.assertRaises(UserApiKeysError) as unknown:
            keys.get("huggingface")
        self.assertIn("gemini", str(unknown.exception))

    def test_fifty_threads_and_two_people_never_cross(self) -> None:
        barrier = threading.Barrier(50)

        def work(n: int) -> list[tuple[str, str | None]]:
            user = (A, B)[n % 2]
            barrier.wait()
            got = []
            for _ in range(10):
                with session_token(TOKENS[user]), user_api_keys(user) as keys:
                    got.append((user, keys.get("gemini")))
            return got

        with ThreadPoolExecutor(50) as pool:
            results = [pair for got in pool.map(work, range(50)) for pair in got]
        self.assertEqual(len(results), 500)
        for user, key in results:
            self.assertEqual(key, KEYS[user])

    def test_tasks_of_one_event_loop_never_cross(self) -> None:
        async def one(user: str) -> tuple[str, str | None]:
            with session_token(TOKENS[user]):
                await asyncio.sleep(0)
                async with UserAPIKeyContext(user) as keys:
                    return user, await keys.aget("gemini")

        async def all_of_them() -> list[tuple[str, str | None]]:
            return await asyncio.gather(*(one((A, B)[n % 2]) for n in range(60)))

        for user, key in asyncio.run(all_of_them()):
            self.assertEqual(key, KEYS[user])


class Trusting(At):
    server = TRUSTING

    def test_a_user_id_is_enough_where_the_stack_says_so(self) -> None:
        for user, key in KEYS.items():
            self.assertEqual(get_gemini_key(user), key)
        with self.assertRaises(NotAllowed):
            get_gemini_key("somebody")

    def test_an_empty_token_is_refused_and_does_not_become_a_bare_user_id(self) -> None:
        with self.assertRaises(NotAllowed):
            get_gemini_key(A, token="")
        with session_token(""), self.assertRaises(NotAllowed):
            get_gemini_key(A)


class Down(At):
    server = "http://127.0.0.1:1"

    def test_a_service_that_does_not_answer_is_an_exception_and_no_key(self) -> None:
        with self.assertRaises(KeysUnavailable) as down:
            get_gemini_key(A, token=TOKENS[A])
        self.assertNotIn(TOKENS[A], str(down.exception))
        self.assertIsNone(down.exception.__cause__)


if __name__ == "__main__":
    unittest.main()
