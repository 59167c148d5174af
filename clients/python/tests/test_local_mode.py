"""When the environment's keys are used, and which of its copies: no server is needed."""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import user_api_key_context as module
from dotenv import load_dotenv
from user_api_key_context import (Misconfigured, UserAPIKeyContext, UserApiKeysError, get_copilotkit_key, get_exa_key,
    get_gemini_key, get_user_api_key, session_token, user_api_keys)

OPERATOR = "AQ.key-of-the-operator-0001"
USER = "user_alicealice1"

# What each host documents that it sets.
SIGNS = {
    "Lambda": ("AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV", "AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_INITIALIZATION_TYPE",
               "AWS_LAMBDA_LOG_STREAM_NAME", "LAMBDA_TASK_ROOT"),
    "Render": ("RENDER", "RENDER_SERVICE_ID", "RENDER_EXTERNAL_URL"),
    "Railway": ("RAILWAY_ENVIRONMENT", "RAILWAY_ENVIRONMENT_NAME", "RAILWAY_PROJECT_ID", "RAILWAY_PUBLIC_DOMAIN"),
    "Heroku": ("DYNO", "HEROKU_APP_NAME", "HEROKU_DYNO_ID", "HEROKU_RELEASE_VERSION"),
    "Vercel": ("VERCEL", "VERCEL_ENV", "VERCEL_URL"),
    "Cloud Run": ("K_SERVICE", "K_REVISION", "K_CONFIGURATION", "CLOUD_RUN_JOB"),
    "Kubernetes": ("KUBERNETES_SERVICE_HOST", "KUBERNETES_PORT"),
    "ECS": ("ECS_CONTAINER_METADATA_URI", "ECS_CONTAINER_METADATA_URI_V4", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
    "others": ("FLY_APP_NAME", "GAE_ENV", "WEBSITE_INSTANCE_ID", "CONTAINER_APP_NAME", "VCAP_APPLICATION", "KOYEB_APP_NAME"),
}


class Machine(unittest.TestCase):
    """A folder of its own and an environment that has the operator's key, and nothing that speaks for a mode."""

    def setUp(self) -> None:
        before = os.getcwd()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, before)
        self.project = Path(folder.name).resolve()
        (self.project / "backend").mkdir()
        os.chdir(self.project)
        environment = mock.patch.dict(os.environ, {"PATH": os.environ["PATH"], "GEMINI_API_KEY": OPERATOR}, clear=True)
        environment.start()
        self.addCleanup(environment.stop)
        invoke = mock.patch.object(module, "_invoke", return_value={"keys": {}, "missing": ["gemini"]})
        self.invoke = invoke.start()
        self.addCleanup(invoke.stop)

    def env_file(self, text: str, path: str = "backend/.env") -> Path:
        file = self.project / path
        file.write_text(text, encoding="utf-8")
        return file

    def refused(self, *named: str, **arguments: str) -> None:
        """Misconfigured at every door, in words that name the variables and no key."""
        doors = (lambda: get_gemini_key(USER, **arguments), lambda: get_user_api_key(USER, "gemini", **arguments),
                 lambda: UserAPIKeyContext(USER, **arguments).get("gemini"),
                 lambda: user_api_keys(USER, **arguments).__enter__().get("gemini"))
        for door in doors:
            with self.assertRaises(Misconfigured) as error:
                door()
            self.assertEqual(error.exception.code, "misconfigured")
            for name in named:
                self.assertIn(name, str(error.exception))
            self.assertNotIn(OPERATOR, str(error.exception))
        self.invoke.assert_not_called()

    def assert_production(self) -> None:
        self.assertIsNone(get_gemini_key(USER))
        self.invoke.assert_called_once()
        self.invoke.reset_mock()


class WhoseKeys(Machine):
    def test_a_developers_machine_has_the_environments_key(self) -> None:
        for said in ({}, {"DEPLOY_ENV": ""}, {"DEPLOY_ENV": "local"}, {"DEBUG": "true"}, {"DEBUG": "false"},
                     {"DEBUG": "true", "DEPLOY_ENV": "local"}, {"RENDER": ""}, {"OPEN_KEYS_FUNCTION": ""}):
            with self.subTest(said), mock.patch.dict(os.environ, said):
                self.assertEqual(get_gemini_key(USER), OPERATOR)
        self.invoke.assert_not_called()

    def test_on_a_host_a_forgotten_deploy_env_is_an_error(self) -> None:
        for host, names in SIGNS.items():
            for name in names:
                for said in ({}, {"DEPLOY_ENV": ""}, {"DEBUG": "true"}, {"DEBUG": "false"}):
                    with self.subTest(host, sign=name, **said), mock.patch.dict(os.environ, {name: "x", **said}):
                        self.refused(name, "DEPLOY_ENV")

    def test_deploy_env_local_said_aloud_counts_on_a_host(self) -> None:
        for names in SIGNS.values():
            for name in names:
                with self.subTest(name), mock.patch.dict(os.environ, {name: "x", "DEPLOY_ENV": "local"}):
                    self.assertEqual(get_gemini_key(USER), OPERATOR)

    def test_a_variable_that_only_begins_like_a_hosts_is_no_sign(self) -> None:
        for name in ("RENDERER", "DYNOS", "VERCELX", "K_SERVICES", "MY_RENDER", "AWS_REGION", "AWS_PROFILE", "CI"):
            with self.subTest(name), mock.patch.dict(os.environ, {name: "x"}):
                self.assertEqual(get_gemini_key(USER), OPERATOR)

    def test_a_given_token_is_an_error_until_deploy_env_is_said(self) -> None:
        for token in ("a.b.c", "garbage", ""):
            for said in ({}, {"DEPLOY_ENV": ""}, {"DEBUG": "true"}):
                with self.subTest(token=token, **said), mock.patch.dict(os.environ, said):
                    self.refused("session token", "DEPLOY_ENV", "OPEN_KEYS_FUNCTION", token=token)
                    with session_token(token):
                        self.refused("session token", "DEPLOY_ENV")
        with mock.patch.dict(os.environ, {"DEPLOY_ENV": "local"}):
            self.assertEqual(get_gemini_key(USER, token="a.b.c"), OPERATOR)

    def test_a_configured_service_is_an_error_until_deploy_env_is_said(self) -> None:
        for name in ("OPEN_KEYS_FUNCTION", "AWS_ENDPOINT_URL_LAMBDA"):
            for said in ({}, {"DEPLOY_ENV": ""}, {"DEBUG": "true"}):
                with self.subTest(name, **said), mock.patch.dict(os.environ, {name: "open-keys", **said}):
                    self.refused(name, "DEPLOY_ENV")
            with mock.patch.dict(os.environ, {name: "open-keys", "DEPLOY_ENV": "local"}):
                self.assertEqual(get_gemini_key(USER), OPERATOR)

    def test_a_service_configured_in_the_file_alone_counts(self) -> None:
        self.env_file("OPEN_KEYS_FUNCTION=open-keys\nRAILWAY_ENVIRONMENT=\n")
        self.refused("OPEN_KEYS_FUNCTION", "DEPLOY_ENV")
        self.env_file("OPEN_KEYS_FUNCTION=open-keys\nDEPLOY_ENV=local\n")
        self.assertEqual(get_gemini_key(USER), OPERATOR)

    def test_debug_beside_another_deploy_env_is_a_contradiction(self) -> None:
        for deploy_env in ("render", "production", "prod", "staging", "x"):
            for more in ({}, {"RENDER": "true"}, {"OPEN_KEYS_FUNCTION": "open-keys"}):
                said = {"DEBUG": "true", "DEPLOY_ENV": deploy_env, **more}
                with self.subTest(**said), mock.patch.dict(os.environ, said):
                    self.refused("DEBUG=true", f"DEPLOY_ENV={deploy_env}")
                    self.refused("DEBUG=true", f"DEPLOY_ENV={deploy_env}", token="a.b.c")

    def test_any_other_deploy_env_is_production(self) -> None:
        for deploy_env in ("render", "production", "localhost", "my local"):
            for debug in ("", "false", "True", "1"):
                with self.subTest(deploy_env, debug=debug), \
                        mock.patch.dict(os.environ, {"DEPLOY_ENV": deploy_env, "DEBUG": debug}):
                    self.assert_production()

    def test_a_deploy_env_that_is_nearly_local_is_an_error(self) -> None:
        for deploy_env in ("Local", "LOCAL", " local", "local ", "local\n", " ", "\t"):
            with self.subTest(deploy_env), mock.patch.dict(os.environ, {"DEPLOY_ENV": deploy_env}):
                self.refused("DEPLOY_ENV")

    def test_debug_and_deploy_env_count_in_the_file_alone(self) -> None:
        self.env_file("DEBUG=false\nDEPLOY_ENV=render\n")
        self.assert_production()
        with mock.patch.dict(os.environ, {"DEPLOY_ENV": ""}):
            self.assert_production()
        with mock.patch.dict(os.environ, {"DEBUG": "true"}):
            self.refused("DEBUG=true", "DEPLOY_ENV=render")
        with mock.patch.dict(os.environ, {"DEPLOY_ENV": "local"}):
            self.assertEqual(get_gemini_key(USER), OPERATOR)
        self.env_file("DEBUG=true\nDEPLOY_ENV=render\n")
        self.refused("DEBUG=true", "DEPLOY_ENV=render")
        self.env_file("DEBUG=true\n")
        self.assertEqual(get_gemini_key(USER), OPERATOR)

    def test_production_reads_no_file(self) -> None:
        self.env_file("GEMINI_API_KEY=AQ.of-the-file\nDEBUG=true\n")
        with mock.patch.dict(os.environ, {"DEPLOY_ENV": "render"}), mock.patch.object(module, "dotenv_values") as read:
            self.assert_production()
        read.assert_not_called()

    def test_the_mode_holds_for_the_whole_with(self) -> None:
        with mock.patch.dict(os.environ, {"DEPLOY_ENV": "render"}), user_api_keys(USER) as keys:
            os.environ["DEPLOY_ENV"] = "local"
            self.assertIsNone(keys.get("gemini"))
        self.invoke.assert_called_once()

    def test_a_forgotten_deploy_env_in_a_process_of_its_own(self) -> None:
        command = [sys.executable, "-c", "import user_api_key_context as m\n"
                   f"try: print(m.get_gemini_key({USER!r}))\nexcept m.Misconfigured as e: print('Misconfigured', e)"]
        environment = {"GEMINI_API_KEY": OPERATOR, "AWS_LAMBDA_FUNCTION_NAME": "backend", "RENDER": "true",
                       "PYTHONPATH": os.path.dirname(module.__file__)}
        printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        self.assertTrue(printed.startswith("Misconfigured"), printed)
        self.assertNotIn(OPERATOR, printed)


class WhichFile(Machine):
    def test_it_is_found_from_the_project_and_from_backend(self) -> None:
        self.env_file("GEMINI_API_KEY=AQ.of-the-file\n")
        for folder in (".", "backend"):
            with self.subTest(folder):
                os.chdir(self.project / folder)
                self.assertEqual(get_gemini_key(), "AQ.of-the-file")

    def test_backend_env_file_wins(self) -> None:
        self.env_file("GEMINI_API_KEY=AQ.of-the-file\n")
        other = self.env_file("GEMINI_API_KEY=AQ.of-another\n", "other.env")
        for folder in (".", "backend"):
            os.chdir(self.project / folder)
            with mock.patch.dict(os.environ, {"BACKEND_ENV_FILE": str(other)}):
                self.assertEqual(get_gemini_key(), "AQ.of-another")
            with mock.patch.dict(os.environ, {"BACKEND_ENV_FILE": str(self.project / "none.env")}):
                self.assertEqual(get_gemini_key(), OPERATOR)

    def test_a_file_of_another_folder_is_not_taken_for_it(self) -> None:
        self.env_file("GEMINI_API_KEY=AQ.of-the-project\n", ".env")
        self.assertEqual(get_gemini_key(), OPERATOR)

    def test_it_is_read_as_python_dotenv_reads_it_without_interpolation(self) -> None:
        self.env_file("\ufeffGEMINI_API_KEY='AQ.of $FILE'\nAPP=Bob's app\nexport EXA_API_KEY=exa-${HOME}-$1  # mine\n"
                      "COPILOTKIT_API_KEY\n")
        self.assertEqual(get_gemini_key(), "AQ.of $FILE")
        self.assertEqual(get_exa_key(), "exa-${HOME}-$1")
        self.assertIsNone(get_copilotkit_key())

    def test_a_file_that_cannot_be_read_is_an_error_without_its_words(self) -> None:
        (self.project / "backend/.env").write_bytes(b"GEMINI_API_KEY=AQ.of-the-file\xff\n")
        with self.assertRaises(Misconfigured) as error:
            get_gemini_key()
        self.assertIn("backend", str(error.exception))
        self.assertNotIn("AQ.", str(error.exception))
        self.assertIsNone(error.exception.__cause__)

    def test_an_unknown_provider_is_an_error(self) -> None:
        with self.assertRaises(UserApiKeysError):
            get_user_api_key(None, "huggingface")


class WhatWasSavedLast(Machine):
    """The back end calls load_dotenv() at its start, so os.environ has what the file was then."""

    def setUp(self) -> None:
        super().setUp()
        del os.environ["GEMINI_API_KEY"]
        self.file = self.env_file("GEMINI_API_KEY=AQ.first\n")

    def test_a_key_saved_after_load_dotenv_is_used(self) -> None:
        load_dotenv(self.file)
        for key in ("AQ.second", "AQ.third"):
            self.env_file(f"GEMINI_API_KEY={key}\n")
            self.assertEqual(get_gemini_key(), key)
        self.assertEqual(os.environ["GEMINI_API_KEY"], "AQ.first")

    def test_a_key_taken_out_after_it_was_used_is_gone(self) -> None:
        load_dotenv(self.file)
        self.assertEqual(get_gemini_key(), "AQ.first")
        for text in ("", "GEMINI_API_KEY=\n", "GEMINI_API_KEY\n", "EXA_API_KEY=exa\n"):
            self.env_file(text)
            self.assertIsNone(get_gemini_key())
        self.file.unlink()
        self.assertIsNone(get_gemini_key())

    def test_a_key_taken_out_before_it_was_used_is_gone_where_the_module_was_there(self) -> None:
        program = ("import os, dotenv; dotenv.load_dotenv('backend/.env'); import user_api_key_context as m\n"
                   "open('backend/.env', 'w').close(); print(m.get_gemini_key())")
        environment = {"PYTHONPATH": os.path.dirname(module.__file__)}
        printed = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
        self.assertEqual(printed.stdout.strip(), "None")

    def test_a_key_of_the_environment_alone_is_used_without_its_line_break(self) -> None:
        self.env_file("EXA_API_KEY=\n")
        with mock.patch.dict(os.environ, {"GEMINI_API_KEY": "AQ.of-the-environment\n", "EXA_API_KEY": "exa-of-it"}):
            self.assertEqual(get_gemini_key(), "AQ.of-the-environment")
            self.assertEqual(get_exa_key(), "exa-of-it")


if __name__ == "__main__":
    unittest.main()
