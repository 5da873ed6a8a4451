# SPDX-License-Identifier: Apache-2.0
"""Enarx.toml: what each key gives, what is refused, and that a refusal says file, line and key."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enarx.errors import ConfigError
from enarx.wire import (
    DEFAULT,
    ConnectFile,
    Dir,
    EnarxToml,
    Limits,
    ListenFile,
    NullFile,
    Peer,
    StdioFile,
    Tls,
    decode_enarx_toml,
)
from enarx.wire.enarx_toml import MAX_BYTES, MAX_FILES


def decode(text):
    return decode_enarx_toml(text.encode(), path="Enarx.toml")


def refusal_of(text):
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigError) as caught:
        decode_enarx_toml(data, path="Enarx.toml")
    error = caught.value
    assert error.path == "Enarx.toml"
    where = "Enarx.toml" if error.line is None else f"Enarx.toml:{error.line}"
    assert str(error).startswith(f"{where}: {error.key}: " if error.key else f"{where}: ")
    assert "\n" not in str(error)
    return error


def entry(text):
    """Put one entry of `files` on lines 1 and following."""
    return "[[files]]\n" + text


# What a file says


PEERS = f"[tls]\npeers = [{{ package = '{'0' * 64}', tenant = 'any' }}]\n"


@pytest.mark.parametrize("text", ["", "\ufeff", "# nothing\r\n", "args = []\n[env]\n[limits]\n[tls]\n"])
def test_what_is_not_written_has_its_default(text):
    assert decode(text) == DEFAULT


def test_an_absent_files_key_gives_the_standard_streams_and_an_empty_one_gives_none():
    assert decode("args = []").files == DEFAULT.files
    assert decode("files = []").files == ()


def test_reads_a_file_with_the_keys_of_the_original():
    decoded = decode("""
        steward = "https://attest.example.com"
        args = ["--first", "--second=2", ""]
        env = { B = "2", A = "", "with.dot" = "3" }
        [[files]]
        kind = "stdin"
        [[files]]
        kind = "stdout"
        name = "out"
        [[files]]
        kind = "null"
        [[files]]
        kind = "listen"
        name = "ingest"
        prot = "tcp"
        port = 12345
        addr = "127.0.0.1"
        [[files]]
        kind = "connect"
        name = "stream"
        prot = "tls"
        host = "localhost"
        port = 23456
    """)
    assert decoded == EnarxToml(
        steward="https://attest.example.com",
        args=("--first", "--second=2", ""),
        env=(("B", "2"), ("A", ""), ("with.dot", "3")),
        files=(
            StdioFile(kind="stdin", name="stdin"),
            StdioFile(kind="stdout", name="out"),
            NullFile(name="null"),
            ListenFile(name="ingest", prot="tcp", addr="127.0.0.1", port=12345),
            ConnectFile(name="stream", prot="tls", host="localhost", port=23456),
        ),
    )


def test_reads_a_file_shaped_like_the_template_of_the_original():
    # Arguments, Steward, environment and both sockets stand there as comments; the three streams do not.
    original = "\n\n".join(
        [
            "## a heading",
            '# args = [\n#   "--argument"\n# ]',
            '# steward = "https://attest.example.com"',
            '# [env]\n# NAME = "value"',
            *(f'[[files]]\nkind = "{kind}"' for kind in ("stdin", "stdout", "stderr")),
            '# [[files]]\n# name = "listen"\n# kind = "listen"\n# prot = "tls" # or prot = "tcp"\n# port = 12345',
            '# [[files]]\n# name = "stream"\n# kind = "connect"\n# prot = "tls"\n# host = "localhost"\n# port = 23456',
        ]
    )
    assert decode(original) == DEFAULT


@pytest.mark.parametrize(("prot", "port"), [("tls", 443), ("tcp", 80), (None, 443)])
def test_prot_is_tls_and_the_port_follows_prot_unless_written(prot, port):
    line = "" if prot is None else f'prot = "{prot}"\n'
    listen, connect = decode(
        entry(f'kind = "listen"\nname = "a"\n{line}') + entry(f'kind = "connect"\nhost = "b"\n{line}')
    ).files
    assert listen == ListenFile(name="a", prot=prot or "tls", addr="::", port=port)
    assert connect == ConnectFile(name="b", prot=prot or "tls", host="b", port=port)


def test_a_listen_port_may_be_zero_for_one_that_the_system_picks():
    assert decode(entry('kind = "listen"\nname = "a"\nport = 0')).files[0].port == 0
    assert refusal_of(entry('kind = "connect"\nhost = "a"\nport = 0')).key == "files[0].port"


def test_names_that_nobody_chose_for_a_socket_may_repeat():
    text = entry('kind = "null"\n') * 2 + entry('kind = "stdin"\nname = "null"\n')
    text += entry('kind = "connect"\nhost = "b"\nport = 1\n') + entry('kind = "connect"\nhost = "b"\nport = 2')
    assert [file.name for file in decode(text).files] == ["null", "null", "null", "b", "b"]


def test_an_ipv6_host_needs_a_name():
    assert decode(entry('kind = "connect"\nhost = "::1"\nname = "a"')).files[0].host == "::1"
    error = refusal_of(entry('kind = "connect"\nhost = "::1"'))
    assert (error.key, error.line) == ("files[0].name", 1)


def test_reads_the_additions():
    decoded = decode("""
        allow_connect = ["example.com:443", "[::1]:*"]
        dirs = [{ host = "data", guest = "/data", read_only = true }, { host = "/", guest = "/" }]
        [limits]
        memory = "64 MiB"
        timeout = "1m30s"
        fuel = 1_000
        output = 4096
        open_files = 16
        [tls]
        certificate = "c.pem"
        private_key = "k.pem"
        client_auth = "optional"
        trust_anchors = ["a.pem", "b.pem"]
    """)
    assert decoded.allow_connect == ("example.com:443", "[::1]:*")
    assert decoded.dirs == (Dir(host="data", guest="/data", read_only=True), Dir(host="/", guest="/", read_only=False))
    assert decoded.limits == Limits(memory_bytes=64 << 20, timeout_s=90.0, fuel=1000, output_bytes=4096, open_files=16)
    assert decoded.tls == Tls(
        certificate="c.pem", private_key="k.pem", client_auth="optional", trust_anchors=("a.pem", "b.pem")
    )


def test_an_empty_allow_connect_is_not_an_absent_one():
    assert decode("allow_connect = []").allow_connect == ()
    assert decode("").allow_connect is None


def test_peers_are_packages_and_whom_they_run_for():
    one, other = Peer(package="0" * 64, tenant="any"), Peer(package="1" * 64, tenant="2" * 96)
    assert decode(PEERS).tls == Tls(peers=(one,))
    text = f"[tls]\nclient_auth = 'required'\n[[tls.peers]]\npackage = '{'1' * 64}'\ntenant = '{'2' * 96}'"
    assert decode(text).tls == Tls(client_auth="required", peers=(other,))


def test_clients_can_be_certified_by_the_steward_that_is_wanted():
    # Which Steward there is, is said beside the file: `require_steward` looks at both.
    for steward in ("steward = 'https://a'\n", ""):
        assert decode(f"{steward}[tls]\nclient_auth = 'required'").tls == Tls(client_auth="required")


# What is refused


@pytest.mark.parametrize(
    ("text", "key", "line", "nearest"),
    [
        ('\nstewart = "https://a"', "stewart", 2, "steward"),
        ("ARGS = []", "ARGS", 1, "args"),
        ("[environment]", "environment", 1, "found an unknown key"),
        ('[[file]]\nkind = "null"', "file", 1, "files"),
        ("[limits]\nmemmory = 1", "limits.memmory", 2, "memory"),
        ("limits.time = 1", "limits.time", 1, "timeout"),
        ("limits = { memory = 1,\tfule = 1 }", "limits.fule", 1, "fuel"),
        ("[tls]\ncertificates = 1", "tls.certificates", 2, "certificate"),
        ('[[dirs]]\nhost = "a"\nguest = "/a"\nreadonly = true', "dirs[0].readonly", 4, "read_only"),
        ("args = []\n" + entry('kind = "listen"\nname = "a"\nprt = 1'), "files[0].prt", 5, "prot"),
        ('"a\\nb" = 1', "'a\\nb'", 1, "steward"),
    ],
)
def test_refuses_an_unknown_key_with_the_nearest_known_one(text, key, line, nearest):
    error = refusal_of(text)
    assert (error.key, error.line) == (key, line)
    assert nearest in str(error)


def test_says_that_a_top_level_key_stands_too_low():
    error = refusal_of(entry('kind = "stdin"\nsteward = "https://a"'))
    assert error.key == "files[0].steward"
    assert "above the first [table]" in error.hint


@pytest.mark.parametrize(
    ("kind", "key", "owners"),
    [
        ("stdin", "port", "listen or connect"),
        ("null", "prot", "listen or connect"),
        ("listen", "host", "connect"),
        ("connect", "addr", "listen"),
    ],
)
def test_refuses_a_key_of_another_kind_and_says_whose_it_is(kind, key, owners):
    error = refusal_of(entry(f'kind = "{kind}"\n{key} = 1'))
    assert (error.key, error.line) == (f"files[0].{key}", 3)
    assert f"kind {owners} only" in str(error)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("steward = 1", "steward", 1),
        ("args = 'a'", "args", 1),
        ("args = ['a',\n 1]", "args[1]", 2),
        ("env = []", "env", 1),
        ("[env]\nA = 1", "env.A", 2),
        ("[env]\nA = 1979-05-27", "env.A", 2),
        ("[env]\nA.B = 'x'", "env.A", 2),
        ("files = 1", "files", 1),
        ("[files]\nkind = 'null'", "files", 1),
        ("files = [{kind = 'null'},\n 'null']", "files[1]", 2),
        (entry("kind = 1"), "files[0].kind", 2),
        (entry("kind = 'listen'\nname = 'a'\nport = '80'"), "files[0].port", 4),
        (entry("kind = 'listen'\nname = 'a'\nport = true"), "files[0].port", 4),
        (entry("kind = 'listen'\nname = 'a'\nport = 80.0"), "files[0].port", 4),
        ("dirs = {}", "dirs", 1),
        ("[[dirs]]\nhost = 'a'\nguest = '/a'\nread_only = 1", "dirs[0].read_only", 4),
        ("limits = 1", "limits", 1),
        ("[limits]\nfuel = '1'", "limits.fuel", 2),
        ("[limits]\nmemory = true", "limits.memory", 2),
        ("tls = []", "tls", 1),
        ("[tls]\ntrust_anchors = 'a'", "tls.trust_anchors", 2),
        ("allow_connect = 'a:1'", "allow_connect", 1),
    ],
)
def test_refuses_a_value_of_the_wrong_type(text, key, line):
    error = refusal_of(text)
    assert (error.key, error.line) == (key, line)


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ('steward = "http://a"', "steward", 1),
        ('steward = ""', "steward", 1),
        ('steward = "https://"', "steward", 1),
        ('steward = "https://:443"', "steward", 1),
        ('steward = "https:///path"', "steward", 1),
        ('steward = "https://a b"', "steward", 1),
        ('steward = "https://user:secret@a"', "steward", 1),
        ('args = ["a", "secret\\u0000"]', "args[1]", 1),
        ('[env]\n"" = "a"', "env.''", 2),
        ('[env]\n"A=B" = "a"', "env.'A=B'", 2),
        ('[env]\n"A\\u0000" = "a"', "env.'A\\x00'", 2),
        ('[env]\nA = "secret\\u0000"', "env.A", 2),
        (entry("name = 'a'"), "files[0].kind", 1),
        (entry("kind = 'file'"), "files[0].kind", 2),
        (entry("kind = 'null'\nname = ''"), "files[0].name", 3),
        (entry("kind = 'stdin'\nname = 'a:b'"), "files[0].name", 3),
        (entry('kind = "stdin"\nname = "a\\u0000"'), "files[0].name", 3),
        (entry('kind = "stdin"\nname = "a\\u009b"'), "files[0].name", 3),
        (entry("kind = 'listen'"), "files[0].name", 1),
        (entry("kind = 'listen'\nname = 'a'\nprot = 'TLS'"), "files[0].prot", 4),
        (entry("kind = 'listen'\nname = 'a'\nport = 70000"), "files[0].port", 4),
        (entry("kind = 'listen'\nname = 'a'\nport = -1"), "files[0].port", 4),
        (entry("kind = 'listen'\nname = 'a'\naddr = ''"), "files[0].addr", 4),
        (entry("kind = 'listen'\nname = 'a'\naddr = '0.0.0.0:80'"), "files[0].addr", 4),
        (entry("kind = 'listen'\nname = 'a'\naddr = '[::]'"), "files[0].addr", 4),
        (entry("kind = 'connect'"), "files[0].host", 1),
        (entry("kind = 'connect'\nhost = 'a:80'"), "files[0].host", 3),
        (entry("kind = 'connect'\nhost = 'https://a'"), "files[0].host", 3),
        (entry("kind = 'connect'\nhost = 'a'\nport = 65536"), "files[0].port", 4),
        (entry("kind = 'listen'\nname = 'a'\n") * 2, "files[0].name", 3),
        (entry("kind = 'null'\nname = 'a'\n") + entry("kind = 'listen'\nname = 'a'\n"), "files[1].name", 6),
        (
            entry("kind = 'connect'\nhost = 'a'\n") + entry("kind = 'connect'\nhost = 'b'\nname = 'a'"),
            "files[1].name",
            7,
        ),
        ("[[dirs]]\nguest = '/a'", "dirs[0].host", 1),
        ("[[dirs]]\nhost = 'a'", "dirs[0].guest", 1),
        ("[[dirs]]\nhost = ''\nguest = '/a'", "dirs[0].host", 2),
        ("[[dirs]]\nhost = 'a'\nguest = 'a'", "dirs[0].guest", 3),
        ("[[dirs]]\nhost = 'a'\nguest = ''", "dirs[0].guest", 3),
        ("[[dirs]]\nhost = 'a'\nguest = '/a/../b'", "dirs[0].guest", 3),
        ("[[dirs]]\nhost = 'a'\nguest = '/a/'", "dirs[0].guest", 3),
        ("[[dirs]]\nhost = 'a'\nguest = '/a'\n" * 2, "dirs[0].guest", 3),
        ("[limits]\nmemory = '1 XB'", "limits.memory", 2),
        ("[limits]\ntimeout = 0", "limits.timeout", 2),
        ("[limits]\ntimeout = nan", "limits.timeout", 2),
        ("[limits]\nfuel = 0", "limits.fuel", 2),
        ("[limits]\nfuel = 9223372036854775808", "limits.fuel", 2),
        ("[limits]\nfuel = 0x" + "f" * 5000, "limits.fuel", 2),
        ("[limits]\noutput = -1", "limits.output", 2),
        ("[limits]\nopen_files = 0", "limits.open_files", 2),
        ("[tls]\ncertificate = 'a'", "tls.certificate", 2),
        ("[tls]\nprivate_key = 'a'", "tls.private_key", 2),
        ("[tls]\nprivate_key = ''\ncertificate = 'a'", "tls.private_key", 2),
        ("[tls]\nclient_auth = 'always'", "tls.client_auth", 2),
        ("[tls]\npeers = []", "tls.peers", 2),
        (f"[tls]\npeers = [{{ package = '{'0' * 64}' }}]", "tls.peers[0].tenant", 2),
        ("[tls]\npeers = [{ tenant = 'any' }]", "tls.peers[0].package", 2),
        (f"[tls]\npeers = [{{ package = '{'0' * 63}', tenant = 'any' }}]", "tls.peers[0].package", 2),
        (f"[tls]\npeers = [{{ package = '{'0' * 64}', tenant = 'all' }}]", "tls.peers[0].tenant", 2),
        (f"[tls]\npeers = [{{ package = '{'0' * 64}', tenant = 'any', name = 'x' }}]", "tls.peers[0].name", 2),
        (PEERS + "trust_anchors = ['a']", "tls.trust_anchors", 3),
        (PEERS + "private_key = 'a'\ncertificate = 'a'", "tls.certificate", 4),
        (PEERS + "client_auth = 'optional'", "tls.client_auth", 3),
        ("[tls]\ntrust_anchors = []", "tls.trust_anchors", 2),
        ("[tls]\ntrust_anchors = ['']", "tls.trust_anchors", 2),
        ("allow_connect = ['a:1',\n'b']", "allow_connect[1]", 2),
        ("allow_connect = ['']", "allow_connect[0]", 1),
    ],
)
def test_refuses_a_value_that_cannot_be(text, key, line):
    error = refusal_of(text)
    assert (error.key, error.line) == (key, line)
    assert "secret" not in str(error)


def test_a_refusal_is_one_line_that_says_found_and_want():
    text = entry("kind = 'null'\n") * 3 + entry("kind = 'connect'\nhost = 'a'\nport = 70000")
    assert str(refusal_of(text)) == "Enarx.toml:10: files[3].port: found 70000, want 1 to 65535"


def test_refuses_more_entries_than_there_are_descriptors():
    assert len(decode(entry("kind = 'null'\n") * MAX_FILES).files) == MAX_FILES
    assert refusal_of(entry("kind = 'null'\n") * (MAX_FILES + 1)).key == "files"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a b", 1),
        ("args = []\n\nargs = []", 3),
        ("args = [\n'a'\n", 2),
        ("\nx =", 2),
        ("\n\nx = '\n", 3),
        ("args = " + "[" * 50_000, None),
        ("args = " + "{a=" * 50_000, None),
        ("args = " + "1" * 5000, None),
        ("a" + ".a" * 50_000 + " = 1", None),
    ],
)
def test_refuses_what_is_not_toml_with_the_line_where_it_is_known(text, line):
    error = refusal_of(text)
    assert (error.key, error.line) == (None, line)
    assert "syntax: " in str(error)


def test_refuses_text_that_is_not_utf_8_with_its_offset():
    error = refusal_of(b"args = []\n# \xff")
    assert error.line == 2
    assert "0xff at offset 12" in str(error)


def test_refuses_a_file_beyond_the_limit_and_takes_one_at_it():
    assert decode("#" * MAX_BYTES) == DEFAULT
    assert "1000001 bytes, want at most 1000000" in str(refusal_of("#" * (MAX_BYTES + 1)))


# What is written is what is read


names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters=":"), min_size=1, max_size=20
)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
paths = texts.filter(bool)
hosts = st.sampled_from(["localhost", "example.com", "127.0.0.1", "::1", "fd00::7"])
prots = st.sampled_from(["tls", "tcp"])
files = st.one_of(
    st.builds(NullFile, name=names),
    st.builds(StdioFile, kind=st.sampled_from(["stdin", "stdout", "stderr"]), name=names),
    st.builds(ListenFile, name=names, prot=prots, addr=hosts, port=st.integers(0, 65535)),
    st.builds(ConnectFile, name=names, prot=prots, host=hosts, port=st.integers(1, 65535)),
)
limits = st.builds(
    Limits,
    memory_bytes=st.none() | st.integers(0, 2**63 - 1),
    timeout_s=st.none() | st.floats(0.001, 86_400.0),
    fuel=st.none() | st.integers(1, 2**63 - 1),
    output_bytes=st.none() | st.integers(0, 2**63 - 1),
    open_files=st.none() | st.integers(1, 2**20),
)
anchors = st.lists(paths, min_size=1, max_size=3).map(tuple)
key_pairs = st.none() | st.tuples(paths, paths)
tls = st.one_of(
    st.builds(
        lambda pair, auth, anchors: Tls(
            certificate=pair and pair[0], private_key=pair and pair[1], client_auth=auth, trust_anchors=anchors
        ),
        key_pairs,
        st.sampled_from(["none", "optional", "required"]),
        anchors,
    ),
    st.builds(lambda pair: Tls(certificate=pair and pair[0], private_key=pair and pair[1]), key_pairs),
    st.builds(
        Tls,
        client_auth=st.sampled_from(["none", "required"]).filter(lambda mode: mode == "required"),
        peers=st.lists(
            st.builds(
                Peer,
                package=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
                tenant=st.from_regex(r"[0-9a-f]{96}|any", fullmatch=True),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
    ),
)
dirs = st.builds(
    Dir, host=paths, guest=st.from_regex(r"/([a-z]{1,4}(/[a-z]{1,4})?)?", fullmatch=True), read_only=st.booleans()
)
env_names = st.text(st.characters(codec="utf-8", exclude_characters="\0="), min_size=1, max_size=10)
documents = st.builds(
    EnarxToml,
    steward=st.none() | st.sampled_from(["https://a", "https://a.example:8443/x?y#z", "HTTPS://[::1]/"]),
    args=st.lists(texts, max_size=4).map(tuple),
    env=st.dictionaries(env_names, texts, max_size=4).map(lambda env: tuple(env.items())),
    files=st.lists(files, max_size=5, unique_by=lambda file: file.name).map(tuple),
    dirs=st.lists(dirs, max_size=3, unique_by=lambda entry: entry.guest).map(tuple),
    limits=limits,
    tls=tls,
    allow_connect=st.none() | st.lists(st.sampled_from(["a:1", "*:443", "[::1]:*"]), max_size=3).map(tuple),
)


def toml_of(value):
    """Write a string, number, boolean or list of strings as TOML; a JSON string is a basic string but for DEL."""
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_of(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Peer):
        return f'{{ package = "{value.package}", tenant = "{value.tenant}" }}'
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def encode(config):
    """Write a configuration with every key that has a value, headers for tables."""
    lines = [f"{key} = {toml_of(value)}" for key in ("steward", "args", "allow_connect")
             if (value := getattr(config, key)) is not None]  # fmt: skip
    if not config.files:
        lines.append("files = []")
    lines.append("[env]")
    lines += [f"{toml_of(name)} = {toml_of(value)}" for name, value in config.env]
    for file in config.files:
        kinds = {NullFile: "null", ListenFile: "listen", ConnectFile: "connect"}
        fields = {field: getattr(file, field) for field in file.__slots__}
        fields.setdefault("kind", kinds.get(type(file)))
        lines += ["[[files]]", *(f"{field} = {toml_of(value)}" for field, value in fields.items())]
    for entry in config.dirs:
        lines += ["[[dirs]]", *(f"{field} = {toml_of(getattr(entry, field))}" for field in entry.__slots__)]
    for record, keys in ((config.limits, ("memory", "timeout", "fuel", "output", "open_files")),
                         (config.tls, config.tls.__slots__)):  # fmt: skip
        lines.append("[limits]" if record is config.limits else "[tls]")
        for key, field in zip(keys, record.__slots__, strict=True):
            if (value := getattr(record, field)) not in {None, ()}:
                lines.append(f"{key} = {toml_of(value)}")
    return "\n".join(lines).encode()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(documents)
def test_decodes_what_was_written(config):
    assert decode_enarx_toml(encode(config), path="Enarx.toml") == config
