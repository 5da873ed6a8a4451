# SPDX-License-Identifier: Apache-2.0
"""What travels, what is refused, and what a host is told."""

from __future__ import annotations

import hashlib
import os
import socket

import pytest

from enarx.deploy import package as package_module
from enarx.deploy.host_client import HostPort
from enarx.deploy.package import DirectorySource, load_package
from enarx.errors import ConfigError, UsageError
from enarx.wire.overrides import Overrides
from enarx.wire.release import (
    Configuration,
    ListenOverride,
    PeerOverride,
    Steward,
    decode_files_untrusted,
    decode_manifest_untrusted,
)


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "main.wasm"
    path.write_bytes(b"\0asm")
    return str(path)


def with_toml(tmp_path, module, text):
    (tmp_path / "Enarx.toml").write_text(text)
    return str(tmp_path)


def test_a_module_alone_is_a_package_that_is_pristine(module):
    package = load_package(module)
    manifest = decode_manifest_untrusted(package.manifest)
    assert manifest.main == (hashlib.sha256(b"\0asm").digest(), 4)
    assert manifest.toml is None
    assert package.configuration == Configuration()
    assert package.plaintexts == {"main.wasm": b"\0asm"}
    assert (package.ports, package.memory_bytes, package.total_bytes) == ((), 1 << 30, 4)


def test_a_directory_brings_its_enarx_toml(tmp_path, module):
    package = load_package(with_toml(tmp_path, module, '[limits]\nmemory = "64 MiB"\n'))
    assert decode_manifest_untrusted(package.manifest).toml is not None
    assert package.memory_bytes == 64 << 20
    assert package.configuration == Configuration()


def test_a_directory_without_a_module_is_refused(tmp_path):
    with pytest.raises(UsageError, match="directory without main"):
        load_package(str(tmp_path))


def test_what_is_given_beyond_the_package_is_the_configuration(module):
    overrides = Overrides(
        arguments=["a", ""],
        environment=[("A", "1"), ("A", "2")],
        listen=[("web", "", 80)],
        limits={"timeout-ms": 1500.1, "memory-bytes": 1 << 20},
    )
    package = load_package(module, overrides=overrides)
    assert package.configuration == Configuration(
        arguments=("a", ""),
        environment=(("A", "2"),),
        listen=(ListenOverride("web", "tls", 80),),
        limits={"timeout-ms": 1501, "memory-bytes": 1 << 20},
    )
    assert package.ports == (HostPort(name="web", port=80),)
    assert package.memory_bytes == 1 << 20


def test_another_port_at_the_host_leaves_the_package_pristine(tmp_path, module):
    folder = with_toml(tmp_path, module, '[[files]]\nkind = "listen"\nname = "web"\nport = 443\n')
    package = load_package(folder, overrides=Overrides(listen=[("web", "", 8443)]))
    assert package.configuration == Configuration()
    assert package.ports == (HostPort(name="web", port=8443),)


@pytest.mark.parametrize("kind", ["listen", "connect"])
def test_plaintext_sockets_are_refused_unless_allowed_by_name(tmp_path, module, kind):
    where = "port = 80" if kind == "listen" else 'host = "a.example"'
    folder = with_toml(tmp_path, module, f'[[files]]\nkind = "{kind}"\nname = "web"\nprot = "tcp"\n{where}\n')
    with pytest.raises(UsageError, match="socket web") as refused:
        load_package(folder, plaintext=frozenset({"other"}))
    assert "--allow-plaintext web" in refused.value.hint
    load_package(folder, plaintext=frozenset({"web"}))


def test_an_option_can_make_a_plaintext_socket_safe(tmp_path, module):
    folder = with_toml(tmp_path, module, '[[files]]\nkind = "listen"\nname = "web"\nprot = "tcp"\nport = 80\n')
    package = load_package(folder, overrides=Overrides(listen=[("web", "tls", 443)]))
    assert package.configuration.listen == (ListenOverride("web", "tls", 443),)


def test_directories_travel_with_all_that_is_in_them(tmp_path, module):
    data = tmp_path / "data"
    (data / "b" / "c").mkdir(parents=True)
    (data / "a").write_bytes(b"1")
    (data / "b" / "d").write_bytes(b"")
    package = load_package(module, directories=[DirectorySource(path=str(data), guest="/d", read_only=True)])
    (directory,) = decode_files_untrusted(package.plaintexts["files"]).directories
    assert (directory.guest, directory.read_only) == ("/d", True)
    assert [(entry.path, entry.contents) for entry in directory.entries] == [
        (("a",), b"1"),
        (("b",), None),
        (("b", "c"), None),
        (("b", "d"), b""),
    ]
    assert package.configuration.files == hashlib.sha256(package.plaintexts["files"]).digest()


def test_directories_and_pem_files_of_enarx_toml_are_beside_it(tmp_path, module):
    (tmp_path / "data").mkdir()
    (tmp_path / "key.pem").write_bytes(b"key")
    (tmp_path / "certificate.pem").write_bytes(b"certificate")
    text = (
        '[[dirs]]\nhost = "data"\nguest = "/d"\n'
        '[tls]\ncertificate = "certificate.pem"\nprivate_key = "key.pem"\ntrust_anchors = ["certificate.pem"]\n'
    )
    files = decode_files_untrusted(load_package(with_toml(tmp_path, module, text)).plaintexts["files"])
    assert [each.guest for each in files.directories] == ["/d"]
    assert files.tls == {"certificate.pem": b"certificate", "key.pem": b"key"}


@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "socket"])
def test_what_is_no_file_is_refused_and_not_followed(tmp_path, module, kind):
    data = tmp_path / "data"
    data.mkdir()
    if kind == "link":
        (data / "x").symlink_to(module)
    elif kind == "dangling":
        (data / "x").symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(data / "x")
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(data / "x"))
    with pytest.raises(UsageError, match="symbolic link" if kind in {"link", "dangling"} else "device, socket"):
        load_package(module, directories=[DirectorySource(path=str(data), guest="/d")])


def test_files_have_limits(tmp_path, module, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    for name in "abc":
        (data / name).write_bytes(b"x" * 10)
    source = [DirectorySource(path=str(data), guest="/d")]
    monkeypatch.setattr(package_module, "MAX_FILES_BYTES", 25)
    with pytest.raises(UsageError, match="more than 25 bytes"):
        load_package(module, directories=source)
    monkeypatch.setattr(package_module, "MAX_FILES_BYTES", 1000)
    monkeypatch.setattr(package_module, "_MAX_ITEMS", 12)
    with pytest.raises(UsageError, match="too many files"):
        load_package(module, directories=source)


def test_a_module_has_a_limit_too(module, monkeypatch):
    monkeypatch.setattr(package_module, "MAX_MODULE_BYTES", 3)
    with pytest.raises(UsageError, match="more than 3 bytes"):
        load_package(module)


def test_a_value_that_is_too_long_is_not_shown(module):
    with pytest.raises(UsageError) as refused:
        load_package(module, overrides=Overrides(environment=[("A", "secret" * 1000)]))
    assert "secret" not in str(refused.value)


def test_a_wrong_enarx_toml_is_named(tmp_path, module):
    with pytest.raises(ConfigError, match=r"Enarx\.toml:1"):
        load_package(with_toml(tmp_path, module, "x = 1\n"))


# --- Stewards and peers ------------------------------------------------------------------------------------------------

STEWARD = Steward("https://steward.example/", b"root")


def test_a_steward_that_is_named_is_the_deployment_s_and_no_part_of_the_configuration(module):
    package = load_package(module, steward=STEWARD)
    assert package.steward == STEWARD
    assert package.configuration == Configuration()


def test_a_package_s_steward_has_to_be_named(tmp_path, module):
    path = with_toml(tmp_path, module, 'steward = "https://steward.example:443"')
    with pytest.raises(UsageError, match=r"found https://steward\.example:443 in the package's") as caught:
        load_package(path)
    assert "--steward-root" in caught.value.hint
    with pytest.raises(UsageError, match="want the same"):
        load_package(path, steward=Steward("https://other.example", b"root"))
    # Another spelling of the same place.
    assert load_package(path, steward=STEWARD).steward == STEWARD


def test_peers_are_part_of_the_configuration(module):
    peer = (b"p" * 32, None)
    package = load_package(module, overrides=Overrides(peers=[peer]), steward=STEWARD)
    assert package.configuration == Configuration(peers=(PeerOverride(*peer),), limits=None, arguments=None)
    assert load_package(module, overrides=Overrides(peers=[])).configuration == Configuration()


def test_peers_need_a_steward(tmp_path, module):
    with pytest.raises(ConfigError, match="found no Steward"):
        load_package(module, overrides=Overrides(peers=[(b"p" * 32, None)]))
    path = with_toml(tmp_path, module, f"[tls]\npeers = [{{ package = '{'0' * 64}', tenant = 'any' }}]")
    with pytest.raises(ConfigError, match="found no Steward"):
        load_package(path)
    assert load_package(path, steward=STEWARD).configuration == Configuration()
