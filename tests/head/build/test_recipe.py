# SPDX-License-Identifier: Apache-2.0
"""Recipes: what a good one gives, and where each fault is reported."""

import platform
from pathlib import Path

import pytest

from rookery.errors import ErrorKind, RookeryError
from rookery.head.build.recipe import MOST_TEXT, IdentityRules, Limits, Recipe, RecipeFile, Repository, parse

EXAMPLES = Path(__file__).parents[3] / "examples" / "recipes"
SMALL = """\
distribution = "debian"
suite = "bookworm"
kernel = "linux-image-cloud-amd64"
"""


def read(text: str, base: Path = Path("/nowhere")) -> Recipe:
    return parse(text, "small.toml", base)


def refused(text: str, base: Path = Path("/nowhere")) -> RookeryError:
    with pytest.raises(RookeryError) as caught:
        read(text, base)
    assert caught.value.kind is ErrorKind.INVALID
    return caught.value


def test_what_is_not_said_has_a_default() -> None:
    assert read(SMALL) == Recipe(
        distribution="debian",
        suite="bookworm",
        kernel="linux-image-cloud-amd64",
        architecture=platform.machine(),
    )


def test_everything_that_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "motd").write_bytes(b"\x00binary is fine\xff")
    text = SMALL + (
        'architecture = "aarch64"\nmirror = "http://mirror.example/debian"\ncomponents = ["main", "contrib"]\n'
        'packages = ["less", "vim=2:9.0-1", "nginx/bookworm-backports"]\ncommands = ["echo one\\necho two"]\n'
        'exclude = ["/usr/share/doc/*"]\nkeep = ["/usr/share/doc/*/copyright"]\n'
        '[[files]]\npath = "/etc/motd"\nsource = "motd"\nmode = "0600"\nowner = "daemon:adm"\n'
        '[[files]]\npath = "/etc/issue"\ncontent = "hello\\n"\n'
    )
    recipe = read(text, tmp_path)
    assert recipe.architecture == "aarch64"
    assert recipe.mirror == "http://mirror.example/debian"
    assert recipe.components == ("main", "contrib")
    assert recipe.packages == ("less", "vim=2:9.0-1", "nginx/bookworm-backports")
    assert recipe.commands == ("echo one\necho two",)
    assert (recipe.exclude, recipe.keep) == (("/usr/share/doc/*",), ("/usr/share/doc/*/copyright",))
    assert recipe.files == (
        RecipeFile("/etc/motd", b"\x00binary is fine\xff", 0o600, "daemon:adm"),
        RecipeFile("/etc/issue", b"hello\n", 0o644, "root:root"),
    )


ARMOR = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQ==\n-----END PGP PUBLIC KEY BLOCK-----"


def test_where_packages_come_from() -> None:
    text = SMALL + (
        f'mirror = "http://cache:3142/debian"\nkey = "keys/site.asc"\nproxy = "http://cache:3142"\ngroups = ["core"]\n'
        '[[repositories]]\nname = "site"\nurl = "https://site.example/debian"\nsuites = ["bookworm", "./"]\n'
        f'components = ["main"]\nkey = """\n{ARMOR}\n"""\n'
        '[[repositories]]\nname = "lan"\nurl = "file:///srv/packages"\ntrusted = true\n'
    )
    recipe = read(text)
    assert (recipe.key, recipe.proxy, recipe.groups) == ("/nowhere/keys/site.asc", "http://cache:3142", ("core",))
    assert recipe.repositories == (
        Repository("site", "https://site.example/debian", ARMOR, suites=("bookworm", "./"), components=("main",)),
        Repository("lan", "file:///srv/packages", trusted=True),
    )


@pytest.mark.parametrize(
    ("text", "builder", "field", "value"),
    [
        ("container = 'oci:layout:v1'", "container", "container", "oci:/nowhere/layout:v1"),
        ("container = 'oci:/srv/layout'", "container", "container", "oci:/srv/layout"),
        ("container = 'docker-archive:a.tar'", "container", "container", "docker-archive:/nowhere/a.tar"),
        ("container = 'docker://r.example:5000/a/b:1'", "container", "container", "docker://r.example:5000/a/b:1"),
        ("archive = 'tree.tar.zst'", "archive", "archive", "/nowhere/tree.tar.zst"),
        ("archive = '/srv/tree'", "archive", "archive", "/srv/tree"),
        ("from = 'base:stable'", "from", "from_image", "base:stable"),
        ("from = 'base@3f2a9c01'", "from", "from_image", "base@3f2a9c01"),
    ],
)
def test_other_sources_than_a_package_list(text: str, builder: str, field: str, value: str) -> None:
    recipe = read(f"{text}\npackages = ['less']\ncommands = ['true']\n")
    assert recipe.builder == builder
    assert getattr(recipe, field) == value
    assert recipe.wanted == ("less",)
    assert not recipe.distribution


def test_what_is_taken_out_can_be_changed() -> None:
    recipe = read("archive = '/srv/tree'\n[identity]\nkeep = ['/var/log/install*']\nremove = ['/root/.aws']\n")
    assert recipe.identity == IdentityRules(("/var/log/install*",), ("/root/.aws",))


def test_limits_of_what_is_unpacked() -> None:
    assert read("archive = '/srv/tree'\n[limits]\nbytes = 5\n").limits == Limits(bytes=5)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_the_examples_are_good(path: Path) -> None:
    recipe = parse(path.read_text(), str(path), path.parent)
    assert recipe.builder in (recipe.distribution, "container", "archive", "from")
    assert recipe.kernel or not recipe.distribution


@pytest.mark.parametrize(
    ("text", "line", "fault", "expected"),
    [
        (SMALL + "packages = [", 4, "Invalid value", "TOML"),
        ("distribution = debian\n" + SMALL, 1, "Invalid value", "TOML"),
        (SMALL + "suite = 'trixie'\n", 4, "overwrite", "TOML"),
        (SMALL + "pakages = ['less']\n", 4, "'pakages' is not a key", "'packages', perhaps"),
        (SMALL + "hostname = 'n01'\n", 4, "'hostname' is not a key", "one of distribution, suite"),
        ("packages = ['less']\n", 1, "the recipe has no source", "one of distribution, container, archive, from"),
        (SMALL + "from = 'base'\n", 4, "from cannot go with distribution", "one source"),
        ("archive = '/a'\nmirror = 'http://m'\n", 2, "mirror cannot go with archive", "'distribution' only"),
        ("archive = ''\n", 1, "archive is empty", "a text"),
        ("container = 'debian:12'\n", 1, "'debian:12' is not a container", "'docker://REGISTRY/NAME:TAG'"),
        ("from = 'a b'\n", 1, "'a b' is not an image", "'base:stable'"),
        (SMALL.replace("debian", "from"), 1, "'from' is not a distribution", "'debian'"),
        (SMALL + "proxy = 'cache:3142'\n", 4, "'cache:3142' is not a proxy", "a URL"),
        (SMALL + "key = 'https://a/key'\n", 4, "'https://a/key' is not a public key", "-----BEGIN PGP"),
        (SMALL + "groups = ['a b']\n", 4, "'a b' does not belong in groups", "'core'"),
        (SMALL + "[[repositories]]\nurl = 'http://a'\n", 4, "the key 'name' is missing", "name ="),
        (SMALL + "[[repositories]]\nname = 'a'\n", 4, "the key 'url' is missing", "url ="),
        (SMALL + "[[repositories]]\nname = 'a/b'\nurl = 'http://a'\n", 5, "'a/b' is not a repository's", "letters"),
        (SMALL + "[[repositories]]\nname = 'a'\nurl = 'a'\n", 6, "'a' is not an archive's address", "a URL"),
        (SMALL + "[[repositories]]\nname = 'a'\nurl = 'http://a'\ntrusted = 1\n", 7, "trusted is a number", "true or"),
        (
            SMALL + "[[repositories]]\nname = 'a'\nurl = 'http://a'\nkey = '/k'\ntrusted = true\n",
            8,
            "without a key",
            "e",
        ),
        (SMALL + "[[repositories]]\nname = 'a'\nurl = 'http://a'\nsuites = ['a b']\n", 7, "'a b' does not", "a suite"),
        (SMALL + 2 * "[[repositories]]\nname = 'a'\nurl = 'http://a'\n", 8, "'a' is given twice", "a name for each"),
        (SMALL + "[identity]\nkept = []\n", 5, "'kept' is not a key", "'keep', perhaps"),
        (SMALL + "[identity]\nkeep = ['etc']\n", 5, "'etc' does not belong", "an absolute path pattern"),
        (SMALL + "identity = 1\n", 4, "identity is a number", "a table"),
        (SMALL + "limits = []\n", 4, "limits is a list", "a table [limits]"),
        (SMALL + "[limits]\nfiles = 1\n", 5, "'files' is not a key", "one of entries, bytes"),
        (SMALL + "[limits]\nbytes = 0\n", 5, "'0' is not a limit", "a whole number, 1 or more"),
        (SMALL + "[limits]\nbytes = true\n", 5, "'True' is not a limit", "a whole number, 1 or more"),
        ('distribution = "debian"\nsuite = "bookworm"\n', 1, "the key 'kernel' is missing", 'kernel = "..."'),
        (SMALL.replace('"bookworm"', "12"), 2, "suite is a number", "a text in double quotes"),
        (SMALL.replace('"bookworm"', '""'), 2, "suite is empty", "a text"),
        (SMALL.replace('"bookworm"', '"book worm"'), 2, "'book worm' is not a suite", "a release"),
        (SMALL + "architecture = 'amd64'\n", 4, "'amd64' is not a known architecture", "x86_64 or aarch64"),
        (SMALL + "mirror = 'mirror.example'\n", 4, "'mirror.example' is not", "a URL"),
        (SMALL + "packages = 'less'\n", 4, "packages is a text", "a list of texts"),
        (SMALL + "\npackages = [\n  'less',\n  # a comment\n  'two words',\n]\n", 8, "'two words' is not", "a name"),
        (SMALL + "packages = [\n  'less',\n  7,\n]\n", 4, "in packages is a number", "a text"),
        (SMALL + "commands = ['true', '  ']\n", 4, "does not belong in commands", "a shell command"),
        (SMALL + "components = ['ma in']\n", 4, "'ma in' does not belong", "an archive area"),
        (SMALL + "exclude = ['usr/share']\n", 4, "'usr/share' does not belong", "an absolute path"),
        (SMALL + "files = 'x'\n", 4, "not a list of tables", "[[files]]"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\n[[files]]\npath = 'b'\n", 8, "'b' is not", "an absolute path"),
        (SMALL + "[[files]]\npath = '/a/../b'\ncontent = ''\n", 5, "'/a/../b' is not", "an absolute path"),
        (SMALL + "[[files]]\npath = '/a'\n", 5, "'/a' needs its content once", "either 'content' or 'source'"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\nsource = 'a'\n", 5, "'/a' needs its content once", "either"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\nmode = 644\n", 7, "mode is a number", "a text"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\nmode = 'rw'\n", 7, "'rw' is not a file mode", "octal"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\nowner = 'a b'\n", 7, "'a b' is not an owner", "'user'"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\nmod = '1'\n", 7, "'mod' is not a key", "'mode', perhaps"),
        (SMALL + "[[files]]\ncontent = ''\n", 4, "the key 'path' is missing", "path ="),
        (SMALL + "[[files]]\npath = '/a'\nsource = 'missing'\n", 6, "'missing' cannot be read", "a file below"),
        (SMALL + "[[files]]\npath = '/a'\ncontent = ''\n[[files]]\npath = '/a'\ncontent=''\n", 8, "given twice", "one"),
    ],
)
def test_a_fault_names_file_line_and_what_is_expected(text: str, line: int, fault: str, expected: str) -> None:
    record = refused(text).record
    assert record.message.startswith(f"small.toml:{line}: "), record.message
    assert fault in record.message
    assert expected in record.hint


def test_lines_are_right_after_brackets_quotes_and_comments() -> None:
    text = (
        "# [[files]] path = 1\n"
        'commands = ["""\n'
        "[[files]]\n"
        'path = "not a key"\n'
        '"""]\n' + SMALL + 'exclude = [ # "\n  "/a[b]", "/c # d",\n]\nunknwon = 1\n'
    )
    assert refused(text).record.message.startswith("small.toml:12: 'unknwon' is not a key")


def test_a_recipe_has_a_limit() -> None:
    with pytest.raises(RookeryError) as caught:
        read("#" * (MOST_TEXT + 1))
    assert caught.value.kind is ErrorKind.TOO_LARGE
