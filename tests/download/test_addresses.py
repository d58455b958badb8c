"""What is asked for an address, and what may be seen of one."""

from __future__ import annotations

import pytest

from ffhqref.download.addresses import address_fault, direct, host, public, token
from ffhqref.download.network import Manners, Network, Refused
from ffhqref.download.pages import drive_refusal


def test_addresses() -> None:
    drive = "https://drive.google.com/uc?id=16N0&export=download"
    for url in (
        "https://drive.google.com/uc?id=16N0",
        "https://drive.google.com/file/d/16N0/view?usp=sharing",
    ):
        assert direct(url) == drive
    assert direct("hf://datasets/me/faces/a b/0.png") == (
        "https://huggingface.co/datasets/me/faces/resolve/main/a%20b/0.png"
    )
    assert direct("hf://me/net@v1/w.onnx") == "https://huggingface.co/me/net/resolve/v1/w.onnx"
    with pytest.raises(Refused, match="is no path in a Hugging Face repository"):
        Network(Manners()).get("hf://me/net", {})
    assert drive_refusal("<html><title>Google Drive - Access denied</title>") != ""
    assert drive_refusal("<html><title>About drives</title>") == ""


def test_the_token_goes_to_its_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert token("https://huggingface.co/x") == {"Authorization": "Bearer secret"}
    assert token("http://huggingface.co/x") == token("https://evil.example/x") == {}


@pytest.mark.parametrize(
    ("url", "seen", "name"),
    [
        ("https://u:p@h.org:8/a@b?x=1", "https://h.org:8/a@b?x=1", "h.org:8"),
        ("https://u@h.org/", "https://h.org/", "h.org"),
        ("ftp://u:p@h.org/a", "ftp://h.org/a", "h.org"),
        ("u:p@h.org/a", "h.org/a", "h.org/a"),
        ("https://h.org/a?id=1&access_token=p&b=2", "https://h.org/a?id=1&access_token=***&b=2", "h.org"),
        ("https://h.org/a?X-Amz-Signature=p#t", "https://h.org/a?X-Amz-Signature=***#t", "h.org"),
        ("/disk/a:b@c/d", "/disk/a:b@c/d", "/disk/a:b@c/d"),
        ("https://drive.google.com/uc?id=16N0", "https://drive.google.com/uc?id=16N0", "drive.google.com"),
    ],
)
def test_passwords_are_left_out(url: str, seen: str, name: str) -> None:
    assert (public(url), host(url)) == (seen, name)


def test_what_is_no_address() -> None:
    for url in ("http://[::1/x", "http://h:port/x", "http://h:0/x", "http://u:p@/x", "file:///x", "http://h"):
        assert address_fault(url), url
    for url in ("http://[::1]/x", "HTTPS://h:443/x", "hf://datasets/me/faces/0.png", "http://u:p@h/x"):
        assert not address_fault(url), url
