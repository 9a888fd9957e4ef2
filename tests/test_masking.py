"""Secrets in options and logs."""

import os
import pathlib
import sys

import pytest

from graftline import masking
from graftline.errors import UserError
from graftline.pipeline import cli, config_file, console
from graftline.pipeline import compile as compiling

OPTIONS = [
    *("--s3_access_key_id=KEYKEYKEY", "--s3_secret_access_key", "SECRETSECRET", "--runner=x"),
    *("--azure_connection_string=AccountKey=abc==;x", "--s3_session_token="),
]


def test_flags_that_hold_secrets_are_known_by_their_names() -> None:
    names = ["--s3_access_key_id", "--s3_secret_access_key", "--azure_connection_string", "--s3_session_token"]
    assert masking.secret_flags(OPTIONS) == names
    assert masking.secret_flags(["--runner=x", "--dataflow_kms_key=projects/p", "--job_endpoint=h:1", "word"]) == []
    assert masking.secret_values([], {}) == []
    environment = {"MY_TOKEN": "tokentoken", "SECRET": "1", "HOME": "/root/root"}
    assert masking.secret_values(OPTIONS, environment) == [
        *("AccountKey=abc==;x", "SECRETSECRET", "tokentoken", "KEYKEYKEY"),
    ]


def test_a_path_in_the_environment_is_no_secret(tmp_path: pathlib.Path) -> None:
    environment = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path), "OLDPWD": "/removed/folder", "DB_PWD": "/no/path/x"}
    assert masking.secret_values([], environment) == ["/no/path/x"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ('beam_pipeline_args: "--s3_secret_access_key=abc"', 'beam_pipeline_args: "--s3_secret_access_key=***"'),
        (r"[\"--s3_session_token=abc\", 1]", r"[\"--s3_session_token=***\", 1]"),
        ("--password abc def", "--password *** def"),
        ("http://user:pw@proxy:3128/x", "http://user:***@proxy:3128/x"),
        ("the value is tokentoken.", "the value is ***."),
        ("amqp://user:p@ss@host/x, ftp://u:p@h", "amqp://user:***@host/x, ftp://u:***@h"),
        ("https://ghp_0123456789abcdefghij@host/x git@host", "https://***@host/x git@host"),
        ("https://host/b?a=1&X-Amz-Signature=0123abcdef&b=2", "https://host/b?a=1&X-Amz-Signature=***&b=2"),
        ("https://host/b?sig=0123abcdef%3D", "https://host/b?sig=***"),
        ("AccountName=a;AccountKey=0123abcdef==;Suffix=s", "AccountName=a;AccountKey=***;Suffix=s"),
        ("Server=h;Password=0123abcdef;Port=1", "Server=h;Password=***;Port=1"),
        ("{'clientSecret': '0123abcdef', \"port\": 1}", "{'clientSecret': '***', \"port\": 1}"),
        ("Authorization: Bearer a.b-c, accept: x", "Authorization: Bearer ***, accept: x"),
        ("{'authorization': 'Basic YTpi'}", "{'authorization': 'Basic ***'}"),
        ("--clientPassphrase=abc --apikey abc --db-pwd=abc", "--clientPassphrase=*** --apikey *** --db-pwd=***"),
        ("--connectionString=abc --connection-string=abc", "--connectionString=*** --connection-string=***"),
        ("max_tokens=77, cwd: /home/token/x", "max_tokens=77, cwd: /home/token/x"),
        ("cache key: 12, tokens: 3, keys=4", "cache key: 12, tokens: 3, keys=4"),
        ("--runner=x http://host:80/a@b", "--runner=x http://host:80/a@b"),
    ],
)
def test_a_text_is_masked(text: str, masked: str) -> None:
    assert masking.mask(text, ["tokentoken"]) == masked


def test_the_log_of_a_run_holds_no_secret(tmp_path: pathlib.Path) -> None:
    with console.captured(tmp_path / "log", masking.secret_values(OPTIONS, {})):
        sys.stdout.write(f"args: {OPTIONS}\n")
        os.write(1, b"by a child\n")
    text = (tmp_path / "log").read_text()
    assert "by a child" in text
    assert "--runner=x" in text
    assert not any(secret in text for secret in ("KEYKEYKEY", "SECRETSECRET", "abc=="))


def test_a_message_about_a_wrong_value_holds_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", "--images", "x", "--set", "beam.options=--s3_secret_access_key=abcdef"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "graftline: --set: beam.options is '--s3_secret_access_key=***', but must be a list\n"
    )


def test_a_secret_goes_into_no_compiled_pipeline(tmp_path: pathlib.Path) -> None:
    config = config_file.load(None, ["images=gs://b/photos", 'beam.options=["--s3_secret_access_key=abcdef"]'])
    with pytest.raises(UserError, match=r"^beam\.options holds --s3_secret_access_key: a compiled pipeline") as raised:
        compiling.compile_pipeline(config, "kubeflow", tmp_path / "pipeline.yaml")
    assert "abcdef" not in str(raised.value)
    assert not list(tmp_path.iterdir())
