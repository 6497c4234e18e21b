"""No credential is shown or kept, however an address or a message holds it."""

from __future__ import annotations

import pytest

from videollava.errors import InputError
from videollava.scrub import is_secret_name, scrub


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
        "params.yaml: prepare.tokenizer: train; max_tokens=5, token_count: 3",
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
    assert is_secret_name("PREFECT_API_AUTH_STRING")
    assert not is_secret_name("VIDEOLLAVA_WORKSPACE")


def test_every_error_of_ours_is_scrubbed() -> None:
    assert str(InputError("https://user:secret@host/x.tar: 404")) == "https://***@host/x.tar: 404"
