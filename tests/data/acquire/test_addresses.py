"""Addresses of any characters, with any credentials or none: each works, or is refused in a sentence without them."""

from __future__ import annotations

import pytest

from videollava.data.acquire.addresses import file_name, is_address, parse_address, shown
from videollava.data.acquire.credentials import authorization, hint
from videollava.errors import InputError
from videollava.params import Source, parse_params
from videollava.scrub import has_password, has_signature

BASIC = "Basic dXNlcjpzZWNyZXQ="  # user:secret


POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"
OUTPOST = "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-1/accesspoint/mine"


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No credentials but a test's own."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(home))


@pytest.mark.parametrize(
    ("text", "url", "file"),
    [
        ("https://host/a b.tar", "https://host/a%20b.tar", "a b.tar"),
        ("https://host/a%20b.tar", "https://host/a%20b.tar", "a b.tar"),
        ("https://host/ünï/小.tar", "https://host/%C3%BCn%C3%AF/%E5%B0%8F.tar", "小.tar"),
        ("https://host/100%.tar", "https://host/100%25.tar", "100%.tar"),
        ("https://host/a+b.tar?x=1 2&y=a/b", "https://host/a+b.tar?x=1%202&y=a/b", "a+b.tar"),
        ("https://host/a%23b.tar", "https://host/a%23b.tar", "a#b.tar"),
        ("HTTPS://Host.Example.:443/a.tar", "https://host.example/a.tar", "a.tar"),
        ("http://host:8080//x//a.tar", "http://host:8080//x//a.tar", "a.tar"),
        ("http://[::1]:8080/a.tar", "http://[::1]:8080/a.tar", "a.tar"),
        ("http://[2001:DB8::1]/a.tar", "http://[2001:db8::1]/a.tar", "a.tar"),
        ("http://bücher.example/a.tar", "http://xn--bcher-kva.example/a.tar", "a.tar"),
        ("https://host/a@2x.tar", "https://host/a@2x.tar", "a@2x.tar"),
        ("  https://host/a.tar\n", "https://host/a.tar", "a.tar"),
        ("https://host/..%2Fa.tar", "https://host/..%2Fa.tar", "a.tar"),
        ("https://host?file=a.tar", "https://host/?file=a.tar", ""),
        ("https://host/x/..", "https://host/x/..", ""),
    ],
)
def test_what_is_asked_for(text: str, url: str, file: str) -> None:
    assert parse_address(text, "p").url == url
    assert parse_address(text, "p").file == file_name(text, "p") == file


@pytest.mark.parametrize(
    ("text", "bucket", "keys"),
    [
        ("s3://b/a b.tar", "b", ("a b.tar",)),
        ("S3://b/a%20b.tar", "b", ("a b.tar", "a%20b.tar")),
        ("s3://b/x//a+b.tar", "b", ("x//a+b.tar",)),
        ("s3://b//a.tar", "b", ("/a.tar",)),
        ("s3://b/what?#.tar", "b", ("what?#.tar",)),
        ("s3://b/小.tar", "b", ("小.tar",)),
        (f"s3://{POINT}/x/a.tar", POINT, ("x/a.tar",)),
        (f"s3://{POINT.replace('point/', 'point:')}/a.tar", POINT.replace("point/", "point:"), ("a.tar",)),
        (f"s3://{OUTPOST}/a.tar", OUTPOST, ("a.tar",)),
        ("s3://arn:aws:s3::1:accesspoint/m.mrap/a.tar", "arn:aws:s3::1:accesspoint/m.mrap", ("a.tar",)),
    ],
)
def test_keys_are_no_addresses(text: str, bucket: str, keys: tuple[str, ...]) -> None:
    found = parse_address(text, "p")
    assert (found.host, found.names) == (bucket, keys)
    assert found.shown == text


def test_local_paths() -> None:
    assert parse_address("file:///a%20b#c?.tar", "p").names == ("/a b#c?.tar", "/a%20b#c?.tar")
    assert parse_address("file://localhost/a.tar", "p").names == ("/a.tar",)
    assert parse_address("FILE:///a.tar", "p").file == "a.tar"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a.tar", "start with s3://"),
        ("", "start with s3://"),
        ("ftp://host/a.tar", "start with s3://"),
        ("https:/host/a.tar", "start with s3://"),
        ("https:///a.tar", "no name of a host"),
        ("https://ho st/a.tar", "no name of a host"),
        ("https://host:99999/a.tar", "host and port are not clear"),
        ("https://host:port/a.tar", "host and port are not clear"),
        ("https://[::1/a.tar", "host and port are not clear"),
        ("https://[zz]/a.tar", "no IPv6 address"),
        ("https://host/a\nHost: other", "control character"),
        ("https://host/a#b.tar", "write %23 for a #"),
        ("https://user:se/cret@host/a.tar", "in a password / is written %2F"),
        ("https://user:se@cret/x@host/a.tar", "two @"),
        ("s3:///a.tar", "s3://BUCKET/KEY"),
        ("s3://bucket", "s3://BUCKET/KEY"),
        ("s3://key:secret@bucket/a.tar", "AWS_ACCESS_KEY_ID"),
        ("file://data/a.tar", "file:///absolute"),
        ("https://user:${NO_SUCH_VARIABLE}@host/a.tar", "no variable NO_SUCH_VARIABLE"),
    ],
)
def test_what_is_no_address_is_refused_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(InputError, match=r"^params\.yaml: mine: ") as caught:
        parse_address(text, "params.yaml: mine")
    assert said in str(caught.value)
    assert "cret" not in str(caught.value).replace("secrets", "")


def test_credentials_in_an_address_are_used_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("https://user:secret@host/a.tar?sig=abc", "https://user:s%65cret@host/a.tar?sig=abc"):
        found = parse_address(text, "p")
        assert authorization(found) == BASIC
        assert found.url == "https://host/a.tar?sig=abc"
        assert found.shown == shown(text) == "https://***@host/a.tar?***"
    monkeypatch.setenv("MY_PASSWORD", "p@ss/w?r:d#%")
    found = parse_address("https://user:${MY_PASSWORD}@host/a.tar", "p")
    assert found.user == ("user", "p@ss/w?r:d#%")
    assert (found.url, found.shown) == ("https://host/a.tar", "https://***@host/a.tar")
    monkeypatch.setenv("QUERY", "X-Amz-Signature=ab%2F1&x=2")
    found = parse_address("https://host/a.tar?${QUERY}", "p")
    assert (found.url, found.shown) == (
        "https://host/a.tar?X-Amz-Signature=ab%2F1&x=2",
        "https://host/a.tar?***",
    )
    monkeypatch.setenv("WHOLE", "https://user:secret@host/b.tar?sig=1")
    assert authorization(parse_address("${WHOLE}", "p")) == BASIC
    assert file_name("${WHOLE}", "p") == "b.tar"
    assert shown("${WHOLE}") == "${WHOLE}"
    assert is_address("${WHOLE}")


@pytest.mark.parametrize(
    "text",
    [
        "https://user:secret@host/a.tar",
        "https://:secret@host/a.tar",
        "https://secret@host/a.tar",
        "https://user:se/secret@host/a.tar",
        "https://user:se?secret@host/a.tar",
        "https://us er:a secret@host/a.tar",
        "https://host/a.tar?X-Amz-Signature=secret",
        "https://host/a.tar?Policy=secret&Key-Pair-Id=secret",
        "https://host/a.tar#secret",
        "s3://key:secret@bucket/a.tar",
        "user:secret@host/a.tar",
    ],
)
def test_nothing_secret_is_shown(text: str) -> None:
    assert "secret" not in shown(text)
    assert "a.tar" in shown(text)


def test_who_we_are_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    hub = parse_address("https://huggingface.co/datasets/a/resolve/main/a.tar", "p")
    assert authorization(hub) == ""
    assert "set HF_TOKEN" in hint(hub)
    monkeypatch.setenv("HF_TOKEN", " hf_token\n")
    assert authorization(hub) == "Bearer hf_token"
    for other in (
        "http://huggingface.co/a.tar",
        "https://huggingface.co.evil.example/a.tar",
        "https://cdn-lfs.huggingface.co/a.tar",
        "https://example.com/a.tar",
    ):
        assert authorization(parse_address(other, "p")) == ""


def test_netrc_entries_are_for_their_host_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("n") / "netrc"
    file.write_text("machine host login user password secret\ndefault login other password word\n")
    monkeypatch.setenv("NETRC", str(file))
    assert authorization(parse_address("https://host:8443/a.tar", "p")) == BASIC
    assert authorization(parse_address("https://other/a.tar", "p")) == ""
    assert authorization(parse_address("https://me:mine@host/a.tar", "p")) != BASIC
    file.write_text("machine host nonsense secret\n")
    assert authorization(parse_address("https://host/a.tar", "p")) == ""
    assert "cannot be read at line" in hint(parse_address("https://host/a.tar", "p"))


@pytest.mark.parametrize(
    "address",
    [
        "https://user:secret@host/a.tar",
        "https://secret@host/a.tar",
        "http://:secret@host/a.tar",
        "https://user:se cret@host/a.tar",
        "https://user:se/cret@host/a.tar",
        "https://user:sec@ret@host/a.tar",
        "s3://key:secret@bucket/a.tar",
    ],
)
def test_params_hold_no_password(address: str) -> None:
    source = {"kind": "archive", "format": "llava"}
    for field in ({"urls": [address]}, {"annotations": address}):
        with pytest.raises(InputError, match=r"write \$\{NAME\} in its place") as caught:
            parse_params({"sources": {"mine": {**source, **field}}})
        assert not [part for part in ("secret", "cret@", "ret@", "se cret") if part in str(caught.value)]


@pytest.mark.parametrize(
    "address",
    [
        "https://user:${PASSWORD}@host/a.tar",
        "https://${WHO}@host/a.tar",
        "https://host/x@2.tar",
        "${URL}",
        "s3://b/k@1",
    ],
)
def test_params_hold_names_of_variables(address: str) -> None:
    assert not has_password(address)
    Source(name="mine", kind="archive", format="llava", urls=(address,))


def test_signatures_are_known() -> None:
    assert has_signature("https://h/a.tar?X-Amz-Signature=ab12")
    assert has_signature("https://h/a.tar?sv=1&sig=ab%2F12")
    assert not has_signature("https://h/a.tar?sig=${SIGNATURE}")
    assert not has_signature("https://h/a.tar?download=true")
    assert not has_signature("https://user:${PASSWORD}@h/a.tar")
