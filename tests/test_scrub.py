"""No credential is shown or kept, however an address or a message holds it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from videollava.errors import InputError
from videollava.scrub import is_secret_name, scrub, scrub_all


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("https://user:secret@host/x.tar", "https://***@host/x.tar"),
        ("see https://u:p@ss/w?rd@host:80/x now", "see https://***@host:80/x now"),
        ("https://token@host/x", "https://***@host/x"),
        ("https://:secret@[::1]:80/x", "https://***@[::1]:80/x"),
        ("postgresql+psycopg2://me:pass%40word@db:5432/mlflow", "postgresql+psycopg2://***@db:5432/mlflow"),
        ("s3://key:secret@bucket/x and s3://b/c", "s3://***@bucket/x and s3://b/c"),
        ("https://h/x?X-Amz-Signature=ab12&X-Amz-Credential=AKIA/1&a=b", None),
        ("https://h/x?sv=1&sig=Ab%2F1&token=t0k", None),
        ("Authorization: Basic dXNlcjpzZWNyZXQ=", "Authorization: Basic ***"),
        ("{'Authorization': 'Bearer abc.def.ghi'}", "{'Authorization': 'Bearer ***'}"),
        ('{"api_key": "two words", "n": 3}', '{"api_key": "***", "n": 3}'),
        ("secret_access_key = wJalr/XUt", "secret_access_key = ***"),
        ("password: secret@x and token=setting1", "password: *** and token=***"),
        ("token=set", "token=***"),
        ("AWS_SECRET_ACCESS_KEY=ABC_DEF/GHI+1", "AWS_SECRET_ACCESS_KEY=***"),
        ("key hf_abcdefghijkl and sk-proj-abcdefghijkl", "key *** and ***"),
    ],
)
def test_credentials_are_hidden(text: str, clean: str | None) -> None:
    shown = scrub(text)
    if clean is not None:
        assert shown == clean
    assert not [
        word for word in ("secret@", "p@ss", "pass%40", "ab12", "Ab%2F1", "t0k", "dXNl") if word in shown
    ]
    assert scrub(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "https://acc.blob.core.windows.net/c/x?sv=2021&sig=hunter2%2Bab%3D&sp=r",
        "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=hunter2+a/b==;EndpointSuffix=x",
        "BlobEndpoint=https://a.blob/;SharedAccessSignature=hunter2",
        "https://s.g.com/b?GoogleAccessId=me%40x&Expires=1&Signature=hunter2%3D",
        "https://me:a'b:#hunter2%!$&@host/x",
        "https://me:a hunter2@host/x",
        "https://h/path,https://me:hunter2@g",
        "https://h/?next=https%3A%2F%2Fme%3Ahunter2%40host",
        "HTTPS_PROXY=me:hunter2@proxy:8080",
        "me:hunter2@tcp(db:3306)/x",
        "machine host.org\n  login me\n  password hunter2\n",
        "client-key-data: aHVudGVyMg==hunter2",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEhunter2\nQUJD==\n-----END RSA PRIVATE KEY-----",
        "cut short: -----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\nQUJD",
        '{"private_key": "-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----\\n"}',
        "host=db password='a\\'hunter2' dbname=m",
        "mysql -u root -phunter2 db",
        "mc alias set local http://h:9000 minioadmin hunter2",
        "tool --password hunter2 --n 1",
        "['tool', '--api-key', 'hunter2']",
        "curl -u me:hunter2 https://h",
        "db:\n  password: >-\n    one\n    hunter2\n",
        '"{\\"password\\": \\"hunter2\\"}"',
        '{"secretAccessKey": "hunter2", "SessionToken": "hunter2"}',
        '{"api_keys": ["hunter2"]}',
        "{b'password': b'hunter2'}",
        "('AWS_SECRET_ACCESS_KEY', 'hunter2')",
        'password = """hunter2"""',
        "<password>hunter2</password>",
        "&quot;password&quot;: &quot;hunter2&quot;",
        "Set-Cookie: sid=hunter2; Path=/",
        'Authorization: Digest username="me", response="hunter2"',
        '{"auths": {"h": {"auth": "aHVudGVyMg==hunter2"}}}',
        "encryption_key: hunter2 fernet_key=hunter2",
        "password=\ntoken: hunter2",
        "https://hooks.slack.com/services/T000/B000/hunter2",
    ],
)
def test_shapes_of_other_people_are_hidden(text: str) -> None:
    shown = scrub(text)
    assert "hunter2" not in shown
    assert scrub(shown) == shown


@pytest.mark.parametrize(
    "token",
    [
        "npm_0123456789abcdefghijklmnopqrstuvwxyz",
        "pypi-AgEIcHlwaS5vcmcCJDAxMjM0NTY3ODk",
        "dapi0123456789abcdef0123456789abcdef",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv0",
        "ya29.a0AfB_byC1234567890",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "sk-ant-api03-abcdefghijkl",
    ],
)
def test_tokens_of_known_shape_are_hidden_in_any_text(token: str) -> None:
    assert scrub(f"got {token} there") == "got *** there"


@pytest.mark.parametrize(
    "text",
    [
        "image: repo/x:1.2@sha256:abcdef0123, videollava/models@v2, mailto:me@host.org/",
        "sk-learn-pipeline-v2, hf_transformers_model, lmsys/vicuna-7b-v1.5",
        "a flag bearer standing next to a man; cookie: a chocolate chip",
        '{"use_auth_token": true, "token": null, "pad_token": "<pad>"}',
        "token: 50256, --pad-token x --max-tokens 5, -u 1000:1000",
        "password=${DB_PASSWORD} token: $HF_TOKEN",
        "def f(token: str, api_key: str | None = None), signature: (str) -> int",
        "password: must be set",
        "https://host:8080/a@b/c, s3://bucket/a@b, https://host/a,https://h/b@2",
        "commit 0123456789abcdef0123456789abcdef01234567",
        "params.yaml: index.tokenizer: train; max_tokens=5, token_count: 3",
        "pad_token: <pad>, eos_token='</s>', image_token=<image>, video_token_id: 7",
        "https://host/path and me@host.org; git@github.com:a/b.git; ssh://git@host/a",
        "basic instructions, token embeddings, the key: value, sigma=0.1",
        "models:/videollava@champion, http://127.0.0.1:4200/a@b",
        "a.tar: video@v2/x.mp4 is missing",
        "it wants credentials: set AWS_PROFILE, or credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "no end-of-text token: set its eos_token",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert scrub(text) == text


def test_values_of_secret_variables_are_hidden_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pla/in+value")
    monkeypatch.setenv("MY_TOKEN", "abc")  # too short to be one: it would be cut out of every text
    assert scrub("sent pla/in+value, pla%2Fin%2Bvalue, abc") == "sent ***, ***, abc"
    monkeypatch.setenv("DB_PASSWORD", "postgres")  # a word: cut out of others it would say something else
    assert scrub("postgresql://db/mlflow as postgres") == "postgresql://db/mlflow as ***"
    assert is_secret_name("PREFECT_API_AUTH_STRING")
    assert not is_secret_name("VIDEOLLAVA_WORKSPACE")


def test_every_error_of_ours_is_scrubbed() -> None:
    assert str(InputError("https://user:secret@host/x.tar: 404")) == "https://***@host/x.tar: 404"


def test_a_file_that_a_variable_names_is_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "account.json"
    file.touch()
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert scrub(f"{file}: cannot be read") == f"{file}: cannot be read"


def test_values_under_telling_names_are_hidden_whole() -> None:
    values = {"password": "two words", "token": 5, "n": ["https://me:x@h", None], "api_keys": ["a b"]}
    assert scrub_all(values) == {
        "password": "***",
        "token": 5,
        "n": ["https://***@h", None],
        "api_keys": ["***"],
    }


def test_long_texts_take_no_longer_than_their_length() -> None:
    began = time.monotonic()
    scrub("https://h/aaaaaaaa," * 10_000 + "@ x")  # took 7 s: each address was read to the end
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("piece", ["\\", "a:b@", "key-", "'a',", "-----BEGIN PRIVATE KEY-----", "token "])
def test_long_texts_take_their_length_in_time(piece: str) -> None:
    """A rule that looks back over what it has read would sit here for minutes."""
    scrub(piece * (100_000 // len(piece)))
