"""Options of the endpoint: a config file's arguments, the key, the names of classes."""

from dataclasses import replace

import pytest
from api_client import CONFIG, MODEL

from actors.serving.endpoint import application, build, card_of
from actors.serving.endpoint_config import EndpointConfig, read_key
from marval_ray.families.dcar.config import DCARConfig


def test_arguments_of_a_config_file_are_checked(tmp_path):
    for args, sentence in [
        ({"stepz": 3}, "stepz"), ({"steps": 65}, "more than the 64 tokens"), ({"batch": 0}, "batch must be more than 0"),
        ({"max_replicas": 0}, "max_replicas 0 is less"), ({"checkpoint": str(tmp_path / "none")}, "config.json is missing"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            build(args)


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("MARVAL_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("MARVAL_API_KEY", "from-environment")
    assert read_key(None) == "from-environment"
    for content in (b"from-file", b"from-file\n", b"from-file\r\n", b"\xef\xbb\xbffrom-file\n"):
        (tmp_path / "key").write_bytes(content)
        assert read_key(tmp_path / "key") == "from-file"


@pytest.mark.parametrize("content, sentence", [
    (b"", "is empty"), (b"\n", "is empty"), (b" \t\n", "is empty"), (b"one\ntwo\n", "must be one line of ASCII"),
    ("schlüssel".encode(), "must be one line of ASCII"), (b"two words", "must be one line of ASCII"),
    (b"nul\0", "must be one line of ASCII"),
    (b"\xff\xfek\0", "cannot be read as a line of text"),
])  # fmt: skip
def test_keys_that_no_header_can_carry_are_refused(tmp_path, monkeypatch, content, sentence):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        application(EndpointConfig(key_file=tmp_path / "key"))
    if b"\0" not in content:
        monkeypatch.setenv("MARVAL_API_KEY", content.decode())
        with pytest.raises(ValueError, match=f"MARVAL_API_KEY {sentence}"):
            application(EndpointConfig())


def test_key_files_that_are_none_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"--key-file {path} cannot be read"):
            application(EndpointConfig(key_file=path))


def test_names_of_classes_are_for_models_of_classes(tmp_path):
    with pytest.raises(ValueError, match=f"--classes {tmp_path}: this model reads texts, and has no classes"):
        card_of(replace(CONFIG, classes=tmp_path), DCARConfig())


def test_names_of_classes_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"), encoding="utf-8")
    assert card_of(replace(CONFIG, classes=tmp_path / "names.txt"), MODEL).classes == tuple("abcdefghij")
